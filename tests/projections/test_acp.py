"""The ACP projection: a pure function of the log, whole from any event on, and never more than ACP's schema allows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.agents.acp.updates import AcpUpdates
from agentsrv.agents.claude.updates import ClaudeUpdates
from agentsrv.agents.codex.updates import CodexUpdates
from agentsrv.agents.updates import UpdateReader
from agentsrv.model import Chunk, SessionId, Source, TurnId
from agentsrv.projections.acp import Acp
from agentsrv.projections.encoding import encoded, frames
from tests.acp_schema import check_frame

SESSION = SessionId("s")
TRANSCRIPTS = sorted((Path(__file__).parents[1] / "agents" / "transcripts").glob("*/*.jsonl"))
READERS: dict[str, Callable[[], UpdateReader]] = {
    "claude": ClaudeUpdates,
    "codex": CodexUpdates,
    "acp": AcpUpdates,
}
MANY = [
    "claude/partial_messages",
    "claude/interrupt_tool",
    "claude/subagent_long",
    "codex/partial",
    "codex/helper",
]

USER = {"type": "user", "message": {"content": [{"type": "text", "text": "hi"}]}, "uuid": "t1"}
DONE = {"done": True, "taskId": "t1", "status": "completed"}


@dataclass(frozen=True, slots=True)
class Logged:
    """An event, and whose turn it is part of."""

    seq: int
    source: Source
    line: bytes
    turn_id: TurnId | None


def log_of(*turns: tuple[str, Iterable[bytes]]) -> list[Logged]:
    """A session in which each turn is a prompt, these lines of the agent, and `done`."""
    log: list[Logged] = []

    def add(turn_id: str, source: Source, line: bytes) -> None:
        log.append(Logged(len(log) + 1, source, line, TurnId(turn_id)))

    for turn_id, lines in turns:
        add(turn_id, Source.USER, json.dumps(USER).encode())
        for line in lines:
            add(turn_id, Source.AGENT, line)
        add(turn_id, Source.SERVER, json.dumps(DONE).encode())
    return log


def recorded(name: str) -> list[bytes]:
    [path] = [path for path in TRANSCRIPTS if name == f"{path.parent.name}/{path.stem}"]
    return path.read_bytes().splitlines()


def chunks_of(log: list[Logged], cuts: Iterable[int] = ()) -> Iterator[Chunk]:
    """The log in chunks, which end where source or turn change, and at `cuts`."""
    bounds = {i for i in range(1, len(log)) if _place(log[i]) != _place(log[i - 1])} | {*cuts, 0}
    starts = sorted(bound for bound in bounds if 0 <= bound < len(log))
    for start, end in zip(starts, [*starts[1:], len(log)], strict=True):
        part = log[start:end]
        data = b"".join(event.line + b"\n" for event in part)
        first = part[0]
        yield Chunk(SESSION, first.turn_id, first.source, 0, first.seq, part[-1].seq, data)


def _place(event: Logged) -> tuple[Source, TurnId | None]:
    return event.source, event.turn_id


def rendered(log: list[Logged], reader: str, *, after: int = 0, cuts: Iterable[int] = ()) -> bytes:
    projection = Acp(SESSION, READERS[reader], after=after)
    return b"".join(frames(projection.read(chunk)) for chunk in chunks_of(log, cuts))


def frames_of(stream: bytes) -> list[tuple[int | None, dict[str, Any]]]:
    """(id, data) of each frame."""
    found = []
    for frame in stream.split(b"\n\n")[:-1]:
        data, _, seq = frame.removeprefix(b"data: ").partition(b"\nid: ")
        found.append((int(seq) if seq else None, json.loads(data)))
    return found


def told(*events: tuple[Source, dict[str, Any]]) -> list[dict[str, Any]]:
    """What a follower is sent of these events."""
    log = [
        Logged(seq, source, json.dumps(event).encode(), TurnId("t1"))
        for seq, (source, event) in enumerate(events, 1)
    ]
    return [data for _, data in frames_of(rendered(log, "claude"))]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_all_that_is_sent_is_acp(path: Path) -> None:
    """Each frame of everything that an agent was recorded to say is as ACP's schema wants it, to the field."""
    log = log_of(("t1", path.read_bytes().splitlines()))

    sent = frames_of(rendered(log, path.parent.name))
    for _, frame in sent:
        check_frame(frame)
    assert "user_message_chunk" == sent[0][1]["update"]["sessionUpdate"]
    assert sent[-1] == (len(log), DONE | {"stopReason": sent[-1][1]["stopReason"]})


