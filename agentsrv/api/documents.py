"""Documents that anybody may have: kept in memory as they are sent, as they are and compressed.

Not read from a file for each who asks: a thousand strangers would hold as many descriptors.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from hashlib import sha256

from aiohttp import hdrs, web
from msgspec import Struct

from agentsrv.api.compression import LEVEL, MIN_BYTES, takes_gzip
from agentsrv.api.keys import SLICES
from agentsrv.api.transfer import send


class Document(Struct, frozen=True):
    body: bytes
    packed: bytes
    content_type: str
    tag: str

    @classmethod
    def of(cls, body: bytes, content_type: str, packed: bytes = b"") -> Document:
        """`packed` is the same compressed, where that was done before."""
        if not packed and len(body) > MIN_BYTES:
            packed = gzip.compress(body, LEVEL, mtime=0)
        return cls(body, packed, content_type, sha256(body).hexdigest()[:16])


async def give(
    request: web.Request, document: Document, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Answer with a document: nothing when the client has it, compressed when it takes that."""
    head = {**(headers or {}), hdrs.ETAG: f'"{document.tag}"', hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if any(tag.value in (document.tag, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=head)
    body = document.body
    if document.packed and takes_gzip(request.headers.getall(hdrs.ACCEPT_ENCODING, ())):
        # The same bytes are promised for one strong ETag.
        body, head[hdrs.ETAG] = document.packed, f'W/"{document.tag}"'
        head[hdrs.CONTENT_ENCODING] = "gzip"
    head[hdrs.CONTENT_TYPE] = document.content_type
    return await send(request, request.app[SLICES].slices(body), headers=head, length=len(body))
