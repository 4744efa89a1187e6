"""The bodies of requests, in: JSON as a value that the layers below can trust, or bytes as they come.

Everything from outside passes here or `urls.py` once. Nothing is read before it is wanted, nor more than is allowed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import HttpVersion11, web

from agentsrv.api.access_log import IS_KNOWN
from agentsrv.api.fields import convert, convert_strictly, convert_text
from agentsrv.api.keys import CONFIG, LARGE_BODIES, PARSING, THREADS
from agentsrv.api.strict_json import parse_json
from agentsrv.errors import InvalidInput, LimitReached, TooLarge, TooSlow, UnsupportedMediaType

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

JSON = "application/json"
FIELDS = "application/x-www-form-urlencoded"
MAX_FIELDS = 1000

LARGE_BYTES = 64 * 1024
"""Of a body: what has more is parsed in a thread."""

MIN_BYTES_PER_S = 1024
"""Of a body that goes to the disk as it comes: one byte now and then would hold its place for ever."""

_CREDIT = web.RequestKey("credit", tuple[float, int])
"""How long its sender may still send nothing, in seconds; and how many bytes are in that already."""

_READ = web.RequestKey("read", bytearray)
"""The body, when somebody has looked into it already."""

MAX_LARGE_BODIES = 8
"""In memory at once. Each costs several times its size until it is dealt with."""


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The JSON body as a `kind`.

    Raises UnsupportedMediaType, LimitReached (`too_many_large_bodies`), TooSlow, TooLarge,
    InvalidInput (`invalid_json`, `invalid_body`, or `invalid_input` with every field that is wrong).
    """
    async with held_body(request, kind) as body:
        return body


@asynccontextmanager
async def held_body(request: web.Request, kind: type[T]) -> AsyncIterator[T]:
    """Like `read_body`, for a body that is kept for a while: a large one counts as such until the block ends."""
    _require_json(request)
    async with _room(request):
        yield await _decoded(request, await _read(request), kind)


async def read_optional_body(request: web.Request, kind: type[T]) -> T:
    """Like `read_body`; no body counts as `{}`, also one of no bytes, which proxies make of it."""
    async with _room(request):
        body = await _read(request)
        if not body:
            return kind()
        _require_json(request)
        return await _decoded(request, body, kind)


async def peek_body(request: web.Request) -> bytearray:
    """The body as it is, for those who decide where it belongs. It is there to be read by the handler as well."""
    async with _room(request):
        request[_READ] = body = await _read(request)
    return body


async def require_valid(request: web.Request, body: bytearray, kind: type[msgspec.Struct]) -> None:
    """Raises what `read_body` would."""
    _require_json(request)
    await _decoded(request, body, kind)


async def body_chunks(request: web.Request) -> AsyncGenerator[bytes, None]:
    """The request's body as it comes. Raises TooSlow when nothing comes for `BODY_TIMEOUT`."""
    await invite_body(request)
    while chunk := await in_time(request, request.content.readany()):
        yield chunk


async def in_time(request: web.Request, reading: Awaitable[V]) -> V:
    """What is read from the request.

    Raises TooSlow when nothing comes for `BODY_TIMEOUT`, or for so long less than MIN_BYTES_PER_S.
    """
    timeout_s = request.app[CONFIG].body_timeout_s
    left_s, counted = request.get(_CREDIT, (timeout_s, 0))
    loop, body = asyncio.get_running_loop(), request.content
    began = loop.time()
    try:
        async with asyncio.timeout(left_s):
            return await reading
    except TimeoutError as exc:
        raise TooSlow(f"nothing came for {timeout_s:g} s, or too little; send it again") from exc
    finally:
        # Each byte buys a moment. What passes between the reads is the server's own time.
        left_s += (body.total_bytes - counted) / MIN_BYTES_PER_S - (loop.time() - began)
        request[_CREDIT] = (min(left_s, timeout_s), body.total_bytes)


def require_size(request: web.Request, size: int) -> None:
    """Raises TooLarge for a body of more than `MAX_BODY_BYTES`; without a key none has a place among the large ones."""
    limit = request.app[CONFIG].max_body_bytes
    if IS_KNOWN not in request:
        limit = min(limit, LARGE_BYTES)
    if size > limit:
        raise TooLarge(f"the body is larger than {limit} bytes")


async def continue_later(request: web.Request) -> None:
    """For aiohttp's `expect_handler`: who asks before sending a body is answered when we want to read it."""


async def invite_body(request: web.Request) -> None:
    """Ask for a body that its sender holds back until then. Call it before the body is read."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The writer counts what it sent to know whether a response has begun; this was none.
        request.writer.output_size = 0


def _require_json(request: web.Request) -> None:
    """Or fields of a form, as earlier clients may send them; the key that is asked for keeps other pages out."""
    if request.body_exists and (
        request.content_type not in (JSON, FIELDS)
        or (request.charset or "utf-8").lower() not in ("utf-8", "utf8")
    ):
        raise UnsupportedMediaType("send the body as application/json, in UTF-8")


@asynccontextmanager
async def _room(request: web.Request) -> AsyncIterator[None]:
    """Wait in line to read a large body, or one that does not say its size. Its sender waits meanwhile, too."""
    size = request.content_length if request.body_exists else 0
    if IS_KNOWN not in request or (size is not None and size <= LARGE_BYTES):
        yield
        return
    room = request.app[LARGE_BODIES]
    try:
        async with asyncio.timeout(request.app[CONFIG].body_timeout_s):
            await room.acquire()
    except TimeoutError as exc:
        raise LimitReached(
            "too many large requests at once; wait for some to end", code="too_many_large_bodies"
        ) from exc
    try:
        yield
    finally:
        room.release()


async def _read(request: web.Request) -> bytearray:
    """The body. Not by `request.read`, which copies it and keeps that for as long as an answer streams."""
    if _READ in request:
        known: bytearray = request.pop(_READ)
        return known
    timeout_s = request.app[CONFIG].body_timeout_s
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            await invite_body(request)
            while chunk := await request.content.readany():
                body += chunk
                require_size(request, len(body))
        return body
    except TimeoutError as exc:
        raise TooSlow(f"the body did not arrive within {timeout_s:g} s; send it faster or smaller") from exc


def parse_fields(body: bytes | bytearray) -> dict[str, str | list[str]]:
    """The fields of a form by name; of one that comes several times, a list."""
    found: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        ):
            found.setdefault(name, []).append(value)
    except ValueError as exc:
        raise InvalidInput("the body is not a form of UTF-8 fields", code="invalid_body") from exc
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


async def _decoded(request: web.Request, body: bytearray, kind: type[T]) -> T:
    if request.content_type == FIELDS:
        return convert(parse_fields(body), kind, convert_text)
    if len(body) <= LARGE_BYTES:
        document = parse_json(body)
    else:
        # One at a time: each holds the interpreter's lock for long, and many in turn for longer.
        async with request.app[PARSING]:
            document = await request.app[THREADS].folding.run(parse_json, body)
    if not isinstance(document, dict):
        raise InvalidInput("the body must be a JSON object", code="invalid_body")
    return convert(document, kind, convert_strictly)
