"""`agentsrv run` in a pipe: stdout is the result, stderr everything else, the exit code says how it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kit import command, environment, handles_interrupts, object_of
from tests.kit import KEY, Server, script, wait_until
from tests.pictures import noise
from tests.workspace.git_kit import make_repository

ASK = 'ask 1 Bash {"command": "touch x"}'
FAILURE = '{"is_error": true, "subtype": "error_during_execution"}'


def test_the_result_is_the_last_answer(server: Server) -> None:
    """In a pipe, stdout has what the agent said last, and nothing else."""
    done = command(server, "run", script("say first", "say last"))

    assert (0, "last\n", "") == (done.returncode, done.stdout, done.stderr)


def test_it_works_where_we_are(server: Server, session: str) -> None:
    """With a server on this machine a new session works in the directory that we are in."""
    here = server.workspace / "here"
    here.mkdir()

    command(server, "run", "hello", "-s", session, cwd=here)

    assert server.ask("GET", f"/sessions/{session}").json["cwd"] == str(here)


def test_a_directory_that_is_gone_is_told(server: Server) -> None:
    """Somebody may have removed it under the shell that we are in."""
    gone = server.workspace / "gone"
    gone.mkdir()
    words = 'cd "$1" && rmdir "$1" && exec "$2" -m agentsrv run hello'
    done = subprocess.run(
        ["sh", "-c", words, "sh", str(gone), sys.executable],
        env=environment(server, server.directory),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 5
    assert "the directory that we are in is gone" in done.stderr


def test_a_directory_that_is_not_allowed_names_the_setting(server: Server) -> None:
    """Whoever runs the server can change it."""
    done = command(server, "run", "hello", "--cwd", "/")

    assert "WORKSPACE_BASE_PATH of the server confines it" in done.stderr


def test_what_is_piped_in_is_part_of_the_prompt(server: Server) -> None:
    """The prompt, and behind it what another program says."""
    assert command(server, "run", "say this:", stdin="a log\n").stdout == "say this:\n\na log\n"
    assert command(server, "run", "-", stdin="alone").stdout == "alone\n"
    assert command(server, "run").returncode == 2


def test_json_is_one_object(server: Server, session: str) -> None:
    """The job's fields and its text."""
    answer = object_of(command(server, "run", "hello", "-s", session, "--json").stdout)

    assert (session, "completed", "hello") == (answer["sessionId"], answer["status"], answer["text"])


def test_jsonl_has_every_frame(server: Server, session: str) -> None:
    """Every frame as the server sends it, with its id."""
    done = command(server, "run", "hello", "-s", session, "--jsonl")
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    task_id = frames[-1]["taskId"]
    sent = server.ask("GET", f"/generate/v2/jobs/{task_id}/stream?format=acp&times=true").rest()

    assert frames == [{"id": event.id, **event.json} for event in sent]


@pytest.mark.parametrize(
    ("steps", "words", "code"),
    [
        (["say fine"], [], 0),
        (["result " + FAILURE], [], 1),
        (["say fine"], ["--no-such-option"], 2),
        (["say fine"], ["--image", "no-such-file"], 2),
        *((["say fine"], ["--max-budget", text], 2) for text in ("nan", "inf", "0", "-1", "much")),
        ([ASK], ["--ask"], 3),
        (["say fine"], ["--cwd", "/"], 5),
        (["hang"], ["--timeout", "0.5"], 124),
    ],
)
def test_the_exit_code_says_how_it_was(server: Server, steps: list[str], words: list[str], code: int) -> None:
    """0 completed, 1 failed, 2 wrong words, 3 a question waits, 5 refused, 124 out of time."""
    done = command(server, "run", script(*steps), *words)

    assert code == done.returncode, done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_is_an_object_too(server: Server) -> None:
    """Where objects are wanted, every error on stderr is one."""
    for words in (
        ["run", "x", "--no-such", "--json"],
        ["logs", "no-such-thing", "--jsonl"],
        ["run", "--json"],
    ):
        told = object_of(command(server, *words).stderr)
        assert told["error"], words
        assert told["code"], words


