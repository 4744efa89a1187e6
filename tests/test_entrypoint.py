"""entrypoint.sh without an image: its steps in a directory of the test's own, with small programs for the real ones.

What needs root, namespaces or the real programs is tried in tests/image.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit import ROOT, wait_until

NOT_ROOT = '#!/bin/sh\n[ "${1:-}" = -u ] && echo 1001\n'
SERVER = '#!/bin/sh\nenv >"$HOME/server.env"\ntrap "exit 0" TERM\necho serving >>"$HOME/starts"\n%s\n'
WAITING = "sleep 60 & wait $!"
REDIS = f"""#!/bin/sh
cat >"$HOME/redis.conf"
touch "$(sed -n 's/^unixsocket //p' "$HOME/redis.conf")"
{WAITING}
"""


@dataclass(slots=True)
class Entrypoint:
    """One run of the script as a user who is not root: every part is that user."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def starts(self) -> int:
        """How often the server was started."""
        file = self.home / "starts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def program(self, name: str, text: str) -> Path:
        path = self.directory / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, server: str = WAITING) -> None:
        self.home.mkdir(exist_ok=True)
        self.program("id", NOT_ROOT)
        self.program("agentsrv", SERVER % server)
        self.program("redis-server", REDIS)
        variables = {
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",  # noqa: TID251
            "APP_HOME": str(self.home),
            "RUN_DIR": str(self.directory / "run"),
            "ETC_DIR": str(ROOT / "image"),
            "CGROUPS": str(self.directory / "cgroups"),
            "OWN_CGROUP": str(self.directory / "own_cgroup"),
            "LITELLM": str(self.directory / "bin" / "litellm"),
            "REDIS_URL": "redis://elsewhere",
        }
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(ROOT / "entrypoint.sh")],
                env=variables | self.environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def ended(self) -> int:
        assert self.process is not None
        return self.process.wait(30)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def serve(self, server: str = WAITING) -> None:
        """Start, and wait until the server has."""
        self.start(server)
        wait_until(lambda: self.starts or self.process is None or self.process.poll() is not None)
        assert self.starts, self.log

    def server_environment(self) -> dict[str, str]:
        lines = (self.home / "server.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def entrypoint(tmp_path: Path) -> Iterator[Entrypoint]:
    run = Entrypoint(tmp_path)
    yield run
    if run.process is not None:
        try:
            os.killpg(run.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        run.process.wait(10)


def test_is_posix_sh() -> None:
    """It begins with its shebang, and a strict shell can read it."""
    text = (ROOT / "entrypoint.sh").read_text()

    assert text.startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in text
    assert subprocess.run(["/bin/sh", "-n", ROOT / "entrypoint.sh"], check=False).returncode == 0


EARLIER = """
    PORT HOST NODE_ENV API_KEY ALLOWED_ORIGINS APP_VERSION FILESYSTEM_DEFAULT_DEPTH FILESYSTEM_MAX_DEPTH DATABASE_PATH
    REDIS_URL ANTHROPIC_API_KEY USE_CLAUDE_CREDENTIALS ANTHROPIC_BASE_URL CODEX_HOME CODEX_BASE_URL
    CUSTOM_SERVER_BASE_URL CODEX_DEFAULT_PROVIDER CODEX_DEFAULT_MODEL AUTHORIZED_KEYS SSH_PUBLIC_KEY SSH_PASSWORD
    ROOT_PASSWORD PRESERVE_SSH_ON_SHUTDOWN GITHUB_TOKEN
"""


@pytest.mark.parametrize("variable", EARLIER.split())
def test_variables_of_the_earlier_image_have_their_line(variable: str) -> None:
    """docs/drop-in.md says of each what became of it."""
    assert re.search(rf"^\| [^|]*`{variable}`", (ROOT / "docs" / "drop-in.md").read_text(), re.MULTILINE)


def test_stop(entrypoint: Entrypoint) -> None:
    """SIGTERM ends the server, and its exit code is the container's."""
    entrypoint.serve()

    assert entrypoint.stop() == 0
    assert entrypoint.log.splitlines()[-1] == "entrypoint: ended with 0"


def test_server_that_ends_badly_when_stopped(entrypoint: Entrypoint) -> None:
    """A server that could not end in order is told to whoever stopped it."""
    entrypoint.serve(f"trap 'exit 3' TERM; {WAITING}")

    assert entrypoint.stop() == 3


@pytest.mark.parametrize(("signal_name", "code"), [("KILL", 137), ("BUS", 135)])
def test_dead_server_is_started_again(entrypoint: Entrypoint, signal_name: str, code: int) -> None:
    """BUS: somebody has cut a file short that SQLite maps."""
    entrypoint.serve(f'[ "$(wc -l <"$HOME/starts")" = 2 ] || kill -{signal_name} $$; ' + WAITING)
    wait_until(lambda: entrypoint.starts == 2)

    assert f"server: ended with {code}, starts again in 1 s" in entrypoint.log
    assert entrypoint.stop() == 0


def test_stop_while_the_server_is_down(entrypoint: Entrypoint) -> None:
    """Nobody waits for the pause before the next start."""
    entrypoint.serve("exit 1")
    wait_until(lambda: "starts again in 4 s" in entrypoint.log)
    began = time.monotonic()

    assert entrypoint.stop() == 1
    assert time.monotonic() - began < 3


SOCKET = """
echo $$ >"$HOME/pid"
python3 -c 'import socket; print(socket.socket(fileno=3).getsockname()[1])' >>"$HOME/port"
[ "$(wc -l <"$HOME/starts")" = 2 ] || exit 1
"""


def test_port_is_held_while_there_is_no_server(entrypoint: Entrypoint) -> None:
    """Each server gets the same socket; nobody else can take it before SIGTERM, and all can afterwards."""
    entrypoint.environment.update(HOST="0.0.0.0", PORT="0")
    entrypoint.serve(f"{SOCKET}exec 3<&-\n{WAITING}")  # what it leaves running shall not hold the port
    wait_until(lambda: "starts again" in entrypoint.log)
    port = int((entrypoint.home / "port").read_text().split()[0])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("0.0.0.0", port))
    wait_until(lambda: entrypoint.starts == 2 and len((entrypoint.home / "port").read_text().split()) == 2)
    told = (entrypoint.home / "server.env").read_text().split()

    assert (entrypoint.home / "port").read_text() == f"{port}\n{port}\n"
    assert {"LISTEN_FDS=1", f"LISTEN_PID={(entrypoint.home / 'pid').read_text().strip()}"} <= set(told)
    assert entrypoint.stop() == 0
    with socket.create_server(("0.0.0.0", port)):
        pass


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "unix:/tmp/socket", ""])
def test_what_the_server_opens_itself(entrypoint: Entrypoint, host: str) -> None:
    """Names, both loopback addresses, and Unix sockets."""
    entrypoint.environment.update(HOST=host)
    entrypoint.serve()

    assert "LISTEN_FDS" not in (entrypoint.home / "server.env").read_text()


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", "3000"), ("0.0.0.0", "none"), ("0.0.0.0", "70000")])
def test_port_that_cannot_be_had(entrypoint: Entrypoint, host: str, port: str) -> None:
    """One line that names the settings, and 78."""
    entrypoint.environment.update(HOST=host, PORT=port)
    entrypoint.start()

    assert entrypoint.ended() == 78
    assert f"cannot listen on HOST={host} PORT={port}: " in entrypoint.log