@pytest.mark.parametrize("name", MANY)
@given(data=st.data())
def test_chunks_make_no_difference(name: str, data: st.DataObject) -> None:
    """However the log is cut into chunks, what is sent is the same."""
    log = log_of(("t1", recorded(name)))
    cuts = data.draw(st.sets(st.integers(1, len(log) - 1)))

    reader = name.partition("/")[0]
    assert rendered(log, reader, cuts=cuts) == rendered(log, reader)


@pytest.mark.parametrize("name", MANY)
def test_fold_goes_on_from_what_another_one_has_come_to(name: str) -> None:
    """At whichever event the state is handed over: what follows is the same, to the byte."""
    reader = READERS[name.partition("/")[0]]
    log = log_of(("t1", recorded(name)))
    chunks = list(chunks_of(log, range(len(log))))
    first = Acp(SESSION, reader)
    for place, chunk in enumerate(chunks, 1):
        first.read(chunk)
        if place % 7 == 0:
            whole, second = Acp(SESSION, reader, after=place), Acp(SESSION, reader, state=first.state())
            expected = b"".join(frames(whole.read(each)) for each in chunks)
            assert b"".join(frames(second.read(each)) for each in chunks[place:]) == expected


@pytest.mark.parametrize("name", MANY)
def test_resuming_anywhere_gives_the_rest(name: str) -> None:
    """From whichever event I come back: I get what I would have got, to the byte."""
    reader = name.partition("/")[0]
    log = log_of(("t1", recorded(name)), ("t2", recorded(name)))
    whole = rendered(log, reader)
    second = next(event.seq for event in log if event.turn_id == "t2")

    for seq, _ in frames_of(whole):
        if seq is not None:
            # The events of the turn that holds the place are enough.
            known = log if seq < second else log[second - 1 :]
            rest = rendered(known, reader, after=seq)
            assert whole.endswith(rest)
            assert f"id: {seq}\n".encode() in whole.removesuffix(rest).splitlines(keepends=True)[-2]


