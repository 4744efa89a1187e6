"""What is drawn and what stays: at most ten lines change, the scrollback is right, a window may change its size."""

from __future__ import annotations

import json
from pathlib import Path

import pyte

from tests.cli.conftest import Open
from tests.cli.kit import command
from tests.cli.window import Window
from tests.kit import Server, script

ASK = 'ask 1 Bash {"command": "touch x"}'


def call(number: int) -> str:
    """A step: the agent begins to call a tool."""
    content = {
        "type": "tool_use",
        "id": f"t{number}",
        "name": "Bash",
        "input": {"command": f"make part{number}"},
    }
    return "raw " + json.dumps({"type": "assistant", "message": {"role": "assistant", "content": [content]}})


def everything(window: Window) -> list[str]:
    """Its lines with what has been scrolled out of it."""
    screen = pyte.HistoryScreen(window.screen.columns, window.screen.lines, history=10_000)
    pyte.ByteStream(screen).feed(bytes(window.output))
    above = ["".join(line[x].data for x in range(screen.columns)) for line in screen.history.top]
    return [line.rstrip() for line in (*above, *screen.display)]


def test_what_is_scrolled_away_is_right(server: Server, session: str, open_window: Open) -> None:
    """In a low window, through questions and seconds: each line once, as `logs` has them."""
    steps = [f"say line {number}" for number in range(40)]
    prompt = script(*steps[:20], ASK, "sleep 1.2", *steps[20:], ASK, "say end")
    window = open_window("run", prompt, "--ask", "-s", session, cols=100, rows=12)
    for _ in range(2):
        window.shows("y allow")
        window.type("y")
        window.hides("y allow")
    assert window.ended() == 0

    lines = "\n".join(everything(window)).rstrip().split("\n")
    transcript = command(server, "logs", session).stdout
    assert "".join(lines[1:-1]) == transcript.replace("\n", "")
    assert lines[-1].startswith("completed")


def test_at_most_ten_lines_are_drawn_again(session: str, open_window: Open, tmp_path: Path) -> None:
    """However many calls run."""
    go = tmp_path / "go"
    prompt = script("say before", *map(call, range(25)), f"rate 1 {go} 100")
    window = open_window("run", prompt, "-s", session, rows=60)
    window.shows("make part24")
    drawn = window.text.partition("\nbefore\n")[2].split("\n")

    assert len(drawn) == 10
    assert drawn[-1].startswith("running")
    go.touch()
    assert window.ended() == 0
    assert window.text.count("make part3 ") == 1


def test_a_window_may_become_another_size(session: str, open_window: Open) -> None:
    """At once, in a question: the box fits, it is answered, and nothing of it is left."""
    window = open_window("run", script("say before", ASK, "say after"), "--ask", "-s", session)
    window.shows("y allow")
    for cols in (40, 100, 60):
        window.resize(cols, 40)
        bottom = "\u2570" + "\u2500" * (cols - 3) + "\u256f"
        window.until(lambda: bottom in window.text.split("\n"), bottom)  # noqa: B023
    window.type("y")

    assert window.ended() == 0
    assert "\u2502" not in window.text
    assert window.text.count("y allow") == 0
    assert window.text.split("\n")[-2:][0] == "after"


def test_the_last_line_says_what_it_took(session: str, open_window: Open) -> None:
    """Time, context, cost, and how far its plan is."""
    todos = [
        {"content": "one", "status": "completed", "activeForm": "One"},
        {"content": "two", "status": "in_progress", "activeForm": "Two"},
    ]
    plan = (
        call(1)
        .replace('"Bash"', '"TodoWrite"')
        .replace('{"command": "make part1"}', json.dumps({"todos": todos}))
    )
    window = open_window("run", script(plan, "sleep 1.2", "say end"), "-s", session)

    assert window.ended() == 0
    last = window.text.split("\n")[-1].split(" \u00b7 ")
    assert last[0] == "completed"
    assert last[1].endswith(" s")
    assert {"$0.25", "plan 1/2"} <= set(last)


def test_a_question_is_left_for_later(server: Server, session: str, open_window: Open) -> None:
    """d: it goes away here, and waits on."""
    window = open_window("run", script(ASK, "say after"), "--ask", "-s", session)
    window.shows("d later")
    window.type("d")
    window.hides("d later")
    waits = command(server, "answer", "--list").stdout
    command(server, "answer", session, "allow")

    assert window.ended() == 0
    assert f"{session}/ask-1" in waits
    assert "allowed" in window.text


def test_no_input_asks_nothing_on_a_terminal_either(server: Server, session: str, open_window: Open) -> None:
    """Exit 3, and what it waits for."""
    window = open_window("run", script(ASK), "--ask", "--no-input", "-s", session, cols=120)

    assert window.ended() == 3
    assert f"it waits for an answer: agentsrv answer {session} allow|deny" in window.text
    assert "y allow" not in window.text
    server.stop(session)


def test_two_windows_and_one_question(server: Server, session: str, open_window: Open) -> None:
    """Both are asked, both press a key: one answer counts, and both see the same."""
    first = open_window("run", script(ASK, "say after"), "--ask", "-s", session)
    first.shows("y allow")
    second = open_window("attach", session)
    second.shows("y allow")
    first.type("y")
    second.type("n")
    assert first.ended() == 0
    second.shows("\ncompleted")
    second.type("\x04")
    assert second.ended() == 0

    [decided] = [line for line in first.text.split("\n") if line.startswith("? Bash: touch x")]
    assert decided in second.text
    assert "Traceback" not in first.text + second.text
