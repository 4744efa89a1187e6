"""The form of an upload: files go to the disk as they come, the few fields beside them are kept."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import (
    BodyPartReader,
    MultipartReader,
    content_disposition_filename,
    hdrs,
    parse_content_disposition,
    web,
)
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct, field

from agentsrv.api.bodies import in_time, invite_body
from agentsrv.api.fields import text_problem
from agentsrv.errors import InvalidInput, TooLarge, UnsupportedMediaType, invalid_field
from agentsrv.workspace.files.upload import MAX_FILES, Delivery, upload_paths

T = TypeVar("T")

QUOTED = re.compile(r'(?<![\w*-])filename="((?:[^"\\]|\\.)*)"')
BY_BROWSERS = re.compile("%(?:22|0[AaDd])")

PIECE_BYTES = 256 * 1024
MAX_FIELDS = MAX_FILES + 10
MAX_FIELD_BYTES = 2 * 1024 * 1024
"""Of all fields together: 500 paths as one JSON array fit."""

MALFORMED = (ValueError, LookupError, RuntimeError, AssertionError, HttpProcessingError, RuntimeWarning)
"""What aiohttp's reader raises for a form that is none. The warning is one where warnings are errors."""


class Upload(Struct, frozen=True):
    """What the form says about its files. `names`: relative paths, in the order of the files."""

    target: str
    names: list[str]
    overwrite: bool


class _Form(Struct):
    fields: dict[str, list[str]] = field(default_factory=dict)
    file_names: list[str] = field(default_factory=list)
    field_bytes: int = 0


async def read_upload(request: web.Request, delivery: Delivery) -> Upload:
    """Stage every file of the form. The fields may come before, between and after the files.

    Raises UnsupportedMediaType, TooSlow, TooLarge, InvalidInput that names the field.
    """
    if request.content_type != "multipart/form-data":
        raise UnsupportedMediaType("send the files as multipart/form-data")
    await invite_body(request)
    form = _Form()
    try:
        reader = await request.multipart()
    except MALFORMED as exc:
        raise _malformed() from exc
    while (part := await _read(request, reader.next())) is not None:
        await _take(request, part, form, delivery)
    return _understood(form)


async def _take(
    request: web.Request, part: BodyPartReader | MultipartReader, form: _Form, delivery: Delivery
) -> None:
    if isinstance(part, MultipartReader):
        raise _malformed()
    try:
        _, parameters = parse_content_disposition(part.headers.get(hdrs.CONTENT_DISPOSITION))
    except MALFORMED as exc:
        raise _malformed() from exc
    name, file_name = parameters.get("name"), _file_name(part, parameters)
    if name is None:
        raise _malformed()
    if file_name is None:
        await _take_field(request, part, name, form)
        return
    if len(form.file_names) >= MAX_FILES:
        raise TooLarge(f"more than {MAX_FILES} files; send fewer at once")
    staged = await delivery.add(_content(request, part))
    if file_name or staged.size:
        form.file_names.append(file_name)
    else:
        # What a browser sends for a file input in which nothing was chosen.
        delivery.staged.remove(staged)


def _file_name(part: BodyPartReader, parameters: Mapping[str, str]) -> str | None:
    """As the person's disk has it. Browsers write `%22` for a quotation mark and leave a backslash as it is
    (WHATWG, multipart/form-data); curl puts a backslash before either."""
    plain = QUOTED.search(part.headers.get(hdrs.CONTENT_DISPOSITION, ""))
    if plain is None or "filename*" in parameters:
        return content_disposition_filename(parameters, "filename")
    name = re.sub(r'\\(["\\])', r"\1", plain[1])
    return BY_BROWSERS.sub(lambda code: unquote(code[0]), name)


async def _take_field(request: web.Request, part: BodyPartReader, name: str, form: _Form) -> None:
    if sum(map(len, form.fields.values())) >= MAX_FIELDS:
        raise TooLarge(f"more than {MAX_FIELDS} fields; send fewer files at once")
    value = bytearray()
    async for piece in _content(request, part):
        value += piece
        form.field_bytes += len(piece)
        if form.field_bytes > MAX_FIELD_BYTES:
            raise TooLarge(f"the fields have more than {MAX_FIELD_BYTES} bytes; send fewer files at once")
    try:
        form.fields.setdefault(name, []).append(value.decode())
    except UnicodeDecodeError as exc:
        raise invalid_field(name, "is not UTF-8") from exc


async def _content(request: web.Request, part: BodyPartReader) -> AsyncGenerator[bytes, None]:
    while not part.at_eof():
        yield await _read(request, part.read_chunk(PIECE_BYTES))


async def _read(request: web.Request, reading: Awaitable[T]) -> T:
    try:
        return await in_time(request, reading)
    except MALFORMED as exc:
        raise _malformed() from exc


def _malformed() -> InvalidInput:
    return InvalidInput("the form breaks off or is malformed", code="invalid_body")


def _understood(form: _Form) -> Upload:
    """Raises InvalidInput: no file, a field twice, not as many paths as files, a path that cannot be used."""
    if not form.file_names:
        raise InvalidInput("there is no file in the form", code="no_files")
    if "relativePaths" in form.fields:
        names, field_name = _paths(form.fields["relativePaths"]), "relativePaths"
        if len(names) != len(form.file_names):
            raise invalid_field("relativePaths", f"there are {len(names)} for {len(form.file_names)} files")
    else:
        names, field_name = [name.rpartition("/")[2] for name in form.file_names], "filename"
    return Upload(
        target=_single(form, "targetPath", ""),
        names=upload_paths(names, field_name),
        overwrite=_flag(form, "overwrite", default=True),
    )


def _paths(values: list[str]) -> list[str]:
    """One field for each file, or one field with a JSON array."""
    if len(values) != 1 or not values[0].startswith("["):
        return values
    try:
        return msgspec.json.decode(values[0], type=list[str])
    except msgspec.ValidationError as exc:
        raise invalid_field("relativePaths", "must be paths only") from exc
    except msgspec.DecodeError:
        return values


def _single(form: _Form, name: str, default: str) -> str:
    values = form.fields.get(name, [default])
    if len(values) > 1:
        raise invalid_field(name, "may be given only once")
    if reason := text_problem(values[0]):
        raise invalid_field(name, reason)
    return values[0]


def _flag(form: _Form, name: str, *, default: bool) -> bool:
    value = _single(form, name, str(default).lower())
    if value not in ("true", "false"):
        raise invalid_field(name, "must be true or false")
    return value == "true"
