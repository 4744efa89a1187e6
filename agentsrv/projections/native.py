"""The agent's own lines as Server-Sent Events: what existing clients parse."""

from __future__ import annotations

from agentsrv.model import Chunk


def render(chunk: Chunk) -> bytes:
    """The chunk as SSE frames `id: <seq>` and `data: <JSON>`. Rendered once and shared by all followers."""
    if chunk.rendered is None:
        lines = enumerate(chunk.lines(), chunk.first_seq)
        chunk.rendered = b"".join([b"id: %d\ndata: %s\n\n" % line for line in lines])
    return chunk.rendered
