"""`agentsrv run` in a terminal: what is drawn, the keys, the signals."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Open
from tests.cli.kit import command, has_a_loop
from tests.kit import KEY, Server, script, wait_until
from tests.workspace.git_kit import make_repository

ASK = 'ask 1 Bash {"command": "touch x"}'


def test_the_screen_at_the_end_is_the_transcript(server: Server, session: str, open_window: Open) -> None:
    """Nothing that was drawn for a while is left; what stands there is what `logs` says."""
    window = open_window(
        "run", script("say one", "say two lines\\nhere", "sleep 1.5", "say three"), "-s", session
    )

    assert window.ended() == 0
    lines = window.text.split("\n")
    assert lines[0].startswith(f"{session}  claude-code")
    assert lines[1:-1] == command(server, "logs", session).stdout.rstrip().split("\n")
    assert lines[-1].startswith("completed")


@pytest.mark.parametrize(
    ("keys", "told", "decision"),
    [
        ("y", "? Bash: touch x  allowed", "allow"),
        ("a", "? Bash: touch x  allowed from now on", "allow"),
        ("n", "? Bash: touch x  denied", "deny"),
        ("enot now\r", "? Bash: touch x  denied: not now", "deny"),
    ],
)
def test_a_question_is_answered_by_a_key(
    server: Server, session: str, open_window: Open, keys: str, told: str, decision: str
) -> None:
    """y allows, a allows always, n denies, e says why."""
    window = open_window("run", script(ASK, "say after"), "--ask", "-s", session)
    window.shows("y allow")
    window.type(keys)

    assert window.ended() == 0
    assert told in window.text
    assert "y allow" not in window.text


def test_a_question_that_is_answered_elsewhere_goes_away(
    server: Server, session: str, open_window: Open
) -> None:
    """Two may answer; who is slower sees how it was decided."""
    window = open_window("run", script(ASK, "say after"), "--ask", "-s", session)
    window.shows("y allow")
    command(server, "answer", session, "deny", "-m", "no")

    assert window.ended() == 0
    assert "denied: no" in window.text


def test_ctrl_c_stops_the_turn(server: Server, session: str, open_window: Open) -> None:
    """And waits until the agent is gone."""
    window = open_window("run", script("say one", "hang"), "-s", session)
    window.shows("one")
    window.type("\x03")

    assert window.ended() == 130
    assert "cancelled" in window.text
    assert (
        server.ask("GET", f"/generate/v2/jobs?session_id={session}").json["jobs"][0]["status"] == "cancelled"
    )


def test_a_second_ctrl_c_does_not_wait(server: Server, session: str, open_window: Open) -> None:
    """It leaves at once and says how to look."""
    window = open_window("run", script("ignore-term", "ignore-interrupt", "say one", "deaf"), "-s", session)
    window.shows("one")
    window.type("\x03")
    window.shows("stopping")
    window.type("\x03")

    assert window.ended() == 130
    assert "agentsrv logs -f " + session in window.text


def test_ctrl_c_of_wait_ends_nothing(server: Server, session: str, open_window: Open) -> None:
    """It says nothing until then, so we look whether it is there."""
    server.start_job(script("hang"), session)
    window = open_window("wait", session)
    window.until(lambda: has_a_loop(window.process.pid), "an event loop")
    window.type("\x03")

    assert (130, "^C") == (window.ended(), window.text)
    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"]


@pytest.mark.parametrize("words", [("logs", "-f"), ("attach",)], ids=lambda words: words[0])
def test_ctrl_c_of_those_who_only_look_ends_nothing(
    server: Server, session: str, open_window: Open, words: tuple[str, ...]
) -> None:
    """They leave, and the turn goes on."""
    server.start_job(script("say one", "hang"), session)
    window = open_window(*words, session)
    window.shows("one")
    window.type("\x03")

    assert window.ended() == 130
    assert "Traceback" not in window.text
    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"]


def test_a_key_that_is_typed_is_warned_of(server: Server, session: str, open_window: Open) -> None:
    """`attach --key` works as ever, and says what is better."""
    server.generate("hello", session).rest()
    window = open_window("attach", session, "--key", KEY, cols=120)
    window.shows("rather use --key-file")
    window.shows("hello")
    window.type("\x04")

    assert window.ended() == 0
    assert KEY not in window.text


@pytest.mark.parametrize("key", ["q", "\x04"])
def test_leaving_lets_it_work(server: Server, session: str, open_window: Open, key: str) -> None:
    """q and Ctrl-D leave; the turn goes on."""
    window = open_window("run", script("say one", "hang"), "-s", session)
    window.shows("one")
    window.type(key)

    assert window.ended() == 0
    assert "it goes on" in window.text
    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"]


def test_who_decides_and_leaves_at_once_has_decided(server: Server, session: str, open_window: Open) -> None:
    """An answer, or a prompt, that is on its way arrives."""
    window = open_window("run", script(ASK, "hang"), "--ask", "-s", session)
    window.shows("y allow")
    window.type("yq")
    assert window.ended() == 0
    assert server.ask("GET", "/permissions").json["permissions"] == []
    server.stop(session)

    window = open_window("attach", session)
    window.shows("\ncancelled")
    window.type("SCRIPT: say more\r\x04")
    assert window.ended() == 0
    wait_until(lambda: "more" in command(server, "logs", session).stdout)


def test_a_closed_window_lets_it_work(server: Server, session: str, open_window: Open) -> None:
    """SIGHUP only leaves."""
    window = open_window("run", script("say one", "hang"), "-s", session)
    window.shows("one")
    window.hang_up()
    window.process.wait(30)

    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"]


@pytest.mark.parametrize(("words", "runs"), [((), False), (("--keep",), True)])
def test_sigterm_stops_unless_it_is_to_go_on(
    server: Server, session: str, open_window: Open, words: tuple[str, ...], runs: bool
) -> None:
    """143 in both cases."""
    window = open_window("run", script("say one", "hang"), "-s", session, *words)
    window.shows("one")
    window.process.send_signal(signal.SIGTERM)

    assert window.ended() == 143
    assert server.ask("GET", f"/sessions/{session}").json["isStreaming"] == runs


def test_an_agent_does_not_control_the_terminal(server: Server, session: str, open_window: Open) -> None:
    """Control sequences in its text are shown, and change nothing outside of it."""
    text = r"a\u001b[2J\u001b]0;evil\u0007\u202eb"
    line = (
        '{"type":"assistant","message":{"role":"assistant","content":[{"type":"text","text":"%s"}]}}' % text  # noqa: UP031
    )
    window = open_window("run", script("say before", f"raw {line}", "say after"), "-s", session)

    assert window.ended() == 0
    assert "before" in window.text
    assert "a^[[2J^[]0;evil^G<U+202E>b" in window.text
    assert b"\x1b[2J" not in window.output.replace(b"\x1b[2K", b"")
    assert b"\x1b]0;" not in window.output


@pytest.mark.parametrize(
    ("variables", "words"),
    [({"NO_COLOR": "1"}, ()), ({"TERM": "dumb"}, ()), ({"LC_ALL": "C"}, ()), ({}, ("--plain",))],
)
def test_simple_terminals_are_spared(
    server: Server, session: str, open_window: Open, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    """No colours, no drawing, or ASCII alone, as is wanted; a question can be answered all the same."""
    window = open_window("run", script("say één", ASK), "--ask", "-s", session, *words, **variables)
    window.shows("y allow")
    window.type("y")

    assert window.ended() == 0
    assert "allowed" in window.text
    if "NO_COLOR" in variables:
        assert b"\x1b[3" not in window.output
    if "LC_ALL" in variables:
        assert window.output.isascii()
    if words or "TERM" in variables:
        assert b"\x1b" not in window.output


def test_the_head_says_where_it_works_and_where_it_is_shown(
    server: Server, session: str, open_window: Open
) -> None:
    """Session, agent, the branch of its worktree, and the whole link, also where it needs a line."""
    root = make_repository(server.workspace / session, {"a.txt": "one\n"})
    words = ("run", "hello", "-s", session, "--cwd", str(root), "--worktree")
    wide = open_window(*words, cols=150)
    narrow = open_window("run", "again", "-s", f"{session}-2", cols=40, LC_ALL="C")
    link = f"http://127.0.0.1:{server.port}/console/#/s/{session}"

    assert (0, 0) == (wide.ended(), narrow.ended())
    assert wide.text.split("\n")[0] == f"{session}  claude-code  session/{session}  {link}"
    assert narrow.text.replace("\n", "").startswith(f"{session}-2  claude-code{link}-2")


def test_forty_columns_are_enough(server: Server, open_window: Open, tmp_path: Path) -> None:
    """And a window may become another size while it works."""
    go = tmp_path / "go"
    window = open_window(
        "run", script("say " + "word " * 30, f"rate 50 {go} 100", ASK), "--ask", cols=40, rows=20
    )
    window.shows("word word")
    window.resize(60, 15)
    wait_until(lambda: b"running" in window.output or not window._read(0.1))
    go.touch()
    window.shows("y allow")
    window.type("y")

    assert window.ended() == 0
    assert "completed" in window.text
    assert window.text.count("y allow") == 0


def test_what_is_asked_is_wrapped_and_not_cut_off(server: Server, session: str, open_window: Open) -> None:
    """In a narrow window, too, all of a command is seen, and every key."""
    long = "echo " + " ".join(f"word{number}" for number in range(12))
    window = open_window(
        "run", script(f'ask 1 Bash {{"command": "{long}"}}'), "--ask", "-s", session, cols=40
    )
    window.shows("d later")
    boxed = " ".join(line.strip("│ ") for line in window.text.split("\n") if line.startswith("│"))

    assert long in boxed
    assert "y allow   a always   n deny" in boxed
    window.type("n")
    assert window.ended() == 0


def test_a_plain_question_is_told_once(server: Server, session: str, open_window: Open) -> None:
    """A screen reader says what is new: neither a key nor the time says all of it again."""
    window = open_window("run", script(ASK, "say after"), "--ask", "-s", session, "--plain")
    window.shows("y allow")
    window.type("zz")
    window.type("eWhy\x7fat for\r")

    assert window.ended() == 0
    assert window.text.count("Bash wants leave") == 1
    assert "\n? Bash: touch x  denied: What for\n" in window.text


def test_a_plain_window_shows_what_is_typed_and_where(
    server: Server, session: str, open_window: Open
) -> None:
    """`attach --plain` has a prompt line, `answer --plain` the session that asks."""
    server.generate("hello", session).rest()
    window = open_window("attach", session, "--plain")
    window.shows("hello")
    window.type("SCRIPT: ask 1 Bash {}")
    window.shows("\n> SCRIPT: ask 1 Bash {}")
    window.type("\x15\x04")
    assert window.ended() == 0

    server.start_job(script(ASK), session, permission_mode="ask")
    window = open_window("answer", "--plain")
    window.shows(f"{session}; q leaves\nBash wants leave")
    window.type("y")
    assert window.ended() == 0


def test_a_window_that_is_too_low_shows_what_is_asked(
    server: Server, session: str, open_window: Open
) -> None:
    """In six lines the keys stay, and what they are about stands above."""
    window = open_window("run", script(ASK, ASK), "--ask", "-s", session, rows=6)
    for _ in range(2):
        window.shows("y allow")
        window.shows("Bash wants leave\n  touch x")
        window.type("n")
        window.hides("y allow")

    assert window.ended() == 0


def test_a_session_in_a_window(server: Server, session: str, open_window: Open) -> None:
    """`attach`: what was, what comes, questions, and a line for prompts; Ctrl-D leaves."""
    server.generate("hello", session).rest()
    window = open_window("attach", session)
    window.shows("\ncompleted")
    window.type("SCRIPT: say typed\r")
    window.shows("\ntyped")
    wait_until(lambda: not server.ask("GET", f"/sessions/{session}").json["isStreaming"])
    server.start_job(script(ASK), session, permission_mode="ask")
    window.shows("y allow")
    window.type("n")
    window.shows("denied")
    window.type("\x04")

    assert window.ended() == 0
    assert "come back with: agentsrv attach" in window.text


def test_all_questions_one_after_the_other(server: Server, session: str, open_window: Open) -> None:
    """`answer` without more: every question that waits, then it is over."""
    jobs = []
    for n in range(2):
        jobs.append(server.start_job(script(ASK), f"{session}-{n}", permission_mode="ask"))
        wait_until(lambda: server.job(jobs[-1])["status"] == "waiting_for_approval")
    window = open_window("answer")
    window.shows(f"{session}-0")
    window.type("y")
    window.shows(f"{session}-1")
    window.type("n")

    assert window.ended() == 0
    assert [server.ended_job(job)["status"] for job in jobs] == ["completed", "completed"]


def test_questions_that_come_are_shown(server: Server, session: str, open_window: Open) -> None:
    """`answer --watch`: it stays when none is left; what is answered elsewhere goes away; q leaves."""
    window = open_window("answer", "--watch")
    window.shows("nothing waits; q leaves")
    jobs = [server.start_job(script(ASK), session, permission_mode="ask")]
    window.shows(f"{session}; q leaves")
    window.type("y")
    window.shows("nothing waits; q leaves")
    jobs.append(server.start_job(script(ASK), f"{session}-2", permission_mode="ask"))
    window.shows(f"{session}-2; q leaves")
    command(server, "answer", f"{session}-2", "deny")
    window.hides(f"{session}-2; q leaves")
    window.type("q")

    assert window.ended() == 0
    assert f"{session}: Bash: touch x  allow" in window.text
    assert [server.ended_job(job)["status"] for job in jobs] == ["completed", "completed"]


def test_ps_is_drawn_again_and_again(server: Server, session: str, open_window: Open) -> None:
    """`ps --watch` shows what begins, asks and ends, each session once; Ctrl-C leaves."""
    window = open_window("ps", "--watch", cols=120)
    job = server.start_job(script(ASK), session, permission_mode="ask")
    window.until(lambda: bool(re.search(rf"{session} +asks .*Bash: touch x", window.text)), "a question")
    assert window.text.count(session) == 1
    command(server, "answer", job, "allow")
    window.hides(session)
    window.type("\x03")

    assert window.ended() == 130
    assert "Traceback" not in window.text


def test_what_an_agent_wants_to_know(server: Server, session: str, open_window: Open) -> None:
    """A question with options: a number picks one, anything else is an answer of one's own."""
    options = [{"label": "Left", "description": "short"}, {"label": "Right", "description": "long"}]
    question = {"question": "Which way?", "header": "Way", "options": options, "multiSelect": False}
    asked = json.dumps({"questions": [question]})
    window = open_window("run", script(f"ask 1 AskUserQuestion {asked}"), "--ask", "-s", session)
    window.shows("1 Left")
    window.type("2\r")

    assert window.ended() == 0
    assert "Right" in window.text


def test_a_long_command_is_shown_whole(server: Server, session: str, open_window: Open) -> None:
    """Nothing of what is allowed is cut off, however long."""
    lines = "\\n".join(f"echo {number}" for number in range(30))
    window = open_window(
        "run", script(f'ask 1 Bash {{"command": "{lines}"}}'), "--ask", "-s", session, rows=60
    )
    window.shows("y allow")

    assert all(f"echo {number}\n" in window.text + "\n" for number in range(30))
    window.type("n")
    assert window.ended() == 0


def test_keys_answer_also_when_a_prompt_is_piped_in(server: Server, session: str, open_window: Open) -> None:
    """The keyboard is that of the window, whatever stdin is."""
    window = open_window("run", "--ask", "-s", session, stdin=script(ASK))
    window.shows("y allow")
    window.type("y")

    assert window.ended() == 0
    assert "allowed" in window.text
