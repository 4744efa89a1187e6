"""Forks of sessions, with both real agents; the scripted models show what an agent knows."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conformance.dialects import AGENTS
from tests.fakes.model_api import ModelApi
from tests.kit import Event, Server, script, started_at


@dataclass(slots=True)
class Fixture:
    """A server, one of its agents, and what that agent's model was told with its last call."""

    server: Server
    agent: str
    last_history: Callable[[], str]

    def prompt(self, session: str, *steps: str, **options: Any) -> list[Event]:
        """A turn, to its end."""
        events = self.server.generate(script(*steps), session, agent=self.agent, **options).rest()
        assert events[-1].json["status"] == "completed", events[-2:]
        return events

    def fork(self, source: str, session: str, **fields: Any) -> dict[str, Any]:
        answer = self.server.ask("POST", f"/sessions/{source}/fork", {"sessionId": session, **fields})
        view: dict[str, Any] = answer.json
        assert answer.status == 201, view
        return view

    def knows(self, session: str, *answers: str) -> list[bool]:
        """Does the session's agent remember these answers of its own? It takes a prompt to find out."""
        self.prompt(session, "text what I know")
        return [answer in self.last_history() for answer in answers]


@pytest.fixture(params=AGENTS)
def forks(request: pytest.FixtureRequest) -> Fixture:
    server, model = map(request.getfixturevalue, AGENTS[request.param].fixtures)
    return Fixture(server, request.param, lambda: str(model.requests[-1].conversation))


def test_fork_knows_what_was_said_before_it(forks: Fixture) -> None:
    """I fork a session, and both go on: each knows what came before the fork, and nothing of the other."""
    forks.prompt("source", "bash echo tool-output", "text first-answer")
    forks.fork("source", "fork")
    forks.prompt("source", "text of-the-source")
    forks.prompt("fork", "text of-the-fork")

    said = ("tool-output", "first-answer", "of-the-source", "of-the-fork")
    assert forks.knows("source", *said) == [True, True, True, False]
    assert forks.knows("fork", *said) == [True, True, False, True]


def test_fork_is_a_session_of_its_own(forks: Fixture) -> None:
    """A fork works in the same place with the same agent and model, has an empty log, and says where it is from."""
    events = forks.prompt("source", "text hello", model="some-model")
    source = forks.server.ask("GET", "/sessions/source").json
    fork = forks.fork("source", "fork", name="an attempt")

    assert fork["forkedFrom"] == {"sessionId": "source", "eventId": events[-1].id}
    assert [fork[name] for name in ("id", "name", "isStreaming")] == ["fork", "an attempt", False]
    assert [fork[name] == source[name] for name in ("agent", "cwd", "model")] == [True, True, True]
    assert forks.server.ask("GET", "/sessions/fork/messages").json["messages"] == []
    assert forks.prompt("fork", "text again")[0].id == 1
    internal = forks.server.ask("GET", "/sessions/fork").json["internalSessionId"]
    assert internal not in (None, source["internalSessionId"])


def test_fork_may_have_another_model(forks: Fixture) -> None:
    """A model that I name for a fork is the fork's; the source keeps its own."""
    forks.prompt("source", "text hello", model="some-model")
    fork = forks.fork("source", "fork", model="another-model")

    assert fork["model"] == "another-model"
    assert forks.server.ask("GET", "/sessions/source").json["model"] == "some-model"


def test_fork_of_a_session_that_works_has_the_turns_before(forks: Fixture) -> None:
    """I fork a session whose turn runs: the fork begins behind the last turn that has ended, and can work at once."""
    events = forks.prompt("source", "text first-answer")
    steps = script("text half-an-answer", "bash touch begun; sleep 60")
    with forks.server.generate(steps, "source", agent=forks.agent) as stream:
        stream.until(lambda event: b"half-an-answer" in event.data and event.id > events[-1].id + 1)
        fork = forks.fork("source", "fork")

        assert fork["forkedFrom"]["eventId"] == events[-1].id
        assert forks.knows("fork", "first-answer", "half-an-answer") == [True, False]
        forks.server.stop("source").body()


