"""From a request to values that the layers below can trust. Everything from outside passes here once.

Text that SQLite, the file system or `exec` would choke on (NUL, lone surrogates) is refused at this door, and
all fields that are wrong are reported together.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, NoReturn, TypeVar, get_args
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import HttpVersion11, web

from agentsrv.api.keys import CONFIG, LARGE_BODIES, PARSING
from agentsrv.api.schemas import AgentText
from agentsrv.errors import (
    InvalidInput,
    LimitReached,
    NotFound,
    Problem,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
)
from agentsrv.model import SESSION_ID, SessionId, TurnId

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

MAX_DEPTH = 64
"""How deep a body may nest. Nothing that we accept needs more, and what comes after us recurses."""

LARGE_BYTES = 64 * 1024
"""Of a body: what has more is parsed in a thread."""

MAX_LARGE_BODIES = 8
"""In memory at once. Each costs several times its size until it is dealt with."""

MAX_VALUES = 100_000
"""In a body. The parser holds the whole process up, for a second with a million of them, and takes 100 MiB."""

TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A text in JSON; the last one also without its end."""

RESERVED_IDS = frozenset({"filesystem"})
"""`/sessions/filesystem/...` are routes of earlier clients."""

UNMATCHED = "matching regex"
"""What msgspec says of a text that does not have the pattern of its field."""

TURN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


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


async def _decoded(request: web.Request, body: bytearray, kind: type[T]) -> T:
    if len(body) <= LARGE_BYTES:
        document = parse_json(body)
    else:
        # One at a time: each holds the interpreter's lock for long, and many in turn for longer.
        async with request.app[PARSING]:
            document = await asyncio.to_thread(parse_json, body)
    if not isinstance(document, dict):
        raise InvalidInput("the body must be a JSON object", code="invalid_body")
    return convert(document, kind, _convert_strictly)


def read_query(request: web.Request, kind: type[T]) -> T:
    """The query parameters as a `kind`; each may come once, a list several times. Unknown ones are ignored."""
    require_utf8(request)
    found = {
        field.encode_name: (request.query.getall(field.encode_name), field.default_factory is list)
        for field in _fields(kind)
        if field.encode_name in request.query
    }
    if repeated := [name for name, (texts, is_list) in found.items() if len(texts) > 1 and not is_list]:
        _refuse([Problem(name, "may be given only once") for name in repeated])
    values = {name: texts if is_list else texts[0] for name, (texts, is_list) in found.items()}
    return convert(values, kind, _convert_text)


def require_utf8(request: web.Request) -> None:
    """Refuse a query with escapes that are not UTF-8: they would be taken for the text `%ff`."""
    try:
        unquote_to_bytes(request.rel_url.raw_query_string).decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput("the query is not UTF-8; a path that is not is given as a file: URI") from exc


def session_id_of(request: web.Request) -> SessionId:
    """The session in the path. What cannot be an id names nothing."""
    text = request.match_info["session_id"]
    if not SESSION_ID.match(text):
        raise NotFound("no such session: the id in the path is not one", code="session_not_found")
    return SessionId(text)


def turn_id_of(request: web.Request) -> TurnId:
    text = request.match_info["task_id"]
    if not TURN_ID.fullmatch(text):
        raise NotFound("no such job: the id in the path is not one", code="job_not_found")
    return TurnId(text)


def given(value: V | msgspec.UnsetType) -> V | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def chosen_model(value: str | msgspec.UnsetType) -> str | None:
    """The model that was asked for; an agent's name in its place means the agent's own default."""
    return None if value in get_args(AgentText) else given(value)


def require_usable_id(field: str, session_id: str | None) -> None:
    if session_id in RESERVED_IDS:
        raise invalid_field(field, "is the name of a route; choose another id")


def invalid_field(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])


def _require_json(request: web.Request) -> None:
    if request.body_exists and (
        request.content_type != "application/json"
        or (request.charset or "utf-8").lower() not in ("utf-8", "utf8")
    ):
        raise UnsupportedMediaType("send the body as application/json, in UTF-8")


@asynccontextmanager
async def _room(request: web.Request) -> AsyncIterator[None]:
    """Wait in line to read a large body, or one that does not say its size. Its sender waits meanwhile, too."""
    size = request.content_length if request.body_exists else 0
    if size is not None and size <= LARGE_BYTES:
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


def require_size(request: web.Request, size: int) -> None:
    """Raises TooLarge for a body of more than `MAX_BODY_BYTES`."""
    limit = request.app[CONFIG].max_body_bytes
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


