"""Frames as existing clients parse them."""

from __future__ import annotations

from agentsrv.model import Chunk, SessionId, Source
from agentsrv.projections.native import render


def test_every_event_is_one_frame_with_its_own_id() -> None:
    """A client reads ids that go up by one, and on each `data:` line one JSON text, as the agent wrote it."""
    chunk = Chunk(SessionId("s"), None, Source.AGENT, 0, 7, 8, b'{"a": 1}\n{"b":"\xc3\xa4"}\n')

    assert render(chunk) == b'data: {"a": 1}\nid: 7\n\ndata: {"b":"\xc3\xa4"}\nid: 8\n\n'


def test_rendering_is_done_once() -> None:
    """Followers share the bytes: 64 of them cost one rendering."""
    chunk = Chunk(SessionId("s"), None, Source.AGENT, 0, 1, 1, b"{}\n")

    assert render(chunk) is render(chunk)


def test_rest_of_a_chunk_keeps_its_ids() -> None:
    """A client that has the first two events of a chunk gets the third as the third."""
    chunk = Chunk(SessionId("s"), None, Source.AGENT, 0, 4, 6, b"1\n2\n3\n")

    assert render(chunk.after(5)) == b"data: 3\nid: 6\n\n"
    assert chunk.after(3) is chunk
