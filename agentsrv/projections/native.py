"""The agent's own lines as Server-Sent Events: what existing clients parse."""

from __future__ import annotations

from agentsrv.model import Chunk


def render(chunk: Chunk) -> bytes:
    """The chunk as SSE frames `data: <JSON>`, `id: <seq>`. Rendered once and shared by all followers."""
    if chunk.rendered is None:
        lines = enumerate(chunk.lines(), chunk.first_seq)
        chunk.rendered = b"".join([b"data: %s\nid: %d\n\n" % (line, seq) for seq, line in lines])
    return chunk.rendered