def test_fork_of_a_new_session_is_a_new_session(forks: Fixture) -> None:
    """There is nothing to go on from yet: the fork is a new session in the same place."""
    forks.server.ask("POST", "/sessions", {"sessionId": "source", "agent": forks.agent}).body()
    fork = forks.fork("source", "fork")

    assert (fork["forkedFrom"], fork["agent"]) == (None, forks.agent)
    assert forks.knows("fork", "first-answer") == [False]


def test_fork_of_a_fork(forks: Fixture) -> None:
    """A fork can be forked, before its first prompt and later."""
    forks.prompt("source", "text first-answer")
    forks.fork("source", "unused")
    early = forks.fork("unused", "early")
    forks.prompt("unused", "text answer-of-the-fork")
    forks.fork("unused", "late")

    assert early["forkedFrom"] == {"sessionId": "unused", "eventId": 0}
    assert forks.knows("early", "first-answer", "answer-of-the-fork") == [True, False]
    assert forks.knows("late", "first-answer", "answer-of-the-fork") == [True, True]


def test_fork_outlives_its_source_and_the_server(forks: Fixture) -> None:
    """The source is deleted and the server killed before the fork is used: it still knows all."""
    forks.prompt("source", "text first-answer")
    forks.fork("source", "fork")
    forks.server.ask("DELETE", "/sessions/source").body()
    forks.server.kill9()
    forks.server.start()

    assert forks.knows("fork", "first-answer") == [True]
    forks.server.kill9()
    forks.server.start()
    assert forks.knows("fork", "first-answer", "what I know") == [True, True]


def test_fork_whose_first_process_is_killed(forks: Fixture) -> None:
    """The fork's agent is killed in its first turn: the next one knows what the fork began with."""
    forks.prompt("source", "text first-answer")
    forks.fork("source", "fork")
    known = set(forks.server.agents())
    with forks.server.generate(script("bash tail -f /dev/null"), "fork", agent=forks.agent) as stream:
        stream.until(lambda event: b"tail -f" in event.data and event.id > 1)
        # The agent before its command: else it would see that end, and its turn with it.
        for pid in sorted(set(forks.server.agents()) - known, key=started_at):
            with contextlib.suppress(ProcessLookupError):  # It has gone with the one before.
                os.kill(pid, signal.SIGKILL)
        assert stream.rest()[-1].json["status"] == "failed"

    assert forks.knows("fork", "first-answer") == [True]


def test_fork_of_a_conversation_that_is_gone(forks: Fixture) -> None:
    """Somebody has deleted the agent's record of the conversation: I am told, and nothing is made."""
    forks.prompt("source", "text first-answer")
    internal = forks.server.ask("GET", "/sessions/source").json["internalSessionId"]
    for record in forks.server.directory.rglob(f"*{internal}.jsonl"):
        record.unlink()
    answer = forks.server.ask("POST", "/sessions/source/fork", {"sessionId": "fork"})

    assert (answer.status, answer.json["code"]) == (409, "conversation_lost")
    assert forks.server.ask("GET", "/sessions/fork").status == 404


def test_claude_may_compact_its_conversation_after_a_fork(claude_server: Server, model: ModelApi) -> None:
    """The source's conversation is compacted before the fork is used: the fork knows it as it was."""
    forks = Fixture(claude_server, "claude-code", lambda: str(model.requests[-1].body["messages"]))
    forks.prompt("source", "bash echo one", "text first-answer")
    forks.fork("source", "fork")
    claude_server.generate("/compact", "source").rest()

    assert forks.knows("fork", "first-answer") == [True]


def test_fork_of_a_cleared_conversation_is_new(claude_server: Server, model: ModelApi) -> None:
    """I have cleared the conversation: a fork knows as little as the source does."""
    forks = Fixture(claude_server, "claude-code", lambda: str(model.requests[-1].body["messages"]))
    forks.prompt("source", "text first-answer")
    claude_server.generate("/clear", "source").rest()

    assert forks.fork("source", "fork")["forkedFrom"] is None
    assert forks.knows("fork", "first-answer") == [False]
