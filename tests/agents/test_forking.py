"""What adapters know of places in a conversation, and how they copy one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentsrv.agents.claude.agent import ClaudeCode
from agentsrv.agents.claude.transcript import copy_transcript
from agentsrv.agents.codex.adapter import CodexAdapter
from agentsrv.agents.codex.agent import Codex
from agentsrv.agents.codex.requests import Surroundings
from agentsrv.agents.contract import Agent
from agentsrv.agents.model_servers import ModelServer
from agentsrv.config import Config
from agentsrv.errors import Conflict
from agentsrv.jsontext import dump
from agentsrv.model import Fork, TurnOptions
from agentsrv.threads import Pool, Threads

TRANSCRIPTS = Path(__file__).parent / "transcripts"
FORK = Fork("source", 9, "old", "turn-3")


def make(kind: Callable[[Config, Pool], Agent], directory: Path) -> Agent:
    environment = {"HOME": str(directory), "CODEX_HOME": str(directory)}
    return kind(
        Config(
            api_keys=("an-api-key-0123456789",),
            workspace_base=directory,
            state_dir=directory,
            database_path=directory / "db",
            environment=environment,
        ),
        Threads().programs,
    )


def line(uuid: str | None = None, **fields: object) -> bytes:
    return dump({"sessionId": "old", "uuid": uuid, **fields}) + b"\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "old.jsonl"
    path.write_bytes(
        line(type="mode")
        + line("a", type="user", text='says "sessionId":"old" and "uuid":"b"')
        + line("b", type="assistant")
        + line("c", type="user")
    )
    return path


@pytest.mark.parametrize(
    ("kind", "directory"), [(ClaudeCode, "claude"), (Codex, "codex")], ids=["claude", "codex"]
)
def test_every_captured_conversation_has_its_places(
    kind: Callable[[Config, Pool], Agent], directory: str, tmp_path: Path
) -> None:
    """A line names a place, in the conversation that the line belongs to, or it does not; none is beyond it."""
    agent = make(kind, tmp_path)
    captured = [path.read_bytes().splitlines() for path in (TRANSCRIPTS / directory).glob("*.jsonl")]
    places = [[place for event in lines if (place := agent.point_of(event))] for lines in captured]

    assert sum(map(bool, places)) > len(captured) / 2
    for lines, found in zip(captured, places, strict=True):
        assert all(conversation.encode() in b"".join(lines) for conversation, _ in found)


def test_messages_of_claude_are_places_and_those_of_its_subagents_are_not(tmp_path: Path) -> None:
    """A subagent's message is not in the conversation that a fork goes on from."""
    agent = make(ClaudeCode, tmp_path)
    message = {"type": "assistant", "uuid": "u", "session_id": "s", "parent_tool_use_id": None}

    assert agent.point_of(dump(message)) == ("s", "u")
    for change in ({"parent_tool_use_id": "t"}, {"type": "result"}, {"uuid": None}, {"session_id": 1}):
        assert agent.point_of(dump(message | change)) is None


@pytest.mark.parametrize("event", [b"", b"x", b"[]", b'"turn/completed"', b'{"type":1}', b"[" * 9999])
@pytest.mark.parametrize("kind", [ClaudeCode, Codex], ids=["claude", "codex"])
def test_what_is_no_message_is_no_place(
    kind: Callable[[Config, Pool], Agent], event: bytes, tmp_path: Path
) -> None:
    """An agent may write anything."""
    assert make(kind, tmp_path).point_of(event) is None


def test_turns_that_codex_has_ended_are_places(tmp_path: Path) -> None:
    """Their beginning is none: Codex does not fork at a turn that has no end."""
    agent = make(Codex, tmp_path)
    params = {"threadId": "t", "turn": {"id": "u", "status": "interrupted"}}

    assert agent.point_of(dump({"method": "turn/completed", "params": params})) == ("t", "u")
    for method, odd in (("turn/started", params), ("turn/completed", {}), ("turn/completed", {"turn": 1})):
        assert agent.point_of(dump({"method": method, "params": odd})) is None


def test_copy_ends_at_the_point(source: Path) -> None:
    """The copy has its own name in every line, and nothing from behind the point; texts stay as they are."""
    copy_transcript(source, "new", "b")

    copy = source.with_name("new.jsonl")
    assert copy.read_bytes() == b"".join(source.read_bytes().splitlines(True)[:3]).replace(
        b'"sessionId":"old",', b'"sessionId":"new",'
    )
    assert b'says \\"sessionId\\":\\"old\\"' in copy.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600


def test_copy_without_a_point_is_whole(source: Path) -> None:
    """All of the conversation."""
    copy_transcript(source, "new", None)

    assert source.with_name("new.jsonl").read_bytes() == source.read_bytes().replace(
        b'"sessionId":"old",', b'"sessionId":"new",'
    )


def test_what_cannot_be_copied_leaves_nothing(source: Path) -> None:
    """The point is not there; or a pipe, a link, an endless line or nothing is in the transcript's place: a clear
    error each time."""
    directory = source.parent
    os.mkfifo(directory / "pipe.jsonl")
    (directory / "link.jsonl").symlink_to(source)
    with (directory / "endless.jsonl").open("wb") as endless:
        endless.truncate(1 << 40)
    before = sorted(directory.iterdir())

    for name, point in (("old", "d"), ("pipe", None), ("link", None), ("endless", None), ("nothing", None)):
        with pytest.raises(Conflict) as refused:
            copy_transcript(directory / f"{name}.jsonl", "new", point)
        assert refused.value.code == "conversation_lost"
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("kind", [ClaudeCode, Codex])
@pytest.mark.parametrize("name", ["../../secret", "*", "**", "a/b", "x" * 5000, "a\0", "-x", ""])
def test_a_name_that_leads_elsewhere_names_no_conversation(
    kind: Callable[[Config, Pool], Agent], tmp_path: Path, name: str
) -> None:
    """An agent may call its conversation what it likes; only what is below its own directory is looked for."""
    (tmp_path / ".claude/projects/p").mkdir(parents=True)
    (tmp_path / "secret.jsonl").write_text("")

    with pytest.raises(Conflict):
        make(kind, tmp_path).copy_conversation(Fork("source", 9, name, None), "/srv")


def ask_for_thread(internal_id: str | None) -> tuple[CodexAdapter, bytes]:
    """A process of a fork, and what it asks Codex for when it may."""
    adapter = CodexAdapter(
        Surroundings("/srv", ModelServer("http://model", None), fork=FORK), internal_id, {}
    )
    adapter.begin_turn(None, TurnOptions())
    effect = adapter.receive(b'{"id":"initialize","result":{}}')
    assert effect is not None
    assert effect.reply is not None
    return adapter, effect.reply


def test_codex_forks_once() -> None:
    """The first process forks the thread up to the point; the next ones resume the fork's own."""
    _, first = ask_for_thread(None)
    _, second = ask_for_thread("mine")

    for part in (b'"method":"thread/fork"', b'"threadId":"old"', b'"lastTurnId":"turn-3"'):
        assert part in first
    for part in (b'"method":"thread/resume"', b'"threadId":"mine"'):
        assert part in second


def test_codex_tells_when_there_is_nothing_to_fork() -> None:
    """The turn ends with a clear error and its own code."""
    adapter, _ = ask_for_thread(None)
    effect = adapter.receive(b'{"id":"fork","error":{"code":-32600,"message":"no rollout found"}}')

    assert effect is not None
    assert effect.gave_up is not None
    assert effect.gave_up.error_code == "conversation_lost"
    assert "no rollout found" in str(effect.gave_up.error)