def test_server_that_cannot_start(entrypoint: Entrypoint) -> None:
    """Exit code 78 means that another start would end the same way."""
    entrypoint.start("exit 78")

    assert entrypoint.ended() == 78
    assert entrypoint.starts == 1


def test_volume_that_cannot_be_written(entrypoint: Entrypoint) -> None:
    entrypoint.program("test", "#!/bin/sh\nexit 1\n")
    entrypoint.start()

    assert entrypoint.ended() == 78
    assert "user 1001 cannot write to" in entrypoint.log


def test_redis_is_started_with_a_password(entrypoint: Entrypoint) -> None:
    """Without REDIS_URL the server gets one, on a socket; it is gone with the server."""
    entrypoint.environment["REDIS_URL"] = ""
    entrypoint.serve()
    settings = dict(line.split(" ", 1) for line in (entrypoint.home / "redis.conf").read_text().splitlines())
    password, socket = settings["requirepass"], settings["unixsocket"]

    assert entrypoint.server_environment()["REDIS_URL"] == f"unix://:{password}@{socket}"
    assert (len(password), settings["port"]) == (48, "0")
    assert entrypoint.stop() == 0


def test_redis_of_somebody_else(entrypoint: Entrypoint) -> None:
    entrypoint.serve()

    assert entrypoint.server_environment()["REDIS_URL"] == "redis://elsewhere"
    assert not (entrypoint.home / "redis.conf").exists()