def parse_json(body: bytes | bytearray) -> Any:
    """The document: no NaN, no number that does not fit, no NUL, no lone surrogate, no depth or memory bomb."""
    if has_too_many_values(body):
        raise TooLarge(f"the body has more than {MAX_VALUES} values; send less")
    try:
        document = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    # RecursionError: brackets by the thousand. ValueError is also what bytes that are not UTF-8 and a number
    # of 5,000 digits give.
    except (ValueError, RecursionError) as exc:
        raise InvalidInput("the body is not valid JSON", code="invalid_json") from exc
    if bad := list(_bad_values(document)):
        _refuse(bad)
    return document


def has_too_many_values(body: bytes | bytearray) -> bool:
    """More than MAX_VALUES texts, or commas, brackets and braces outside of texts? Asked before they are made."""
    count = _count_separators(body)
    if count <= MAX_VALUES:
        return False
    for number, text in enumerate(TEXT.finditer(body)):
        count -= _count_separators(text[0])
        if number > MAX_VALUES:
            return True
    return count > MAX_VALUES


def _count_separators(body: bytes | bytearray) -> int:
    return sum(map(body.count, (b",", b"[", b"{")))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


def _bad_values(document: Any) -> Iterator[Problem]:
    """Text that cannot be stored and what is nested too deep. A loop: recursion is what depth bombs want."""
    pending: list[tuple[Any, tuple[str, ...]]] = [(document, ())]
    while pending:
        value, path = pending.pop()
        if isinstance(value, str):
            if reason := text_problem(value):
                yield Problem(".".join(path), reason)
        elif isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                yield Problem(path[0], f"is nested deeper than {MAX_DEPTH}")
                return
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                name = str(key)
                if text_problem(name):
                    yield Problem(".".join(path), "has a field name with characters that cannot be stored")
                elif isinstance(item, str | dict | list):
                    pending.append((item, (*path, name)))


def text_problem(text: str) -> str | None:
    """Why `text` cannot be stored or passed on, if so."""
    if "\0" in text:
        return "must not contain NUL"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "must not contain lone surrogates"
    return None


Convert = Callable[[Any, Any], Any]


@functools.cache
def _fields(kind: type[Any]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """msgspec evaluates all annotations each time that it is asked: 0.35 ms for the body of a prompt."""
    return msgspec.structs.fields(kind)


def convert(values: Mapping[str, Any], kind: type[T], convert_field: Convert) -> T:
    """A `kind` from `values`, field by field. Raises InvalidInput with all that are wrong."""
    fields: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in _fields(kind):
        name = field.encode_name
        if name in values:
            try:
                fields[field.name] = convert_field(values[name], field.type)
            except msgspec.ValidationError as exc:
                problems.append(_problem(name, str(exc), field.type))
        elif field.required:
            problems.append(Problem(name, "is required"))
    if problems:
        _refuse(problems)
    return kind(**fields)


def _convert_strictly(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, kind)


def _convert_text(text: str | list[str], kind: Any) -> Any:
    """`true`, `false` and whole numbers may be meant as such; text may be meant as text."""
    if reason := next(filter(None, map(text_problem, [text] if isinstance(text, str) else text)), None):
        raise msgspec.ValidationError(reason)
    if not isinstance(text, str):
        return msgspec.convert(text, kind)
    try:
        return msgspec.convert(text, kind)
    except msgspec.ValidationError as exc:
        if UNMATCHED in str(exc):
            raise
        return msgspec.convert(_literal(text), kind)


def _literal(text: str) -> bool | int | str:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text


def _problem(name: str, message: str, kind: Any) -> Problem:
    """msgspec's ``Expected `str`, got `int` - at `$[0].data` ``: its path goes on from ours."""
    reason, _, inner = message.partition(" - at `$")
    if not inner and reason.startswith("Invalid enum value") and (choices := list(_choices(kind))):
        reason = f"must be one of {', '.join(choices)}"
    elif not inner and UNMATCHED in reason and (description := next(_descriptions(kind), None)):
        reason = f"must be {description}"
    steps = re.findall(r"[^.\[\]`]+", inner)
    return Problem(".".join([name, *steps]), reason)


def _choices(kind: Any) -> Iterator[str]:
    """The texts that a field of this type may have, where they are listed."""
    if isinstance(kind, str):
        yield kind
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        yield from kind
    else:
        for part in get_args(kind):
            yield from _choices(part)


def _descriptions(kind: Any) -> Iterator[str]:
    """What a field of this type must be, in words."""
    if isinstance(kind, msgspec.Meta):
        if kind.description is not None:
            yield kind.description
    else:
        for part in get_args(kind):
            yield from _descriptions(part)


def _refuse(problems: list[Problem]) -> NoReturn:
    summary = "; ".join(
        f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in problems[:5]
    )
    raise InvalidInput(summary, problems=problems[:100])
