"""The other commands, as they are typed in a script."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import segno
from aiohttp import web

from tests.cli.kit import command, environment, object_of
from tests.client.proxy import proxy_to
from tests.client.test_requests import answering
from tests.kit import KEY, Answer, Server, script, wait_until, write_fake_agent
from tests.workspace.git_kit import make_repository, run_git, write_files

ASK = 'ask 1 Bash {"command": "touch x"}'


def waits_for_answer(server: Server, session: str) -> bool:
    return any(each["sessionId"] == session for each in server.ask("GET", "/permissions").json["permissions"])


def test_help_needs_neither_the_client_nor_the_drawing() -> None:
    """`agentsrv --help` answers at once."""
    code = (
        "import sys; sys.argv = ['agentsrv', '--help']\n"
        "from agentsrv.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('aiohttp', 'rich', 'asyncio', 'msgspec') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert told.stdout.endswith("[]\n")
    assert "exit codes" in told.stdout


async def test_ps_makes_two_requests(server: Server, session: str) -> None:
    """However much there is to show."""
    server.start_job(script(ASK), session, permission_mode="ask")
    wait_until(lambda: waits_for_answer(server, session))
    async with proxy_to(server.port) as proxy:
        done = await asyncio.to_thread(command, server, "ps", "-a", AGENTSRV_URL=proxy.url)

    row = next(line for line in done.stdout.splitlines() if line.startswith(session))
    assert ["asks", "claude-code"] == row.split()[1:3]
    assert row.endswith("Bash: touch x")
    assert proxy.requests <= 2


def test_ps_as_json(server: Server, session: str) -> None:
    """A session's fields, its status, its newest job."""
    server.generate("hello", session).rest()
    sessions = object_of(command(server, "ps", "-a", "--json").stdout)["sessions"]
    [found] = [each for each in sessions if each["id"] == session]

    assert ("idle", 0.25) == (found["status"], found["costUsd"])
    assert found["lastJob"]["status"] == "completed"


def test_logs_by_session_job_or_beginning(server: Server, session: str) -> None:
    """An id may be cut short while it fits one."""
    task_id = server.start_job("hello", session)
    server.ended_job(task_id)
    transcripts = {command(server, "logs", each).stdout for each in (session, task_id, task_id[:20])}

    assert transcripts == {"» hello\nhello\n"}
    assert command(server, "logs", "no-such-thing").returncode == 5


def test_a_beginning_that_fits_several_names_them(server: Server, session: str) -> None:
    """And nothing happens."""
    for number in (1, 2):
        server.ask("POST", "/sessions", {"sessionId": f"{session}-{number}"}).body()
    done = command(server, "rm", session)

    assert done.returncode == 2
    assert f"{session}-1, {session}-2" in done.stderr
    assert server.ask("GET", f"/sessions/{session}-1").status == 200


@pytest.mark.parametrize(
    "words",
    [
        ["answer", "", "allow"],
        ["rm", ""],
        ["stop", ""],
        ["logs", ""],
        ["attach", ""],
        ["run", "-s", "", "hi"],
    ],
    ids=lambda words: words[0],
)
def test_an_empty_id_is_none(server: Server, words: list[str]) -> None:
    """A variable of a script that is not set is not the beginning of the only one that there is."""
    done = command(server, *words)

    assert done.returncode == 2
    assert "is empty" in done.stderr


@pytest.mark.parametrize("word", [".", ".."])
def test_what_leads_elsewhere_in_a_url_is_no_id(server: Server, word: str) -> None:
    """`agentsrv diff .` names no session."""
    done = command(server, "diff", word)

    assert done.returncode == 5
    assert f"there is no session and no job {word}" in done.stderr


def test_logs_from_an_event_on(server: Server, session: str) -> None:
    """`--since`; an id ahead of the log is told."""
    server.generate(script("say one", "say two"), session).rest()

    assert command(server, "logs", session, "--since", "6").stdout == "two\n"
    for words in (("logs", "-f"), ("logs",)):
        ahead = command(server, *words, session, "--since", "999")
        assert ahead.returncode == 5
        assert "this server's log is another one" in ahead.stderr
    assert command(server, "logs", session, "--since", "-1").returncode == 2


def test_raw_logs_are_the_agents_own_lines(server: Server, session: str) -> None:
    """As the native stream has them."""
    task_id = server.start_job("hello", session)
    server.ended_job(task_id)
    lines = command(server, "logs", session, "--raw").stdout.splitlines()

    assert [json.loads(line) for line in lines] == [event.json for event in server.follow(task_id).rest()]


