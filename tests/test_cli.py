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
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentsrv
from agentsrv.agents.base import AgentInfo
from agentsrv.doctor import login
from agentsrv.logs import JsonLine, TextLine

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
    process = subprocess.Popen(
        [sys.executable, "-m", "agentsrv", "serve", *words],
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
        finished = command(home, "serve", API_KEY=KEY)

    assert finished.returncode == 78
    assert "another server uses" in finished.stderr.splitlines()[-1]


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
        shown = [process.stdout.readline() for _ in range(8)]
        key = shown[3].strip()
        status = get(f"{url}/sessions", key)

    assert status == 200
    assert f'curl -N {url}/generate/v2 -H "Authorization: Bearer {key}"' in "".join(shown)
    assert (home / ".env").read_text() == f"API_KEY={key}\n"
    assert (home / ".env").stat().st_mode & 0o777 == 0o600


def test_serve_init_keeps_the_key_that_is_there(home: Path) -> None:
    """Starting again changes nothing, also when the environment has an empty API_KEY."""
    (home / ".env").write_text(f"API_KEY={KEY}\n")

    with serving(home, "--init", API_KEY="") as (_, url):
        assert get(f"{url}/sessions", KEY) == 200

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
from agentsrv.serve import stop_on_signal

async def main():
    stop = stop_on_signal({grace_s})
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()
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


@pytest.mark.parametrize(("mode", "code"), [("bypass", 0), ("ask", 1)])
def test_doctor_tries_whether_codex_can_confine_its_commands(home: Path, mode: str, code: int) -> None:
    """Where it cannot, that is a hint, unless it is what prompts ask for by default; nothing is left behind."""
    codex = program(home / "codex", 'test "$1" != sandbox && echo 0.163.0')

    finished = command(home, "doctor", API_KEY=KEY, CODEX_PATH=codex, DEFAULT_PERMISSION_MODE=mode)

    assert finished.returncode == code
    assert "codex cannot confine its commands" in finished.stdout
    assert not (home / ".local").exists()


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
