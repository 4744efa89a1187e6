"""The user message, in one shape for all agents: the first event of a turn."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentsrv.model import Image, TurnId


def user_event(prompt: str, turn_id: TurnId, conversation: str | None, images: Sequence[Image] = ()) -> bytes:
    """The first event of a turn, in the shape that Claude Code gave it and clients know for every agent."""
    ids = {"uuid": turn_id, "session_id": conversation, "parent_tool_use_id": None}
    # Images are megabytes: they are put in at once, as they are.
    return b"".join(
        [
            b'{"type":"user","message":{"role":"user","content":[',
            msgspec.json.encode({"type": "text", "text": prompt}),
            *(part for image in images for part in _image_block(image)),
            b"]},",
            msgspec.json.encode(ids)[1:],
        ]
    )


def _image_block(image: Image) -> tuple[bytes, ...]:
    source = b'{"type":"base64","media_type":"%b","data":"' % image.media_type.encode()
    return b',{"type":"image","source":', source, image.data, b'"}}'