def test_questions_are_listed_and_answered(server: Server, session: str) -> None:
    """By the id of the question, its job or its session; what is allowed always is not asked again."""
    server.start_job(script(ASK, ASK), session, permission_mode="ask")
    wait_until(lambda: waits_for_answer(server, session))
    listed = command(server, "answer", "--list").stdout
    answered = command(server, "answer", session, "allow", "--always")

    assert f"{session}/ask-1\nBash wants leave\n  touch x\n" in listed
    assert answered.returncode == 0
    assert command(server, "wait", session).returncode == 0
    assert command(server, "answer", session, "allow").returncode == 5


def test_agents_may_count_their_questions_alike(server: Server, session: str) -> None:
    """What fits several names them all, by names that fit one."""
    sessions = f"{session}-1", f"{session}-2"
    for each in sessions:
        server.start_job(script(ASK), each, permission_mode="ask")
        wait_until(lambda each=each: waits_for_answer(server, each))  # type: ignore[misc]
    several = command(server, "answer", session, "allow")
    one = command(server, "answer", f"{session}-2/ask-1", "allow")

    assert (2, 0) == (several.returncode, one.returncode), one.stderr
    assert f"{session}-1/ask-1, {session}-2/ask-1" in several.stderr
    assert [waits_for_answer(server, each) for each in sessions] == [True, False]


def test_a_denial_says_why(server: Server, session: str) -> None:
    """`-m` is for the agent."""
    task_id = server.start_job(script(ASK), session, permission_mode="ask")
    wait_until(lambda: waits_for_answer(server, session))
    command(server, "answer", session, "deny", "-m", "not that")

    assert server.ended_job(task_id)["status"] == "completed"
    assert "denied: not that" in command(server, "logs", session).stdout


def test_deny_instead_of_waiting(server: Server, session: str) -> None:
    """`run --deny` answers by itself."""
    done = command(server, "run", script(ASK, "say after"), "--ask", "--deny", "-s", session)

    assert (0, "after\n") == (done.returncode, done.stdout)


def test_stop_wait_fork_and_rm(server: Server, session: str) -> None:
    """From the first to the last."""
    server.start_job(script("say one", "hang"), session)
    stopped = command(server, "stop", session)
    forked = command(server, "fork", session, "--as", f"{session}-f")
    waited = command(server, "wait", session, "--json")
    removed = command(server, "rm", session, f"{session}-f")

    assert stopped.stdout.split()[::2] == [session, "cancelled"]
    assert forked.stdout == f"{session}-f\n"
    assert (4, "cancelled") == (waited.returncode, object_of(waited.stdout)["jobs"][0]["status"])
    assert removed.stdout == f"{session}\n{session}-f\n"
    assert server.ask("GET", f"/sessions/{session}").status == 404


def test_every_command_has_its_object(server: Server, session: str) -> None:
    """`--json`: one, however many there are; `--jsonl`: one for each."""
    task_id = server.start_job(script(ASK, "hang"), session, permission_mode="ask")
    wait_until(lambda: waits_for_answer(server, session))
    answered = object_of(command(server, "answer", session, "allow", "--json").stdout)
    stopped = object_of(command(server, "stop", session, "--json").stdout)
    events = object_of(command(server, "logs", session, "--json").stdout)["events"]
    frames = [json.loads(line) for line in command(server, "logs", session, "--jsonl").stdout.splitlines()]
    forked = object_of(command(server, "fork", session, "--name", "other", "--json").stdout)
    removed = object_of(command(server, "rm", session, forked["id"], "--json").stdout)

    assert answered["decision"] == "allow"
    assert stopped["jobs"] == [{"sessionId": session, "taskId": task_id, "status": "cancelled"}]
    assert events == frames
    assert events[-1]["status"] == "cancelled"
    assert forked["name"] == "other"
    assert [each["sessionId"] for each in removed["sessions"]] == [session, forked["id"]]


def test_worktrees_go_with_their_sessions(server: Server, session: str) -> None:
    """`rm --worktree`: not while something is only there, unless it is forced."""
    root = make_repository(server.workspace / session, {"a.txt": "one\n"})
    server.generate("hello", session, cwd=str(root), use_worktree=True).rest()
    worktree = Path(server.ask("GET", f"/sessions/{session}").json["worktree"])
    write_files(worktree, {"new.txt": "only here\n"})
    refused = command(server, "rm", session, "--worktree")
    there = worktree.exists()
    forced = command(server, "rm", session, "--worktree", "--force")

    assert (5, 0) == (refused.returncode, forced.returncode), forced.stderr
    assert (True, False) == (there, worktree.exists())


def test_a_full_transcript(server: Server, session: str) -> None:
    """`logs --full` has thoughts and whole prompts."""
    thought = (
        '{"type":"assistant","message":{"role":"assistant","content":[{"type":"thinking","thinking":"hm"}]}}'
    )
    prompt = script(f"raw {thought}", "say done") + "\nmore" * 20
    server.generate(prompt, session).rest()
    short, full = (command(server, "logs", session, *words).stdout for words in ((), ("--full",)))

    assert "more lines" in short
    assert full.count("\u00bb more\n") == 20
    assert (False, True) == ("\nhm\n" in short, "\nhm\n" in full)