@pytest.mark.parametrize("path", [".claude.json", ".claude/.credentials.json"])
def test_files_of_the_agents_are_not_overwritten(entrypoint: Entrypoint, path: str) -> None:
    credentials = entrypoint.directory / "given.json"
    credentials.write_text("theirs")
    entrypoint.environment.update(USE_CLAUDE_CREDENTIALS="true", CREDENTIALS_FILE=str(credentials))
    (entrypoint.home / path).parent.mkdir(parents=True)
    (entrypoint.home / path).write_text("mine")
    entrypoint.serve()

    assert (entrypoint.home / path).read_text() == "mine"


def test_link_in_the_place_of_a_file(entrypoint: Entrypoint) -> None:
    """An agent may have left a link there: nothing is written through it."""
    entrypoint.home.mkdir()
    (entrypoint.home / ".claude.json").symlink_to(entrypoint.directory / "elsewhere")
    entrypoint.serve()

    assert not (entrypoint.directory / "elsewhere").exists()


def test_mounted_credentials_are_taken(entrypoint: Entrypoint) -> None:
    credentials = entrypoint.directory / "given.json"
    credentials.write_text("login")
    entrypoint.environment.update(USE_CLAUDE_CREDENTIALS="true", CREDENTIALS_FILE=str(credentials))
    entrypoint.serve()
    taken = entrypoint.home / ".claude" / ".credentials.json"

    assert taken.read_text() == "login"
    assert taken.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("given", "passed_on"), [("", "GITHUB_TOKEN"), ("FOO", "FOO,GITHUB_TOKEN")])
def test_github_token_reaches_agents(entrypoint: Entrypoint, given: str, passed_on: str) -> None:
    """Git in the image asks for it by a credential helper; no file has it."""
    entrypoint.environment.update(GITHUB_TOKEN="ghp_1", AGENT_ENV=given)
    entrypoint.serve()

    assert entrypoint.server_environment()["AGENT_ENV"] == passed_on
    assert "ghp_1" not in entrypoint.log


