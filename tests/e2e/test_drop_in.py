"""Clients of the earlier server work unchanged: its documented commands, word for word."""

from __future__ import annotations

import re

from tests.kit import Server


def test_session_with_a_readable_id(server: Server) -> None:
    """`sessionId` may be any readable name."""
    answer = server.ask("POST", "/sessions", {"sessionId": "my-session-1", "agent": "claude-code"})

    assert answer.status == 201
    session = server.ask("GET", "/sessions").json["sessions"][0]
    assert (session["id"], session["isStreaming"]) == ("my-session-1", False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", session["createdAt"])


def test_generate_without_model_and_cwd(server: Server) -> None:
    """A prompt for a session that does not exist yet needs nothing else."""
    body = {"session_id": "my-session-1", "prompt": "hello", "agent": "claude-code", "use_worktree": False}
    with server.ask("POST", "/generate/v2", body) as stream:
        events = stream.rest()

    assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert events[0].json["message"]["content"] == [{"type": "text", "text": "hello"}]
    assert events[-1].json["done"] is True


def test_background_job_is_followed_by_its_id(server: Server) -> None:
    """`background` answers with a task id, whose state and stream can be asked for."""
    body = {"session_id": "my-session-1", "agent": "claude-code", "prompt": "hello", "background": True}
    answer = server.ask("POST", "/generate/v2", body)
    job = answer.json

    assert (answer.status, job["sessionId"], job["status"]) == (202, "my-session-1", "queued")
    assert answer.headers["Location"].endswith(f"/generate/v2/jobs/{job['taskId']}")
    assert server.follow(job["taskId"]).rest()[-1].json["done"] is True
    assert server.ended_job(job["taskId"])["status"] == "completed"


def test_stop_with_a_body(server: Server) -> None:
    """Stop takes the session in the path and, from older clients, also in a body."""
    server.start_job("SCRIPT: hang", "my-session-1")
    answer = server.ask("DELETE", "/generate/my-session-1/stop", {"session_id": "my-session-1"})

    stopped = answer.json
    assert (answer.status, stopped["stopped"], stopped["sessionId"]) == (200, True, "my-session-1")


def test_presence_of_credentials(server: Server) -> None:
    """Several names at once: which are set, and never what they are."""
    answer = server.ask("GET", "/env/OPENAI_API_KEY,ANTHROPIC_API_KEY")

    assert answer.json == {"OPENAI_API_KEY": False, "ANTHROPIC_API_KEY": False}


def test_messages_of_a_session(server: Server) -> None:
    """The history holds whole messages in order: mine first."""
    server.generate("hello", "my-session-1").rest()
    history = server.ask("GET", "/sessions/my-session-1/messages").json

    types = [message["type"] for message in history["messages"]]
    assert history["count"] == len(types)
    assert [types[0], types[-1]] == ["user", "result"]
    assert "assistant" in types