def test_turns_do_not_disturb_each_other() -> None:
    """What is sent of a turn follows from its own events: the same turn again is told as the first time."""
    lines = recorded("claude/partial_messages")
    frames = [data for _, data in frames_of(rendered(log_of(("t1", lines), ("t2", lines)), "claude"))]

    assert frames[: len(frames) // 2] == frames[len(frames) // 2 :]


def test_what_comes_after_a_turn_is_told_as_part_of_it() -> None:
    """A helper ends when the turn is over: it is known whose helper it was, also to who comes back only then."""
    lines = recorded("codex/helper")
    end = next(index for index, line in enumerate(lines) if b'"turn/completed"' in line) + 1
    log = log_of(("t1", lines[:end]))
    log += [Logged(seq, Source.AGENT, line, None) for seq, line in enumerate(lines[end:], len(log) + 1)]

    late = frames_of(rendered(log, "codex", after=end + 2))
    thought, ended = (frame["update"] for _, frame in late)
    assert thought["_meta"]["agentsrv"]["parentToolCallId"] == ended["toolCallId"] == "call_31"
    assert ended["status"] == "completed"


def test_last_frame_of_an_event_has_its_id() -> None:
    """A prompt of text and image is two updates; a connection lost between them gets both again."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    event = USER | {"message": {"content": [{"type": "text", "text": "look"}, image]}}
    log = [Logged(1, Source.USER, json.dumps(event).encode(), TurnId("t1"))]

    frames = frames_of(rendered(log, "claude"))
    assert [(seq, frame["update"]["content"]["type"]) for seq, frame in frames] == [
        (None, "text"),
        (1, "image"),
    ]


def test_prompt_of_the_earlier_server_is_a_prompt() -> None:
    """Sessions that were taken over have prompts that are plain text."""
    [frame] = told((Source.USER, {"type": "user", "message": {"role": "user", "content": "hi"}}))

    assert frame["update"] == {
        "sessionUpdate": "user_message_chunk",
        "content": {"type": "text", "text": "hi"},
    }


def test_what_the_server_says_passes_on() -> None:
    """Errors, gaps, worktrees and what could not be read are told in our own shapes, whatever the agent."""
    ours: list[dict[str, Any]] = [
        {"type": "system", "subtype": "worktree_init", "cwd": "/w", "git_root": "/w"},
        {"type": "gap", "after": 3},
        {"type": "error", "error": "no", "code": "agent_error"},
    ]
    raw = {"type": "raw", "data": "no JSON"}

    assert told(*[(Source.SERVER, event) for event in ours], (Source.AGENT, raw)) == [*ours, raw]


def test_job_that_never_began_has_its_end() -> None:
    """A queued job that is cancelled has no place in the log; its only event comes all the same."""
    chunk = Chunk(
        SESSION,
        TurnId("t1"),
        Source.SERVER,
        0,
        0,
        0,
        json.dumps(DONE | {"status": "cancelled"}).encode() + b"\n",
    )

    [(seq, done)] = frames_of(frames(Acp(SESSION, CodexUpdates).read(chunk)))
    assert (seq, done["status"], done["stopReason"]) == (0, "cancelled", "cancelled")


def test_question_is_asked_in_both_ways() -> None:
    """A request for permission is as on our own routes, and as ACP would ask it."""
    request = {
        "type": "permission_request", "requestId": "r1", "taskId": "t1", "sessionId": "s", "kind": "permission",
        "tool": "Bash", "title": "ls", "input": {"command": "ls"}, "toolCallId": "c1", "allowance": "Bash",
        "options": [], "details": {},
    }  # fmt: skip
    [event] = told((Source.AGENT, request))

    check_frame(event)
    kinds = [option["kind"] for option in event["request"]["options"]]
    assert (event | request, kinds) == (event, ["allow_once", "allow_always", "reject_once"])
    assert len(told((Source.AGENT, request | {"allowance": None}))[0]["request"]["options"]) == 2


USE = {"type": "tool_use", "id": "c1", "name": "Bash", "input": {"command": "ls"}}
CALL = {"type": "assistant", "message": {"id": "m", "content": [USE]}}
ASKED = {
    "type": "permission_request", "requestId": "r1", "sessionId": "s", "kind": "permission", "tool": "Bash",
    "title": "Bash: ls", "input": {"command": "ls"}, "toolCallId": "c1", "allowance": "ls", "details": {},
}  # fmt: skip


def test_question_shows_the_call_as_it_was_told_of() -> None:
    """A client that has only the request can show what it is about; one that has the call sees no other."""
    call, asked = told((Source.AGENT, CALL), (Source.AGENT, ASKED))

    shown = {name: value for name, value in call["update"].items() if name != "sessionUpdate"}
    assert asked["request"]["toolCall"] == shown | {"status": "pending"}


@pytest.mark.parametrize(
    ("calls", "decision", "statuses"),
    [
        ([CALL], "allow", ["in_progress"]),
        ([CALL], "deny", []),
        ([], "allow", ["completed"]),
        ([], "timed_out", ["failed"]),
    ],
)
def test_call_goes_on_with_the_answer(calls: list[Any], decision: str, statuses: list[str]) -> None:
    """Asked for, a call is pending: allowed, it goes on; refused, the agent says so. One that only the question
    has told of ends with it."""
    answer = {"type": "permission_resolved", "requestId": "r1", "decision": decision}
    events = [(Source.AGENT, event) for event in (*calls, ASKED)]

    *updates, last = told(*events, (Source.SERVER, answer))[len(events) :]
    assert [frame["update"]["status"] for frame in updates] == statuses
    assert last == answer


@pytest.mark.parametrize(
    ("status", "reason"), [("completed", "end_turn"), ("cancelled", "cancelled"), ("failed", None)]
)
def test_end_of_a_turn_has_a_reason(status: str, reason: str | None) -> None:
    """`done` says why in ACP's words, where it has one."""
    done = DONE | {"status": status}

    assert told((Source.SERVER, done)) == [done | {"stopReason": reason} if reason else done]


def test_limit_is_a_reason_also_of_a_failed_turn() -> None:
    """A turn that failed because it reached its limit says so."""
    result = {"type": "result", "subtype": "error_max_turns", "is_error": True}

    [done] = told((Source.AGENT, result), (Source.SERVER, DONE | {"status": "failed"}))
    assert done["stopReason"] == "max_turn_requests"


@pytest.mark.parametrize(("status", "closed"), [("cancelled", True), ("completed", False)])
def test_calls_that_were_broken_off_have_failed(status: str, closed: bool) -> None:
    """I stop a turn: its running command is shown as failed. One in the background goes on after its turn."""
    use = {"type": "tool_use", "id": "c1", "name": "Bash", "input": {"command": "sleep"}}
    call = {"type": "assistant", "message": {"id": "m", "content": [use]}}

    *updates, _ = told((Source.AGENT, call), (Source.SERVER, DONE | {"status": status}))
    statuses = [frame["update"]["status"] for frame in updates]
    assert statuses == ["in_progress", "failed"][: 1 + closed]


def test_call_that_was_never_made_has_failed() -> None:
    """The model's stream breaks while it writes a call: the call is not left pending for ever."""
    block = {"type": "tool_use", "id": "c1", "name": "Bash"}
    event = {"type": "content_block_start", "index": 0, "content_block": block}

    *updates, _ = told((Source.AGENT, {"type": "stream_event", "event": event}), (Source.SERVER, DONE))
    assert [frame["update"]["status"] for frame in updates] == ["pending", "failed"]


def test_messages_are_whole() -> None:
    """History has no deltas, no `done` and no questions, but errors."""
    lines = recorded("claude/partial_messages")
    ours = [
        b'{"type": "gap", "after": 9}',
        b'{"type": "permission_request"}',
        b'{"type": "error", "error": "no"}',
    ]
    added = [Logged(seq, Source.SERVER, line, TurnId("t1")) for seq, line in enumerate(ours, 1000)]
    history = Acp(SESSION, lambda: ClaudeUpdates(deltas=False), messages_only=True)

    log = [*log_of(("t1", lines)), *added]
    values = [
        json.loads(value)
        for chunk in chunks_of(log)
        for _, values in encoded(history.read(chunk))
        for value in values
    ]
    texts = [
        value["update"]["content"]["text"]
        for value in values
        if value.get("update", {}).get("sessionUpdate") == "agent_message_chunk"
    ]
    assert texts == ["delta 0 delta 1 delta 2 ", "end"]
    assert [value for value in values if "update" not in value] == [json.loads(ours[-1])]


VALUES: list[Any] = [
    None,
    True,
    -1,
    10**30,
    0.5,
    "",
    "x",
    "\ud800",
    [],
    [1],
    [{}],
    {},
    {"type": "text", "text": 1},
]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_odd_values_break_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An agent whose lines have anything anywhere gets no follower into trouble, and out comes ACP or nothing."""
    chance = random.Random(path.stem)
    for _ in range(20):
        lines = [
            json.dumps(_spoiled(json.loads(line), chance)).encode() for line in path.read_bytes().splitlines()
        ]
        for _, frame in frames_of(rendered(log_of(("t1", lines)), path.parent.name)):
            check_frame(frame)

    assert caplog.text == ""


def _spoiled(value: Any, chance: random.Random) -> Any:
    """The value with a few of the values in it replaced by others."""
    if chance.random() < 0.03:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        return {key: _spoiled(item, chance) for key, item in value.items()}
    return [_spoiled(item, chance) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"1",
        b"{}",
        b'{"type":"brand_new","x":1}',
        b'{"method":"brand/new","params":{}}',
        b'{"type":"assistant","message":{"content":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ],
    ids=["list", "number", "empty", "type", "method", "deep"],
)
def test_unknown_lines_do_no_harm(reader: str, line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What we do not know or cannot read is silent or raw, and what comes after it is told."""
    frames = frames_of(rendered(log_of(("t1", [line])), reader))

    assert [data.get("type") for _, data in frames[1:-1]] in ([], ["raw"])
    assert frames[-1][1]["done"] is True
    assert caplog.text == ""


def test_what_an_event_becomes_is_bounded() -> None:
    """A hostile line of a megabyte that would become gigabytes is told of in part, and the stream goes on."""
    edits = {"file_path": "p" * 4000, "edits": [{}] * 2000}
    call = {"type": "tool_use", "name": "MultiEdit", "input": edits}
    blocks = [{**call, "id": f"c{number}"} for number in range(20)]
    hostile = json.dumps({"type": "assistant", "message": {"id": "m", "content": blocks}}).encode()
    after = b'{"type":"assistant","message":{"id":"n","content":[{"type":"text","text":"on"}]}}'
    stream = rendered(log_of(("t1", [hostile, after])), "claude")

    assert len(hostile) < 2_000_000
    assert len(stream) < 70_000_000
    assert b'"text":"on"' in stream