@pytest.mark.parametrize(
    ("steps", "words", "code", "told", "status"),
    [
        ([ASK], ["--ask", "--no-input"], 3, "question_waits", "waiting_for_approval"),
        (["hang"], ["--timeout", "0.5"], 124, "timeout", "cancelled"),
        (["hang"], ["--timeout", "0.5", "--keep"], 124, "timeout", "running"),
        (["result " + FAILURE], [], 1, "agent_error", "failed"),
    ],
)
def test_what_does_not_end_well_is_two_objects(
    server: Server, session: str, steps: list[str], words: list[str], code: int, told: str, status: str
) -> None:
    """`--json`: how the job is by then, and on stderr why."""
    done = command(server, "run", script(*steps), "-s", session, "--json", *words)
    job, error = object_of(done.stdout), object_of(done.stderr)

    assert (code, told, status) == (done.returncode, error["code"], job["status"])
    assert server.job(job["taskId"])["status"] == status
    assert error.get("question", {"title": "Bash: touch x"})["title"] == "Bash: touch x"


def test_a_question_is_a_frame_too(server: Server, session: str) -> None:
    """`--jsonl` has it, and its settlement."""
    done = command(server, "run", script(ASK), "--ask", "--deny", "--jsonl", "-s", session)
    types = [json.loads(line).get("type") for line in done.stdout.splitlines()]

    assert types.index("permission_request") < types.index("permission_resolved")


def test_a_question_that_nobody_here_can_answer(server: Server, session: str) -> None:
    """It is printed with the command that answers it, and waits on; so says `answer` where there is no terminal."""
    done = command(server, "run", script(ASK, "say after"), "--ask", "--no-input", "-s", session)
    waits = command(server, "answer")
    command(server, "answer", session, "allow")

    assert (3, 3, "") == (done.returncode, waits.returncode, done.stdout)
    assert "Bash wants leave\n  touch x\n" in done.stderr
    assert f"agentsrv answer {session} allow|deny" in done.stderr
    assert command(server, "wait", session).returncode == 0
    assert "after" in command(server, "logs", session).stdout


