"""The command line, as an operator meets it: real processes, real files, real signals."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import agentsrv
from agentsrv import hardening
from agentsrv.agents.contract import AgentInfo
from agentsrv.doctor import State, login, settings
from agentsrv.logs import JsonLine, TextLine
from tests.fleet.kit import free_port

ROOT = Path(__file__).parents[1]
KEY = "a-key-that-is-long-enough"
TIMEOUT_S = 60


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty directory that is the home and the working directory of the command."""
    return tmp_path


def environment(home: Path, variables: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": str(home), "PYTHONPATH": str(ROOT), "PORT": "0", **variables}


def command(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentsrv", *words],
        cwd=home,
        env=environment(home, variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@contextlib.contextmanager
def serving(home: Path, *words: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real server, ready, and its URL."""
    with serving_by([sys.executable, "-m", "agentsrv"], home, *words, **variables) as server:
        yield server


@contextlib.contextmanager
def serving_by(
    program: list[str], home: Path, /, *words: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*program, "serve", *words],
        cwd=home,
        env=environment(home, variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("agentsrv listening on http://"), process.communicate(timeout=TIMEOUT_S)
            yield process, line.split()[-1]
        finally:
            process.kill()


def read_to(stdout: IO[str] | None, text: str) -> str:
    """What is printed, up to the line that has `text`."""
    assert stdout is not None
    shown = ""
    while text not in shown:
        line = stdout.readline()
        assert line, shown
        shown += line
    return shown


def get(url: str, key: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_version_is_one_line(home: Path) -> None:
    """`agentsrv --version` answers without a configuration."""
    assert command(home, "--version").stdout == f"agentsrv {agentsrv.__version__}\n"


@pytest.mark.parametrize("variables", [{}, {"API_KEY": ""}, {"API_KEY": "your-api-key-here"}])
def test_no_start_without_a_key(home: Path, variables: dict[str, str]) -> None:
    """The server does not start without a key, nor with the placeholder: one line and exit code 78."""
    finished = command(home, "serve", **variables)

    assert finished.returncode == 78
    assert re.fullmatch(r"agentsrv: API_KEY .*agentsrv token.*\n", finished.stderr)
    assert finished.stdout == ""


def test_a_wrong_setting_is_one_line(home: Path) -> None:
    """A mistake in `.env` is told without a traceback."""
    (home / ".env").write_text(f"API_KEY={KEY}\nLOG_LEVEL=loud\n")

    finished = command(home, "serve")

    assert (78, "agentsrv: LOG_LEVEL must be one of: debug, info, warning, error\n") == (
        finished.returncode,
        finished.stderr,
    )


def test_an_interrupt_while_it_begins_is_no_traceback(home: Path) -> None:
    """Ctrl-C may come before the command line is read, too."""
    (home / "argparse.py").write_text("raise KeyboardInterrupt\n")
    finished = command(home, "ps", PYTHONPATH=f"{home}:{ROOT}")

    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


def test_an_interrupt_that_an_import_takes_for_a_failure_is_no_traceback(home: Path) -> None:
    """What is imported for a command may make something else of an exception."""
    (home / "aiohttp.py").write_text(
        "import signal\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except BaseException: raise RuntimeError from None\n"
    )
    finished = command(home, "ps", PYTHONPATH=f"{home}:{ROOT}")

    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


def test_a_port_in_use_is_one_line(home: Path) -> None:
    """The second server on a port says so and exits 78."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        finished = command(home, "serve", API_KEY=KEY, PORT=port)

    assert finished.returncode == 78
    assert f"PORT={port}" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


def test_a_state_directory_serves_one_server(home: Path) -> None:
    """The second server with the same data refuses to start."""
    with serving(home, API_KEY=KEY):
        finished = command(home, "serve", API_KEY=KEY, SHUTDOWN_GRACE="0.1")

    assert finished.returncode == 78
    assert "another server uses" in finished.stderr.splitlines()[-1]


def test_the_next_server_waits_for_the_one_that_leaves(home: Path) -> None:
    """A quick restart, or a host that reloads: the old server still ends when the new one starts."""
    with serving(home, API_KEY=KEY) as (old, _):
        ended = threading.Timer(0.5, old.terminate)
        ended.start()
        with serving(home, API_KEY=KEY, SHUTDOWN_GRACE="60") as (_, url):
            assert 0 == old.wait(60)
            assert 200 == get(f"{url}/health")


@pytest.mark.parametrize("name", ["", "runners", "terminals", "uploads"])
def test_a_link_in_place_of_an_own_directory_is_one_line_and_nothing_is_lost(home: Path, name: str) -> None:
    """What it leads to keeps all that looks like ours, and the message says what to do."""
    precious = home / "precious" / ("0" * 32)
    precious.mkdir(parents=True)
    (precious / "out").write_text("precious")
    state = home / "state"
    if name:
        state.mkdir()
    (state / name if name else state).symlink_to(home / "precious")
    finished = command(home, "serve", API_KEY=KEY, STATE_DIR=str(state), PORT="0")

    assert (78, True) == (finished.returncode, (precious / "out").exists())
    assert "is a link" in finished.stderr.splitlines()[-1]


def test_a_pipe_in_place_of_an_own_directory_does_not_stop_the_start(home: Path) -> None:
    """It is moved aside, and the server starts."""
    (home / "state").mkdir()
    for name in ("uploads", "runners"):
        os.mkfifo(home / "state" / name)
    with serving(home, API_KEY=KEY, STATE_DIR=str(home / "state")):
        assert (home / "state" / "uploads").is_dir()


def test_a_file_that_is_named_as_state_directory_stays(home: Path) -> None:
    """It is somebody's: whoever has named it meant another place."""
    (home / "notes").write_text("precious")
    finished = command(home, "serve", API_KEY=KEY, STATE_DIR=str(home / "notes"))

    assert (78, "precious") == (finished.returncode, (home / "notes").read_text())
    assert f"{home / 'notes'} is not a directory" in finished.stderr.splitlines()[-1]


def test_an_unusable_directory_is_one_line(home: Path) -> None:
    """A file where a directory should be is told without a traceback."""
    (home / "file").touch()

    finished = command(home, "serve", API_KEY=KEY, STATE_DIR=str(home / "file" / "state"))

    assert finished.returncode == 78
    assert "Traceback" not in finished.stderr
    assert str(home / "file") in finished.stderr.splitlines()[-1]


def test_serve_init_makes_a_key_that_works(home: Path) -> None:
    """The first start makes a key, keeps it for its owner alone, and prints it with a command to try."""
    with serving(home, "--init") as (process, url):
        assert process.stdout
        shown = read_to(process.stdout, "/docs")
        key = shown.splitlines()[3].strip()
        status = get(f"{url}/sessions", key)

    assert status == 200
    assert '  agentsrv run "' in shown
    assert f'curl -N {url}/generate/v2 -H "Authorization: Bearer {key}"' in shown.partition("agentsrv run")[2]
    assert (home / ".env").read_text() == f"API_KEY={key}\n"
    assert (home / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("key", ["", KEY], ids=["new", "kept"])
def test_what_serve_init_says_to_try_works_in_another_shell(home: Path, key: str) -> None:
    """Also where the command is not on PATH, and the port is of the environment of the server alone."""
    if key:
        (home / ".env").write_text(f"API_KEY={key}\n")
    program = str(Path(sys.executable).with_name("agentsrv"))
    with serving_by([program], home, "--init") as (process, _):
        shown = read_to(process.stdout, "/docs")
        lines = shown.partition("in this directory:\n")[2].partition("or with nothing but curl")[0]
        tried = subprocess.run(
            ["sh", "-c", lines.replace('run "Which files are here?"', "ps")],
            cwd=home,
            env={"PATH": os.defpath, "HOME": str(home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    assert (0, "there are no sessions\n") == (tried.returncode, tried.stderr)


def test_serve_init_says_no_more_than_is_needed(home: Path) -> None:
    """Where the command and the server are found, nothing has to be told before."""
    (home / ".env").write_text(f"PORT={free_port()}\n")
    with serving(home, "--init", PORT="") as (process, _):
        assert "export" not in read_to(process.stdout, "/docs")


def test_serve_init_tells_which_agent_has_no_credentials(home: Path, fake_agent: Path) -> None:
    """And what to do about it. One that has some is not spoken of."""
    told = {}
    for key in ("", "a-key-of-the-model"):
        with serving(home, "--init", CLAUDE_PATH=str(fake_agent), ANTHROPIC_API_KEY=key) as (process, _):
            told[key] = "claude-code has no credentials: set ANTHROPIC_API_KEY" in read_to(
                process.stdout, "/docs"
            )

    assert told == {"": True, "a-key-of-the-model": False}


def test_serve_init_keeps_the_key_that_is_there(home: Path) -> None:
    """Starting again changes nothing, also when the environment has an empty API_KEY, and says where the key is."""
    (home / ".env").write_text(f"API_KEY={KEY}\n")

    with serving(home, "--init", API_KEY="") as (process, url):
        shown = read_to(process.stdout, "/docs")
        assert get(f"{url}/sessions", KEY) == 200

    assert KEY not in shown
    assert (
        f"""curl -N {url}/generate/v2 -H "Authorization: Bearer $(sed -n 's/^API_KEY=//p' .env)" """ in shown
    )
    assert (home / ".env").read_text() == f"API_KEY={KEY}\n"


def test_the_environment_wins_over_the_file(home: Path) -> None:
    """What the supervisor says counts more than what lies in the directory."""
    (home / ".env").write_text("API_KEY=the-key-of-the-file\n")

    with serving(home, API_KEY=KEY) as (_, url):
        assert (200, 401) == (get(f"{url}/sessions", KEY), get(f"{url}/sessions", "the-key-of-the-file"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(home: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C: exit code 0, no traceback."""
    with serving(home, API_KEY=KEY) as (process, url):
        assert get(f"{url}/health") == 200
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0
    assert "Traceback" not in errors


def end_of(script: str, *, grace_s: float) -> int:
    """The exit code of a process that runs `script` after a first signal."""
    code = f"""
import asyncio, os, signal, threading
from agentsrv.serve import end_within, stop_on_signal

async def main():
    stop = stop_on_signal()
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()
    end_within({grace_s}, stop)
    {script}

asyncio.run(main())
"""
    return subprocess.run([sys.executable, "-c", code], timeout=TIMEOUT_S, check=False, cwd=ROOT).returncode


def test_a_stuck_thread_does_not_hold_up_the_end() -> None:
    """The server is gone when the grace is over, even when something in it never returns."""
    assert end_of("threading.Thread(target=threading.Event().wait).start()", grace_s=0.2) == 0


def test_a_second_signal_ends_the_server_at_once() -> None:
    """Who asks twice does not want to wait."""
    code = end_of("os.kill(os.getpid(), signal.SIGTERM); await asyncio.Event().wait()", grace_s=TIMEOUT_S)

    assert code == 128 + signal.SIGTERM


def test_nobody_reads_secrets_in_proc(home: Path) -> None:
    """Environment block and command line of a running server hold no key and no password, even for root."""
    secrets = {"API_KEY": KEY, "REDIS_URL": "redis://:hunter2@127.0.0.1:1", "ANTHROPIC_API_KEY": "sk-ant-1"}
    with serving(home, **secrets, HARMLESS="still-there") as (process, url):
        get(f"{url}/health")
        seen = (
            Path(f"/proc/{process.pid}/environ").read_bytes()
            + Path(f"/proc/{process.pid}/cmdline").read_bytes()
        )

    assert b"still-there" in seen
    assert [value for value in (KEY, "hunter2", "sk-ant-1") if value.encode() in seen] == []


def test_the_server_is_not_dumpable() -> None:
    """Another process of the same user cannot look into the server's memory."""
    code = (
        "import ctypes; from agentsrv.hardening import hide_secrets; hide_secrets();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )

    assert answer.stdout == "0\n"


def test_a_proc_that_says_little(tmp_path: Path) -> None:
    """Emulators show fewer fields in /proc/self/stat than Linux: then nothing is hidden, and the server starts."""
    stat = tmp_path / "stat"
    stat.write_text("1 (agentsrv) S 0 1 1\n")

    assert list(hardening.block(hardening.ENVIRONMENT, stat)) == []


def test_token_prints_a_new_key_each_time(home: Path) -> None:
    """Long enough, safe to paste, never the same."""
    first, second = (command(home, "token").stdout.strip() for _ in range(2))

    assert first != second
    assert re.fullmatch(r"[\w-]{40,}", first)
    assert not (home / ".env").exists()


def test_token_write_replaces_the_placeholder_only(home: Path) -> None:
    """`cp env.example .env && agentsrv token --write` is a setup; a real key is never overwritten."""
    (home / ".env").write_text("API_KEY=your-api-key-here\nPORT=8080\n")

    key = command(home, "token", "--write").stdout.strip()
    again = command(home, "token", "--write")

    assert (home / ".env").read_text() == f"PORT=8080\nAPI_KEY={key}\n"
    assert (again.returncode, again.stdout) == (78, "")


def test_migrate_needs_no_key_and_tells_what_is_applied(home: Path) -> None:
    """Migrations may run before the first start, as often as one likes."""
    before = command(home, "migrate", "--status").stdout
    after = command(home, "migrate").stdout

    assert "pending  0001.initial" in before
    assert "applied  0001.initial" in after
    assert command(home, "migrate", "--status").stdout == after


def test_doctor_tells_everything_and_what_to_do(home: Path) -> None:
    """All that is not right stands in one table, with advice, and the exit code is 1."""
    finished = command(
        home, "doctor", REDIS_URL="redis://:hunter2@127.0.0.1:1", CLAUDE_PATH="/nowhere/claude"
    )
    rows = {
        line[7:].split("  ")[0]: line[:5].strip() for line in finished.stdout.splitlines() if line[:5].strip()
    }

    assert finished.returncode == 1
    assert {
        "settings": "WRONG",
        "workspace": "ok",
        "state": "ok",
        "database": "ok",
        "redis": "WRONG",
    }.items() <= rows.items()
    assert {"claude-code": "WRONG", "codex": "ok", "codex login": "note"}.items() <= rows.items()
    assert {"port", "git"} <= rows.keys()
    assert "agentsrv token --write" in finished.stdout
    assert "hunter2" not in finished.stdout + finished.stderr


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_doctor_takes_one_agent_for_enough(home: Path) -> None:
    """A second agent that is not installed is a hint; without any, or where a setting names it, it is wrong."""
    claude = program(home / "claude", "echo 2.1.330")
    for package in ("claude_agent_sdk", "codex_cli_bin"):
        (home / f"{package}.py").write_text("# hides the installed one")
    paths = {"PYTHONPATH": f"{home}:{ROOT}", "API_KEY": KEY}

    one = command(home, "doctor", CLAUDE_PATH=claude, **paths)
    none = command(home, "doctor", **paths)
    named = command(home, "doctor", CLAUDE_PATH=claude, CODEX_PATH="/nowhere/codex", **paths)

    assert (0, 1, 1) == (one.returncode, none.returncode, named.returncode)
    assert "note   codex " in one.stdout
    assert "codex was not found; install the `agents` extra or set CODEX_PATH" in one.stdout
    assert "CODEX_PATH is /nowhere/codex" in named.stdout


def test_doctor_knows_agents_that_speak_acp(home: Path) -> None:
    """Those that `agents install` has brought, found on PATH, or written down by me: version, login, and what to do.
    Known ones that are not there are not missed; one of mine is.
    """
    installed = home / "state" / "agents" / "gemini" / "bin"
    installed.mkdir(parents=True)
    gemini = program(installed / "gemini", "echo 0.61.0")
    table = home / "agents.toml"
    mine = '[agents.mine]\ncommand = ["{}"]\ncredentials = ["MY_KEY"]\nlogin = "set MY_KEY"\n'
    table.write_text(mine.format(program(home / "mine", "echo 1.2.3")))
    settings = {"STATE_DIR": str(home / "state"), "AGENTS_FILE": str(table), "API_KEY": KEY}

    bare = command(home, "doctor", **settings)
    ready = command(home, "doctor", GEMINI_API_KEY="g-secret", MY_KEY="m-secret", **settings)
    table.write_text(mine.format("/nowhere/mine"))
    missing = command(home, "doctor", **settings)

    lines = {" ".join(line.split()) for line in bare.stdout.splitlines()}
    assert {f"ok gemini 0.61.0, {gemini}", "note gemini login no credentials found", "-> set MY_KEY"} <= lines
    assert [line for line in lines if "kimi" in line or "opencode" in line] == []
    told = {" ".join(line.split()) for line in ready.stdout.splitlines()}
    assert {"ok gemini login GEMINI_API_KEY", "ok mine login MY_KEY"} <= told
    assert "secret" not in ready.stdout
    assert "/nowhere/mine" in missing.stdout


@pytest.mark.parametrize(("mode", "code"), [("bypass", 0), ("ask", 1)])
def test_doctor_tries_whether_codex_can_confine_its_commands(home: Path, mode: str, code: int) -> None:
    """Where it cannot, that is a hint, unless it is what prompts ask for by default; nothing is left behind."""
    codex = program(home / "codex", 'test "$1" != sandbox && echo 0.163.0')

    finished = command(home, "doctor", API_KEY=KEY, CODEX_PATH=codex, DEFAULT_PERMISSION_MODE=mode)

    assert finished.returncode == code
    assert "codex cannot confine its commands" in finished.stdout
    assert not (home / ".local").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_doctor_looks_at_the_agents_user(home: Path) -> None:
    """May the server become that user, and may that user write where it has to?"""
    finished = command(home, "doctor", API_KEY=KEY, AGENT_USER="54321:54321", WORKSPACE_BASE_PATH=str(home))

    assert 1 == finished.returncode
    assert "WRONG  agent user" in finished.stdout
    assert "WRONG  workspace" in finished.stdout
    assert "ok     state" in finished.stdout


def test_doctor_is_content_with_a_good_machine(home: Path) -> None:
    """Exit code 0, and credentials by their names only."""
    claude = home / "claude"
    claude.write_text("#!/bin/sh\necho '2.1.330 (Claude Code)'\n")
    claude.chmod(0o755)

    finished = command(home, "doctor", API_KEY=KEY, CLAUDE_PATH=str(claude), ANTHROPIC_API_KEY="sk-ant-1")

    assert (0, "") == (finished.returncode, finished.stderr)
    assert f"2.1.330, {claude}" in " ".join(finished.stdout.split())
    assert "ANTHROPIC_API_KEY" in finished.stdout
    assert "sk-ant-1" not in finished.stdout


def test_doctor_looks_where_agents_keep_what_they_remember(home: Path) -> None:
    """A directory that cannot be written to is wrong, for each agent: it would know nothing of yesterday."""
    file = home / "file"
    file.touch()
    claude = home / "claude"
    claude.write_text("#!/bin/sh\necho '2.1.330 (Claude Code)'\n")
    claude.chmod(0o755)
    keys = {"API_KEY": KEY, "ANTHROPIC_API_KEY": "sk-ant-1", "CLAUDE_PATH": str(claude)}

    finished = command(home, "doctor", **keys, CLAUDE_CONFIG_DIR=str(file), CODEX_HOME=str(file))
    told = " ".join(finished.stdout.split())

    assert finished.returncode == 1
    for agent in ("claude-code", "codex"):
        assert f"{agent} records" in told
    assert told.count(f"{file} is not a writable directory") == 2


def test_doctor_advises_on_each_warning(home: Path) -> None:
    """What is unwise and works is a note of its own, which says what to do about it."""
    found = list(settings({"API_KEY": "short-one", "HOST": "0.0.0.0", "HOME": str(home)}))
    told = [finding.detail for finding in found if finding.state is State.NOTE]

    assert not any(finding.is_wrong for finding in found)
    for word, advice in (
        ("API_KEY", "agentsrv token"),
        ("ALLOWED_HOSTS", "list the names"),
        ("STATE_DIR", "move one"),
    ):
        [warning] = [each for each in told if each.startswith(word)]
        assert advice in warning


def test_doctor_knows_no_agent_by_its_name() -> None:
    """An agent that was added says itself how to log in to it."""
    finding = login(AgentInfo("third", available=True, login="say please"))

    assert ("third login", "say please") == (finding.subject, finding.advice)


def record(message: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": "agentsrv.access",
            "levelname": "INFO",
            "msg": message,
            "created": 0.0,
            "msecs": 0.0,
            **fields,
        }
    )


def test_a_json_log_line_is_one_object() -> None:
    """Machines read every line by itself, whatever a client sent."""
    line = JsonLine().format(record('GET /"\n{', ms=1.5))

    assert {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "info",
        "logger": "agentsrv.access",
        "message": 'GET /"\n{',
        "ms": 1.5,
    } == json.loads(line)


def test_a_text_log_line_cannot_be_forged() -> None:
    """Control characters of a client neither begin a new line nor drive the terminal."""
    line = TextLine().format(record("GET /\n\x1b[31m", peer="\r::1", status=200))

    assert line == r"1970-01-01T00:00:00.000Z info agentsrv.access GET /\n\x1b[31m peer=\r::1"


@pytest.mark.parametrize(
    ("name", "variable", "words"),
    [("claude", "CLAUDE_PATH", "auth login"), ("codex", "CODEX_PATH", "login")],
)
def test_a_bundled_agent_logs_in_by_its_own_program(
    home: Path, tmp_path: Path, name: str, variable: str, words: str
) -> None:
    """On this terminal, with the directories that it will have as an agent; its failure is told."""
    program = tmp_path / name
    program.write_text(
        '#!/bin/sh\necho "$@" "$HOME" "$CODEX_HOME" > "$HOME/seen"; test -z "$CODEX_HOME" -o -d "$CODEX_HOME"\n'
    )
    program.chmod(0o755)
    finished = command(home, "agents", "login", name, **{variable: str(program)})
    program.write_text("#!/bin/sh\nexit 3\n")
    failed = command(home, "agents", "login", name, **{variable: str(program)})

    seen = (home / "seen").read_text()
    assert (finished.returncode, finished.stdout) == (0, "Logged in.\n")
    assert seen.startswith(f"{words} {home}")
    assert ("/codex" in seen) == (name == "codex")
    assert (failed.returncode, failed.stderr) == (78, f"agentsrv: {name} {words} ended with exit code 3\n")
