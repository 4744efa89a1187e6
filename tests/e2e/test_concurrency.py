"""Many at once: one turn per session, many sessions, limits."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from tests.conftest import ServerMaker
from tests.kit import Answer, Server, script


@pytest.mark.door
def test_one_of_a_hundred_prompts_wins(server: Server) -> None:
    """A hundred clients prompt one session at once: one is served, 99 are told that it is busy."""
    body = {"session_id": "contested", "prompt": script("hang"), "background": True}
    connections = [server.send("POST", "/generate/v2", body) for _ in range(100)]
    answers = [Answer(connection) for connection in connections]

    winners = [answer.json["taskId"] for answer in answers if answer.status == 202]
    losers = [answer.json for answer in answers if answer.status == 409]
    assert (len(winners), len(losers)) == (1, 99)
    assert {loser["code"] for loser in losers} == {"session_busy"}
    assert server.stop("contested").json["taskId"] == winners[0]


def test_repeated_message_id_starts_one_job(server: Server) -> None:
    """A client that is not sure whether its prompt arrived sends it again: the same job."""
    body = {"session_id": "s", "prompt": script("hang"), "background": True, "message_id": "m1"}
    connections = [server.send("POST", "/generate/v2", body) for _ in range(10)]
    answers = [Answer(connection) for connection in connections]

    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["taskId"] for answer in answers}) == 1
    assert server.stop().status == 200


def test_sixteen_sessions_work_side_by_side(server: Server) -> None:
    """Sixteen agents write at once; each stream has its own lines only, in order."""
    streams = [server.generate(script("rate 200 60 300", f"say {n}"), f"session-{n}") for n in range(16)]

    for n, stream in enumerate(streams):
        events = stream.rest()
        assert [event.json["n"] for event in events if "n" in event.json] == list(range(60))
        assert f'"text": "{n}"' in "".join(
            event.data.decode() for event in events if event.type == "assistant"
        )


def test_three_hundred_prompts_at_once_all_start(make_server: ServerMaker, tmp_path: Path) -> None:
    """As many as MAX_CONCURRENT_TURNS allows: none is refused, and what was accepted is done, not failed."""
    agent = tmp_path / "agent"
    lines = [
        {"type": "system", "subtype": "init", "session_id": "x"},
        {"type": "result", "subtype": "success"},
    ]
    agent.write_text(
        "#!/bin/sh\nread -r prompt\n" + "".join(f"echo '{json.dumps(line)}'\n" for line in lines)
    )
    agent.chmod(0o755)
    server = make_server(CLAUDE_PATH=str(agent), MAX_CONCURRENT_TURNS="1000", MAX_WARM_AGENTS="0")
    bodies = [{"session_id": f"s{n}", "prompt": "go", "background": True} for n in range(300)]
    answers = [Answer(each) for each in [server.send("POST", "/generate/v2", body) for body in bodies]]
    jobs = [server.ended_job(answer.json["taskId"]) for answer in answers]

    assert {(202, "completed")} == {
        (answer.status, job["status"]) for answer, job in zip(answers, jobs, strict=True)
    }


def test_limit_of_turns_is_told(make_server: ServerMaker) -> None:
    """One turn more than MAX_CONCURRENT_TURNS is refused with 429 and Retry-After; when one ends it is taken."""
    server = make_server(MAX_CONCURRENT_TURNS="2")
    for n in range(2):
        server.start_job(script("hang"), f"busy-{n}")
    refused = server.generate("hi", "third")

    assert (refused.status, refused.json["code"]) == (429, "too_many_turns")
    assert int(refused.headers["Retry-After"]) > 0
    server.stop("busy-0").body()
    assert server.generate("hi", "third").rest()[-1].json["status"] == "completed"


@pytest.mark.program
def test_server_may_have_more_descriptors_than_its_agents(make_server: ServerMaker) -> None:
    """A thousand idle clients do not shut others out; programs get the limit that the server was started with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        server = make_server()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with server.generate(script("hang")) as stream:
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
    limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] for pid in (server.pid, agent)]
    server.stop()

    assert limits == [min(hard, 65_536), 1024]