def test_a_reader_that_has_enough_ends_no_turn(server: Server, session: str) -> None:
    """`run --jsonl | head -n 1`: a quiet end, and the agent works on."""
    words = ("run", script("say one", "sleep 0.5", "say two", "hang"), "--jsonl", "-s", session)
    with subprocess.Popen(
        [sys.executable, "-m", "agentsrv", *words],
        env=environment(server, server.directory),
        cwd=server.workspace,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (0, b"") == (process.wait(60), process.stderr.read())

    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"]


def test_what_is_asked_for_reaches_the_agent(server: Server, session: str) -> None:
    """Agent, model, effort, mode, a worktree."""
    root = make_repository(server.workspace / session, {"a.txt": "one\n"})
    words = ("--agent", "claude-code", "--model", "best", "--effort", "low", "--mode", "plan", "--worktree")
    command(server, "run", script("echo"), "-s", session, *words, cwd=root)
    [seen] = [event.json for event in server.history(session) if event.type == "fake"]
    found = server.ask("GET", f"/sessions/{session}").json

    assert {"--model=best", "--effort=low", "--permission-mode=plan"} <= set(seen["argv"])
    assert seen["cwd"] == found["worktree"] != str(root)


def test_a_repository_is_trusted_when_its_user_says_so(server: Server, session: str) -> None:
    """In a new session from the start, and in one that is there from then on; never by itself."""

    def sources() -> Any:
        return server.ask("GET", f"/sessions/{session}").json["settingSources"]

    seen = []
    for words in ((), ("--trust",), ()):
        assert command(server, "run", "hi", "-s", session, "--ask", *words).returncode == 0
        seen.append(sources())
    new = object_of(command(server, "run", "hi", "--ask", "--trust", "--json").stdout)["sessionId"]

    assert seen == [None, ["user", "project", "local"], ["user", "project", "local"]]
    assert server.ask("GET", f"/sessions/{new}").json["settingSources"] == seen[-1]


def test_a_prompt_that_waits_is_shown_when_its_turn_comes(server: Server, session: str) -> None:
    """`--if-busy queue`."""
    first = server.start_job(script("sleep 1"), session)
    done = command(server, "run", "later", "-s", session, "--if-busy", "queue", "--json")

    assert (0, "later") == (done.returncode, object_of(done.stdout)["text"])
    assert object_of(done.stdout)["taskId"] != first


def test_the_key_is_in_no_object(server: Server, session: str) -> None:
    """Whatever is asked for."""
    told = [
        command(server, *words, "--json")
        for words in (
            ("run", "hello", "-s", session),
            ("ps", "-a"),
            ("logs", session),
            ("logs", "no-such"),
            ("servers",),
        )
    ]

    assert KEY not in "".join(each.stdout + each.stderr for each in told)


def test_text_that_is_no_text_is_no_failure(server: Server, session: str) -> None:
    """Half of a character, and what a terminal would obey: JSON in ASCII."""
    line = r'{"type":"assistant","message":{"role":"assistant","content":[{"type":"text","text":"a\ud800\u009b"}]}}'
    done = command(server, "run", script(f"raw {line}"), "-s", session)
    frames = command(server, "logs", session, "--jsonl")

    assert (0, 0) == (done.returncode, frames.returncode), done.stderr + frames.stderr
    assert done.stdout.startswith("a")
    assert frames.stdout.isascii()


def test_what_is_no_utf_8_is_told(server: Server, session: str) -> None:
    """In a prompt it is shown as such, as in what is piped in; a name or a directory has to be right."""
    odd = server.workspace / "odd\udcff"
    odd.mkdir()
    prompt = command(server, "run", "a\udcffb")
    named = command(server, "run", "hello", "-s", "a\udcff", "--json")
    there = command(server, "run", "hello", cwd=odd)
    logs = command(server, "logs", "a\udcff")

    assert (0, "a\ufffdb\n") == (prompt.returncode, prompt.stdout)
    assert (2, 2, 2) == (named.returncode, there.returncode, logs.returncode)
    assert "a<U+DCFF> is not UTF-8" in object_of(named.stderr)["error"]
    assert "odd<U+DCFF> is not UTF-8" in there.stderr
    assert "a<U+DCFF> is not UTF-8" in logs.stderr


def test_no_server_no_key_and_a_wrong_key_are_told(server: Server, tmp_path: Path) -> None:
    """69 with what to do; 77 with where the key came from."""
    away = command(server, "ps", AGENTSRV_URL="http://127.0.0.1:1")
    without = command(server, "ps", AGENTSRV_API_KEY="")
    wrong = command(server, "ps", "--json", AGENTSRV_API_KEY="wrong-key")

    assert (69, 77, 77) == (away.returncode, without.returncode, wrong.returncode)
    assert (
        "http://127.0.0.1:1 does not answer: Connection refused; start it with `agentsrv serve`, "
        "or name another one with `agentsrv login URL`"
    ) in away.stderr
    assert "agentsrv login" in without.stderr
    assert "it came from AGENTSRV_API_KEY" in object_of(wrong.stderr)["error"]
    assert "wrong-key" not in wrong.stderr


def test_a_detached_job_goes_on(server: Server) -> None:
    """`-d` prints the ids at once."""
    session_id, task_id = command(server, "run", script("sleep 0.2", "say late"), "-d").stdout.split()

    assert server.ended_job(task_id)["status"] == "completed"
    assert "late" in command(server, "logs", session_id).stdout


def test_ctrl_c_in_a_pipe_stops_the_turn(server: Server, session: str) -> None:
    """Also where nothing is drawn: the agent is gone when the command is."""
    with subprocess.Popen(
        [sys.executable, "-m", "agentsrv", "run", script("hang"), "-s", session],
        env=environment(server, server.directory),
        cwd=server.workspace,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        wait_until(lambda: server.ask("GET", f"/generate/v2/jobs?session_id={session}").json["count"])
        wait_until(lambda: handles_interrupts(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130

    [job] = server.ask("GET", f"/generate/v2/jobs?session_id={session}").json["jobs"]
    assert job["status"] == "cancelled"


def test_what_is_kept_must_be_readable(server: Server, tmp_path: Path) -> None:
    """78, and which file is wrong."""
    kept = tmp_path / ".config" / "agentsrv" / "servers.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{")
    done = command(server, "ps", HOME=str(tmp_path))

    assert done.returncode == 78
    assert str(kept) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_last_session_goes_on(server: Server, session: str) -> None:
    """`-c`; and a picture comes along."""
    server.generate("hello", session).rest()
    (server.workspace / "a.png").write_bytes(noise(8))
    done = command(server, "run", "again", "-c", "--image", "a.png")
    prompts = [event.json for event in server.history(session) if event.type == "user"]

    assert (0, "again\n") == (done.returncode, done.stdout)
    assert prompts[-1]["message"]["content"][1]["source"]["media_type"] == "image/png"


def test_a_busy_session(server: Server, session: str) -> None:
    """5 and the job that is in the way; `--if-busy` waits for it, or tells it."""
    task_id = server.start_job(script("await-steer"), session)
    busy = command(server, "run", "other", "-s", session)
    steered = command(server, "run", "to the left", "-s", session, "--if-busy", "steer", "--json")

    assert busy.returncode == 5
    assert task_id in busy.stderr
    assert (task_id, "steered: to the left") == tuple(
        object_of(steered.stdout)[each] for each in ("taskId", "text")
    )