def test_credential_helper_of_git() -> None:
    """It answers `get` with the token of the environment, and nothing without one."""
    helper = ROOT / "image" / "git-credential-github-token"

    def ask(word: str, **environment: str) -> str:
        return subprocess.run(
            [helper, word], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert ask("get", GITHUB_TOKEN="ghp_1") == "username=x-access-token\npassword=ghp_1\n"
    assert (ask("get"), ask("store", GITHUB_TOKEN="ghp_1"), ask("erase", GITHUB_TOKEN="ghp_1")) == (
        "",
        "",
        "",
    )


def test_ssh_needs_root(entrypoint: Entrypoint) -> None:
    """Its secrets do not reach the server either."""
    entrypoint.environment.update(
        SSH_PASSWORD="secret", ROOT_PASSWORD="secret", SSH_PUBLIC_KEY="ssh-ed25519 A"
    )
    entrypoint.serve()

    assert "ssh: not started" in entrypoint.log
    assert "ROOT_PASSWORD is not used" in entrypoint.log
    assert "secret" not in entrypoint.server_environment().values()


def helper_environment(entrypoint: Entrypoint) -> dict[str, str]:
    lines = (entrypoint.directory / "run" / "helper.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def with_helper(entrypoint: Entrypoint) -> Callable[..., None]:
    """Start with a LiteLLM that says what it was given."""

    def start(**environment: str) -> None:
        script = f'#!/bin/sh\nenv >"$HOME/env"\nmv "$HOME/env" "$HOME/helper.env"\n{WAITING}\n'
        entrypoint.program("litellm", script)
        entrypoint.environment.update(environment)
        entrypoint.serve()

    return start


def test_helper_sees_provider_keys_alone(entrypoint: Entrypoint, with_helper: Callable[..., None]) -> None:
    """The LLM helper has the providers' keys and its own; the server knows where it is."""
    secrets = {"API_KEY": "k", "GITHUB_TOKEN": "g", "REDIS_URL": "redis://u:p@h", "TERMINAL_JWT_SECRET": "t"}
    keys = {"GEMINI_API_KEY": "g1 with a blank", "ANTHROPIC_API_KEY": "a1"}
    with_helper(LLM_SERVER="true", **secrets, **keys)
    wait_until(lambda: (entrypoint.directory / "run" / "helper.env").exists())
    seen, server = helper_environment(entrypoint), entrypoint.server_environment()

    assert seen.items() >= keys.items()
    assert not seen.keys() & secrets.keys()
    assert seen["LITELLM_MASTER_KEY"] == server["LLM_SERVER_KEY"]
    assert server["LLM_SERVER_URL"] == "http://127.0.0.1:4141"


@pytest.mark.parametrize(
    ("environment", "is_wanted"),
    [
        ({}, False),
        ({"LLM_SERVER": "true"}, True),
        ({"LLM_CONFIG": "/dev/null"}, True),
        ({"ANTHROPIC_MODEL": "gemini/pro"}, True),
        ({"CODEX_DEFAULT_MODEL": "mistral/large"}, True),
        ({"ANTHROPIC_MODEL": "opus"}, False),
        ({"LLM_SERVER": "false", "ANTHROPIC_MODEL": "gemini/pro"}, False),
        ({"LLM_SERVER_URL": "http://llm:4000", "ANTHROPIC_MODEL": "gemini/pro"}, False),
    ],
)
def test_when_the_helper_starts(
    entrypoint: Entrypoint, with_helper: Callable[..., None], environment: dict[str, str], is_wanted: bool
) -> None:
    """By its switch, its file, or a model that only it can reach, unless there is another one."""
    with_helper(**environment)

    assert ("llm helper: starting" in entrypoint.log) is is_wanted


def test_configuration_of_the_helper_that_cannot_be_read(
    entrypoint: Entrypoint, with_helper: Callable[..., None]
) -> None:
    """One line says whose eyes it is closed to; the server starts without the helper."""
    with_helper(LLM_CONFIG="/nonexistent/llm.yaml")

    assert "its user 1001 cannot read LLM_CONFIG=/nonexistent/llm.yaml" in entrypoint.log
    assert "LLM_SERVER_URL" not in entrypoint.server_environment()


def test_helper_that_is_not_in_the_image(entrypoint: Entrypoint) -> None:
    """The server starts without it, and the log says what to do."""
    entrypoint.environment["LLM_SERVER"] = "true"
    entrypoint.serve()

    assert "use the one without -slim" in entrypoint.log
    assert "LLM_SERVER_URL" not in entrypoint.server_environment()


def limit_memory(entrypoint: Entrypoint, file: str, limit: str, own: str) -> None:
    (entrypoint.directory / "own_cgroup").write_text(own)
    path = entrypoint.directory / "cgroups" / file
    path.parent.mkdir(parents=True)
    path.write_text(f"{limit}\n")


V1 = "9:memory:/docker/4a\n0::/\n"
SHARED = "0::/system.slice/docker-4a.scope\n"


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("memory.max", "0::/\n"),
        ("system.slice/docker-4a.scope/memory.max", SHARED),
        ("memory/memory.limit_in_bytes", V1),
    ],
)
def test_little_memory(entrypoint: Entrypoint, with_helper: Callable[..., None], file: str, own: str) -> None:
    """512 MB in cgroup v2, also without a namespace, or v1: one line says so, no helper, and the server starts."""
    limit_memory(entrypoint, file, str(512 << 20), own)
    with_helper(LLM_SERVER="true")

    assert "a limit of 512 MB is too small for an agent" in entrypoint.log
    assert "llm helper: not started" in entrypoint.log


@pytest.mark.parametrize(
    ("file", "limit", "own"),
    [
        ("memory.max", "max", "0::/\n"),
        ("memory.max", str(512 << 20), SHARED),
        ("memory/memory.limit_in_bytes", "9223372036854771712", V1),
    ],
)
def test_no_limit(
    entrypoint: Entrypoint, with_helper: Callable[..., None], file: str, limit: str, own: str
) -> None:
    """How cgroup v2 and v1 say that a container may take all there is; the limit of somebody else is not ours."""
    limit_memory(entrypoint, file, limit, own)
    with_helper(LLM_SERVER="true")

    assert "memory:" not in entrypoint.log
    assert "llm helper: starting" in entrypoint.log


def test_server_that_does_not_stay(entrypoint: Entrypoint) -> None:
    """A server that is killed again and again ends the container, and the log says why that may be."""
    entrypoint.environment.update(MAX_QUICK_DEATHS="2")
    entrypoint.start("kill -KILL $$")

    assert entrypoint.ended() == 137
    assert "takes more memory than the container may have" in entrypoint.log
