"""What agents, terminals and logins can reach of the container's inside: nothing of the server's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image.conftest import ContainerMaker
from tests.kit import KEY, script

PROBE = """
id -un
grep -rls {key} /proc/[0-9]*/environ /proc/[0-9]*/cmdline /run /tmp /home/appuser /etc 2>/dev/null
cat /home/appuser/data/agent_ts.db | head -c 6
ls /home/appuser/data /home/appuser/.agentsrv /run/agentsrv/redis
mv /home/appuser/data /home/appuser/elsewhere && echo moved
for pid in $(pgrep -f 'agentsrv --env-file|redis-server|entrypoint'); do kill -0 $pid && echo signalled; done
redis-cli -s /run/agentsrv/redis/redis.sock ping
"""


TAKE_PORT = """
import socket
for host in ("0.0.0.0", "127.0.0.1", "::"):
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taker:
            taker.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                taker.bind((host, 3000))
                taker.listen()
                print("taken", host, option)
            except OSError as exc:
                print(exc.errno)
"""


def test_agents_cannot_take_the_port(make_agents: ContainerMaker) -> None:
    """Whoever has it gets the keys of all who call."""
    container = make_agents()
    container.start_healthy()
    (container.volume / "take.py").write_text(TAKE_PORT)
    job = container.job(script("bash python3 /home/appuser/take.py > /home/appuser/seen 2>&1"))

    assert job["status"] == "completed", job
    assert set((container.volume / "seen").read_text().split()) <= {"98", "97"}


@pytest.mark.parametrize("agent", ["claude-code", "codex"])
def test_agents_reach_nothing_of_the_server(make_agents: ContainerMaker, agent: str) -> None:
    """Key, database, state, Redis and processes are out of an agent's reach, in `bypass` mode, too."""
    container = make_agents(REDIS_URL="")
    container.start_healthy()
    probe = container.volume / "probe.sh"
    probe.write_text(PROBE.format(key=KEY))
    job = container.job(
        script("bash sh /home/appuser/probe.sh > /home/appuser/seen 2>/dev/null"), agent=agent
    )

    assert job["status"] == "completed", job
    # The probe itself has the key in it.
    assert (container.volume / "seen").read_text().splitlines() == ["agent", "/home/appuser/probe.sh"]


def test_no_secret_is_written(make_agents: ContainerMaker) -> None:
    """Keys of the environment are in no file, in the volume or beside it."""
    secrets = {
        "GITHUB_TOKEN": "ghp_secret_1",
        "GEMINI_API_KEY": "gemini_secret_2",
        "TERMINAL_JWT_SECRET": "t" * 40,
    }
    container = make_agents()
    container.environment.update(secrets)
    container.start_healthy()
    container.job(script("text hello"))
    container.job(script("text hello"), "other", agent="codex")
    wanted = "|".join([KEY, *secrets.values(), "fake-anthropic-key", "fake-openai-key"])
    found = container.run("grep", "-rlE", wanted, "/home/appuser", "/run", "/tmp", "/etc", user="root").stdout

    assert found == ""


def test_git_uses_the_token(make_agents: ContainerMaker) -> None:
    """Git in an agent's hands logs in at github.com with GITHUB_TOKEN, and nowhere else."""
    container = make_agents(GITHUB_TOKEN="ghp_token")
    container.start_healthy()
    ask = "printf 'protocol=https\\nhost={host}\\n\\n' | GIT_TERMINAL_PROMPT=0 git credential fill"
    command = "; ".join(ask.format(host=host) for host in ("github.com", "example.com"))
    container.job(script(f"bash ({command}) > /home/appuser/seen 2>&1"))

    assert Path(container.volume / "seen").read_text().count("password=ghp_token") == 1