def test_the_worst_of_several_jobs_counts(server: Server, session: str) -> None:
    """`wait` of one that failed and one that is fine."""
    fine = server.start_job("hello", session)
    failed = server.start_job(script('result {"is_error": true}'), f"{session}-2")
    done = command(server, "wait", fine, failed)

    assert done.returncode == 1
    assert done.stdout.split()[2::3] == ["completed", "failed"]


def test_colours_are_given_where_they_are_asked_for(server: Server, session: str) -> None:
    """`FORCE_COLOR`: also in a pipe; else there are none."""
    server.generate("hello", session).rest()

    assert "\x1b[1m" in command(server, "logs", session, FORCE_COLOR="1").stdout
    assert "\x1b" not in command(server, "logs", session).stdout


def test_everything_is_stopped(server: Server, session: str) -> None:
    """`stop --all` ends what runs in any session; without it, and without an ID, nothing is meant."""
    jobs = [server.start_job(script("hang"), f"{session}-{n}") for n in range(2)]
    for job in jobs:
        wait_until(lambda job=job: server.job(job)["status"] == "running")  # type: ignore[misc]
    meant = command(server, "stop")
    done = command(server, "stop", "--all", "--jsonl")
    told = {each["taskId"]: each["status"] for each in map(json.loads, done.stdout.splitlines())}

    assert meant.returncode == 2
    assert [told[job] for job in jobs] == ["cancelled"] * 2


def test_waiting_has_an_end(server: Server, session: str) -> None:
    """`--timeout` ends the waiting and nothing else."""
    server.start_job(script("hang"), session)
    done = command(server, "wait", session, "--timeout", "0.3")

    assert done.returncode == 124
    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"]


def test_what_a_session_has_committed_is_merged(server: Server, session: str) -> None:
    """Into the branch that the repository is on; what is not committed stops it, and names the way out."""
    root = make_repository(server.workspace / session, {"a.txt": "one\n"})
    server.generate("hello", session, cwd=str(root), use_worktree=True).rest()
    worktree = Path(server.ask("GET", f"/sessions/{session}").json["worktree"])
    write_files(worktree, {"a.txt": "1\n"})
    early = command(server, "merge", session)
    run_git(worktree, "commit", "--all", "--quiet", "--message", "one")
    merged = command(server, "merge", session)

    assert (5, "") == (early.returncode, early.stdout)
    assert (0, "1\n") == (merged.returncode, (root / "a.txt").read_text()), merged.stderr
    assert re.fullmatch(rf"session/{session} is in \S+: [0-9a-f]{{10}}\.\.[0-9a-f]{{10}}\n", merged.stdout)
    assert "merged" in object_of(command(server, "merge", session, "--json").stdout)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("logs", "-f"), 0),
        (("ps", "--all", "--quiet"), 0),
        (("completion", "bash"), 0),
        (("logs", "no-such-thing"), 5),
    ],
)
def test_a_reader_that_has_enough_is_no_error(
    server: Server, session: str, words: tuple[str, ...], code: int
) -> None:
    """`| head` ends it quietly, also under `pipefail`; what is wrong has its exit code, also with `2>&1`."""
    server.start_job(script("lines 300 300", "hang"), session)
    reader, pipe = os.pipe()
    os.close(reader)
    with open(pipe, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "agentsrv", *words, *([session] if "-f" in words else [])],
            env=environment(server, server.directory),
            stdout=gone,
            stderr=gone if code else subprocess.PIPE,
            timeout=60,
            check=False,
        )

    assert (code, b"") == (done.returncode, done.stderr or b"")
    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"]


