"""A prompt as it is sent: what it may come with, and the id by which it arrives once."""

from __future__ import annotations

import base64
import secrets
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

ImageSource: TypeAlias = Path | bytes | str
"""A file here, its content, or, as text, a path in the server's workspace or a `data:` URL."""

IMAGE_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


def prompt_body(
    prompt: str,
    *,
    session: str | None = None,
    images: Sequence[ImageSource] = (),
    message_id: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The body of `POST /generate/v2`. It has a `message_id`, so that it may be sent twice."""
    body = {
        "session_id": session or new_session_id(),
        "prompt": prompt,
        "message_id": message_id or str(uuid.uuid4()),
        "background": True,
        "format": "acp",
        "images": [_image(each) for each in images] or None,
        **options,
    }
    return {name: value for name, value in body.items() if value is not None}


def new_session_id() -> str:
    """`20260301-120000-3f2a`: sorts by time, and is short enough to type."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _image(source: ImageSource) -> str | dict[str, str]:
    if isinstance(source, str):
        return source
    content = source if isinstance(source, bytes) else source.read_bytes()
    kind = next((kind for head, kind in IMAGE_TYPES.items() if content.startswith(head)), "image/png")
    return {"data": base64.b64encode(content).decode(), "mediaType": kind}
