"""Frames become typed events, whatever is in them."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv import client as package
from agentsrv.client import events as e
from agentsrv.client.frames import FrameReader
from agentsrv.client.stream import _decoded

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KINDS = [
    "agent_message_chunk",
    "agent_thought_chunk",
    "user_message_chunk",
    "tool_call",
    "tool_call_update",
    "plan",
    "usage_update",
    "session_info_update",
    "of_tomorrow",
]
FIELDS = [
    "content",
    "toolCallId",
    "title",
    "entries",
    "used",
    "size",
    "cost",
    "locations",
    "_meta",
    "messageId",
]
TYPES = ["permission_request", "permission_resolved", "error", "raw", "gap", "system", "of_tomorrow"]
OURS = [
    "requestId",
    "taskId",
    "input",
    "options",
    "decision",
    "after",
    "data",
    "bytes",
    "error",
    "code",
    "subtype",
]


def read(raw: dict[str, Any]) -> e.AsyncEvent:
    return e.read(7, "s", raw, lambda question, answer: NotImplemented)


@pytest.mark.parametrize(
    ("raw", "kind", "fields"),
    [
        (
            {"update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "hi"}}},
            e.Text,
            {"text": "hi", "message_id": None},
        ),
        (
            {
                "update": {
                    "sessionUpdate": "user_message_chunk",
                    "content": {"type": "image", "mimeType": "image/png"},
                }
            },
            e.UserText,
            {"text": "", "media_type": "image/png"},
        ),
        (
            {"update": {"sessionUpdate": "tool_call_update", "toolCallId": "t", "status": "failed"}},
            e.ToolCall,
            {"tool_call_id": "t", "is_update": True, "status": "failed", "title": None, "content": None},
        ),
        (
            {"update": {"sessionUpdate": "usage_update", "used": 1, "size": 2}},
            e.Usage,
            {"used": 1, "size": 2},
        ),
        (
            {
                "update": {
                    "sessionUpdate": "session_info_update",
                    "_meta": {"agentsrv": {"notice": {"kind": "retry", "message": "again"}}},
                }
            },
            e.Notice,
            {"kind": "retry", "message": "again"},
        ),
        ({"type": "gap", "after": 41}, e.Gap, {"after": 41}),
        (
            {"type": "error", "error": "no", "code": "agent_error"},
            e.Error,
            {"message": "no", "code": "agent_error"},
        ),
        (
            {"type": "raw", "data": "x", "truncated": True, "bytes": 9},
            e.Raw,
            {"is_truncated": True, "size": 9},
        ),
        ({"done": True, "taskId": "t", "status": "failed"}, e.Done, {"task_id": "t", "status": "failed"}),
        ({"type": "of_tomorrow"}, e.Unknown, {"kind": "of_tomorrow"}),
        ({"update": {"sessionUpdate": "of_tomorrow"}}, e.Unknown, {"kind": "of_tomorrow"}),
    ],
)
def test_a_frame_is_the_event_that_it_says(raw: dict[str, Any], kind: type, fields: dict[str, Any]) -> None:
    """Each kind by its fields; one of tomorrow is `Unknown`."""
    event = read(raw)

    assert type(event) is kind
    assert (7, "s", raw) == (event.id, event.session_id, event.raw)
    assert fields == {name: getattr(event, name) for name in fields}


def test_what_has_happened_does_not_change() -> None:
    """Events are frozen, and have their place, their session, and all that was sent."""
    for each_kind in typing.get_args(package.Event):
        kind = typing.get_origin(each_kind) or each_kind
        assert kind.__dataclass_params__.frozen, kind
        assert [each.name for each in dataclasses.fields(kind)][:3] == ["id", "session_id", "raw"], kind


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), ANYTHING))
def test_no_update_is_an_exception(kind: str, fields: dict[str, Any]) -> None:
    """Whatever an update holds, it is an event."""
    assert read({"sessionId": "s", "update": {"sessionUpdate": kind, **fields}}).id == 7


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(OURS), ANYTHING))
def test_no_message_is_an_exception(type_: str, fields: dict[str, Any]) -> None:
    """Nor is anything that the server says itself."""
    assert read({"type": type_, **fields}).session_id == "s"


@given(st.binary(max_size=200))
def test_no_data_is_an_exception(data: bytes) -> None:
    """Nor is what is no JSON at all."""
    assert isinstance(_decoded(data), dict)
    assert read(_decoded(b'{"type":"x","n":NaN,"m":1e999,"data":' + data + b"}")).id == 7


@given(st.lists(st.lists(st.text(alphabet='ab{"\u00e9', max_size=5), min_size=1, max_size=3)), st.data())
def test_events_come_whole_wherever_they_are_cut(events: list[list[str]], data: st.DataObject) -> None:
    """Frames without an id belong to the next one that has one; comments are nothing."""
    sent = b"retry: 1000\n\n"
    for number, frames in enumerate(events, start=1):
        *others, last = (frame.encode() for frame in frames)
        sent += b"".join(b"data: %b\n\n" % frame for frame in others) + b": keepalive\n\n"
        sent += b"id: %d\ndata: %b\n\n" % (number, last)
    reader, got = FrameReader(), []
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        got += reader.feed(sent[:size])
        sent = sent[size:]

    assert [(n, [frame.encode() for frame in frames]) for n, frames in enumerate(events, start=1)] == got


def test_a_large_event_is_not_copied_for_each_piece() -> None:
    """Fifty megabytes in pieces take a moment, not minutes."""
    reader = FrameReader()
    piece = b"x" * 65536
    reader.feed(b"id: 1\ndata: ")
    for _ in range(800):
        assert reader.feed(piece) == []
    [(number, [data])] = reader.feed(b"\n\n")

    assert (1, 800 * 65536) == (number, len(data))