@pytest.mark.parametrize(("descriptor", "words"), [(0, "run -d hello"), (1, "ps"), (2, "ps")])
def test_a_descriptor_that_is_closed_is_nothing(server: Server, descriptor: int, words: str) -> None:
    """What starts us may leave out stdin, stdout or stderr."""
    shell = f"exec {descriptor}>&-; exec {sys.executable} -m agentsrv {words}"
    done = subprocess.run(
        ["sh", "-c", shell],
        env=environment(server, server.directory),
        cwd=server.workspace,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_is_kept_for_its_server_alone(server: Server, session: str, tmp_path: Path) -> None:
    """`login` reads it from a pipe and tries it; then nothing else is needed; `logout` forgets it."""
    url = f"http://127.0.0.1:{server.port}"
    nowhere: dict[str, Any] = {"AGENTSRV_URL": "", "AGENTSRV_API_KEY": "", "HOME": str(tmp_path)}
    wrong = command(server, "login", url, stdin="wrong\n", **nowhere)
    login = command(server, "login", url, stdin=f"{KEY}\n", **nowhere)
    kept = tmp_path / ".config" / "agentsrv" / "servers.json"
    mode, content = kept.stat().st_mode & 0o777, kept.read_text()
    listed = command(server, "ps", "-a", cwd=tmp_path, **nowhere)
    other = command(server, "ps", "--url", f"http://localhost:{server.port}", cwd=tmp_path, **nowhere)
    shown = command(server, "servers", **nowhere)
    logout = command(server, "logout", **nowhere)

    assert (77, 0, 0, 77, 0) == tuple(done.returncode for done in (wrong, login, listed, other, logout)), (
        wrong.stderr + login.stderr + listed.stderr + other.stderr
    )
    assert mode == 0o600
    token = json.loads(content)["servers"][url]["key"]
    assert server.ask("GET", "/sessions", Authorization=f"Bearer {token}").status == 401
    assert shown.stdout == f"* {url}\n"
    assert KEY not in content + wrong.stdout + login.stdout + login.stderr + shown.stdout


def test_a_server_without_a_port(tmp_path: Path) -> None:
    """`HOST=unix:/path`: who stands beside its `.env` needs to say nothing; no browser comes there."""
    socket = tmp_path / "sock"
    server = Server(tmp_path, write_fake_agent(tmp_path / "claude"), {"HOST": f"unix:{socket}"}).start()
    (tmp_path / ".env").write_text(f"HOST=unix:{socket}\nAPI_KEY={KEY}\n")
    nothing: dict[str, Any] = {"AGENTSRV_URL": "", "AGENTSRV_API_KEY": "", "cwd": tmp_path}
    try:
        done = command(server, "run", "hello", "--cwd", str(server.workspace), **nothing)
        opened = command(server, "open", **nothing)
    finally:
        server.close()

    assert (0, "hello\n") == (done.returncode, done.stdout), done.stderr
    assert (5, True) == (opened.returncode, f"unix:{socket}" in opened.stderr)


def test_the_key_is_not_in_ps(server: Server, session: str) -> None:
    """While a command runs, its command line and what it may show hold no key."""
    with subprocess.Popen(
        [sys.executable, "-m", "agentsrv", "run", script("hang"), "-s", session],
        env=environment(server, server.directory),
        cwd=server.workspace,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        wait_until(lambda: server.ask("GET", f"/sessions/{session}").status == 200)
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        command(server, "stop", session)
        assert process.wait(60) == 4

    assert KEY.encode() not in shown


def test_the_console_is_opened_signed_in(server: Server, session: str) -> None:
    """`open --print` gives the address of a session in a console that there is, with a code that is good once."""
    server.ask("POST", "/sessions", {"sessionId": session}).body()
    page, _, fragment = command(server, "open", session, "--print").stdout.strip().partition("#")
    given = dict(part.split("=") for part in fragment.split("&"))
    redeemed = [redeem(server, given["code"]) for _ in range(2)]

    assert page == f"http://127.0.0.1:{server.port}/console/"
    assert server.ask("GET", "/console/", Authorization="").status == 200
    assert given["to"] == f"s/{session}"
    assert [answer.status for answer in redeemed] == [201, 403]


async def test_a_console_without_codes_asks_for_the_key(server: Server) -> None:
    """That of an older server: the address has nothing secret."""

    async def older(request: web.Request) -> web.Response:
        return web.json_response({"error": "there is no such route", "code": "not_found"}, status=404)

    async with answering(older) as (client, _):
        done = await asyncio.to_thread(command, server, "open", "--print", AGENTSRV_URL=client.base_url)

    assert (0, f"{client.base_url}/console/#/\n") == (done.returncode, done.stdout), done.stderr


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_the_console_is_opened_on_a_phone(server: Server, locale: str) -> None:
    """`open --qr` draws the address that it prints; for others than this machine it would be another one."""
    done = command(server, "open", "--qr", LANG=locale)
    *drawn, address = done.stdout.splitlines()

    assert modules(drawn) == [
        [bool(each) for each in row] for row in segno.make_qr(address).matrix_iter(border=2)
    ]
    assert "--url" in done.stderr


def modules(lines: list[str]) -> list[list[bool]]:
    """Which modules of a QR code on a terminal are dark."""
    if "#" in lines[0]:
        return [[line[at] == " " for at in range(0, len(line), 2)] for line in lines]
    halves = [(row, light) for row in lines for light in ("\u2588\u2580", "\u2588\u2584")]
    rows = [[each not in light for each in row] for row, light in halves]
    return rows[:-1]  # the lower half of the last line is none


def redeem(server: Server, code: str) -> Answer:
    """What the console does with a code that it is opened with."""
    return server.ask("POST", "/auth/codes/redeem", {"code": code, "name": "a browser"}, Authorization="")
