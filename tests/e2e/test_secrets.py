"""Who may see what: keys, prompts, the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import OPENAI_KEY, ServerMaker
from tests.fakes.responses_api import ResponsesApi
from tests.kit import KEY, Server, all_pids, script, wait_until

pytestmark = pytest.mark.program

PROMPT = "my-private-prompt-7261"
SYSTEM_PROMPT = "my-private-system-prompt-9153"


def command_lines() -> str:
    found = []
    for pid in all_pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def test_agent_gets_no_secret_of_the_server(make_server: ServerMaker) -> None:
    """An agent's environment is an allow-list: no API key, no Redis password, nothing unknown, but what it needs."""
    server = make_server(
        REDIS_URL="redis://:redis-password@127.0.0.1:1/0",
        TERMINAL_JWT_SECRET="terminal-secret-0123456789abcdef",
        SOMETHING_PRIVATE="private",
        ANTHROPIC_API_KEY="model-key",
        PASSED_BY_NAME="passed",
        AGENT_ENV="PASSED_BY_NAME",
    )
    events = server.generate(script("echo")).rest()
    environment = next(event.json["env"] for event in events if event.type == "fake")

    assert not {"API_KEY", "REDIS_URL", "TERMINAL_JWT_SECRET", "SOMETHING_PRIVATE"} & set(environment)
    assert (environment["ANTHROPIC_API_KEY"], environment["PASSED_BY_NAME"]) == ("model-key", "passed")
    assert KEY not in str(environment)
    assert "redis-password" not in str(environment)


def test_server_has_wiped_its_key(server: Server) -> None:
    """Not even root finds the API key in /proc/<server>/environ or on a command line; nor in its helpers."""
    pids = [server.pid, *server.processes()]

    assert [KEY.encode() in Path(f"/proc/{pid}/environ").read_bytes() for pid in pids] == [False] * len(pids)
    assert KEY not in command_lines()


@pytest.mark.parametrize(
    "settings", [{}, {"LOG_LEVEL": "debug", "LOG_FORMAT": "json"}], ids=["info", "debug"]
)
def test_prompts_stay_out_of_ps_and_logs(make_server: ServerMaker, settings: dict[str, str]) -> None:
    """Neither `ps` nor the server's log, however much it tells, shows prompts, system prompts or keys."""
    server = make_server(**settings)
    with server.generate(f"{PROMPT}\n" + script("hang"), system_prompt=SYSTEM_PROMPT) as stream:
        stream.until(lambda event: event.json.get("subtype") == "init")
        lines = command_lines()
        server.stop().body()
    server.ask("GET", f"/sessions?key={KEY}").body()

    assert [secret in lines for secret in (PROMPT, SYSTEM_PROMPT, KEY)] == [False] * 3
    assert [secret in server.log for secret in (PROMPT, SYSTEM_PROMPT, KEY)] == [False] * 3


def test_state_is_for_the_owner_only(server: Server) -> None:
    """Database, spools and sockets cannot be read by other users."""
    server.generate("hi").rest()
    open_to_others = [
        path
        for path in (server.directory / "state").rglob("*")
        if path.stat().st_mode & 0o077 and not path.is_dir()
    ]

    assert os.stat(server.directory / "state").st_mode & 0o777 == 0o700
    assert open_to_others == []


def test_prompt_reaches_the_agent_byte_for_byte(server: Server) -> None:
    """Whatever a prompt holds, the agent reads exactly that, and nothing of it is taken as an option or a command."""
    prompt = (
        script("echo") + "\n--resume $(id) `id` ; rm -rf . \t \u2028 \U0001f600 \\ \" ' %s \r\n end \x1b[0m"
    )
    events = server.generate(prompt).rest()
    seen = next(event.json for event in events if event.type == "fake")

    assert json.loads(seen["stdin"])["message"]["content"][0]["text"] == prompt
    assert "--resume" not in " ".join(seen["argv"])


PLAIN = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
"""As a user that is not root: its processes may look into each other, unless one of them forbids it."""


def test_the_key_of_codex_is_in_memory_alone(
    tmp_path: Path, real_codex: Path, responses: ResponsesApi
) -> None:
    """In no environment, no argument, no file; and commands of its agent cannot look into its runner or the server."""
    (directory := tmp_path / "server").mkdir()
    settings = {
        "CODEX_PATH": str(real_codex),
        "OPENAI_BASE_URL": f"{responses.url}/v1",
        "OPENAI_API_KEY": OPENAI_KEY,
    }
    server = Server(directory, Path("/bin/true"), settings, command=(*PLAIN, sys.executable)).start()
    try:
        stream = server.generate(script("bash tail -f /dev/null"), agent="codex")
        stream.until(lambda event: "tail -f" in str(event.json.get("params")))
        wait_until(lambda: any(b"tail" in arguments_of(pid) for pid in server.processes()))
        command = next(pid for pid in server.processes() if b"tail" in arguments_of(pid))
        runners = [pid for pid in server.processes() if b"runner/child" in arguments_of(pid)]
        seen = [can_look_into(pid) for pid in (command, server.pid, *runners)]
        told = [OPENAI_KEY.encode() in environment_of(pid) + arguments_of(pid) for pid in server.processes()]
        found = subprocess.run(["grep", "-rlF", OPENAI_KEY, str(directory)], capture_output=True, check=False)
        server.stop().body()
    finally:
        server.close()

    assert runners
    assert seen == [True, False, *[False] * len(runners)]
    assert (any(told), found.stdout) == (False, b"")


def can_look_into(pid: int) -> bool:
    look = subprocess.run([*PLAIN, "head", "-c", "1", f"/proc/{pid}/maps"], capture_output=True, check=False)
    return look.stdout != b""


def arguments_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
