"""The OpenAPI document, made from the table of operations in `routes.py`, and a page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from agentsrv.api.keys import CONFIG, OPERATIONS
from agentsrv.api.schemas import ErrorBody

REFERENCE = "#/components/schemas/{name}"

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
HTML = "text/html"
BYTES = "application/octet-stream"
GZIP = "application/gzip"
FORM = "multipart/form-data"
NO_BODY = ""

Answer = type[msgspec.Struct] | str
"""A JSON body of this class, or the media type of an answer that is not JSON (`NO_BODY`: none)."""

RESPONSE_HEADERS = {
    401: {"WWW-Authenticate": "the scheme to use: Bearer"},
    429: {"Retry-After": "seconds to wait"},
    503: {"Retry-After": "seconds to wait"},
}

REQUEST_HEADERS = {
    "Idempotency-Key": "the client's name for this prompt: the same again is the same job",
    "If-Match": "the ETag of what is to be replaced",
    "If-None-Match": "an ETag that the client has; `*` for a file that must not exist yet",
    "If-Range": "the ETag that `Range` is meant for",
    "Last-Event-ID": "the id of the last event that the client has",
    "Range": "one range of bytes",
}


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One method on one path: what it takes, what it answers, how it can fail."""

    method: str
    path: str
    handler: Handler
    answers: dict[int, Answer]
    errors: tuple[int, ...] = ()
    body: type[msgspec.Struct] | str | None = None
    """A JSON body of this class, or the media type of one that goes to the disk as it comes."""
    query: type[msgspec.Struct] | None = None
    headers: tuple[str, ...] = ()
    """Those of the request that mean something here, of REQUEST_HEADERS."""
    is_body_required: bool = True
    is_public: bool = False

    @property
    def name(self) -> str:
        """Unique, and stable for generated clients: the handler's name."""
        return self.handler.__name__

    def all_errors(self) -> list[int]:
        """Its own errors and those that the middlewares add."""
        common = {403, 500} if self.is_public else {401, 403, 500}
        for_body = {400, 408, 413, 415, 429} if self.body else set()
        for_query = {400} if self.query else set()
        return sorted(common | for_body | for_query | set(self.errors))


async def openapi(request: web.Request) -> web.Response:
    """The OpenAPI document of this server."""
    prefix = request.path.removesuffix("/openapi.json")
    body = _encoded_document(request.app[OPERATIONS], request.app[CONFIG].app_version, prefix)
    return web.Response(body=body, content_type=JSON)


async def docs(_request: web.Request) -> web.Response:
    """A page that shows the OpenAPI document; it loads nothing from elsewhere."""
    page = files("agentsrv.api").joinpath("docs.html").read_text("utf-8")
    policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return web.Response(text=page, content_type=HTML, headers={"Content-Security-Policy": policy})


@cache
def _encoded_document(operations: tuple[Operation, ...], version: str, prefix: str) -> bytes:
    return msgspec.json.encode(document(operations, version, prefix))


def document(operations: Iterable[Operation], version: str, prefix: str = "") -> dict[str, Any]:
    """OpenAPI 3.1 as plain values. `prefix` is where a host has mounted the application."""
    operations = tuple(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(_template(operation.path), {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agentsrv",
            "version": version,
            "description": "Coding agents as a durable HTTP service: sessions, jobs, streams that resume.",
        },
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    summary, _, rest = (operation.handler.__doc__ or "").partition("\n")
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "summary": summary.strip(),
        "parameters": [
            *_path_parameters(operation),
            *_query_parameters(operation),
            *_header_parameters(operation),
        ],
        "responses": {str(status): _answer(status, answer) for status, answer in operation.answers.items()},
        "security": [] if operation.is_public else [{"key": []}],
    }
    if description := " ".join(rest.split()):
        entry["description"] = description
    for status in operation.all_errors():
        entry["responses"].setdefault(str(status), _answer(status, ErrorBody))
    if operation.body:
        entry["requestBody"] = {"required": operation.is_body_required, "content": _content(operation.body)}
    return entry


def _content(body: type[msgspec.Struct] | str) -> dict[str, Any]:
    if isinstance(body, str):
        return {body: {"schema": {"type": "string", "format": "binary"}}}
    return {JSON: {"schema": _reference(body)}}


def _answer(status: int, answer: Answer) -> dict[str, Any]:
    entry: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(answer, type):
        entry["content"] = {JSON: {"schema": _reference(answer)}}
    elif answer:
        entry["content"] = {answer: {"schema": {"type": "object"} if answer == JSON else {"type": "string"}}}
    if status in RESPONSE_HEADERS:
        entry["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in RESPONSE_HEADERS[status].items()
        }
    return entry


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)", operation.path)
    return [_parameter("path", name, {"type": "string"}, is_required=True) for name in names]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    _, components = msgspec.json.schema_components([operation.query], ref_template=REFERENCE)
    schema = components[operation.query.__name__]
    required = schema.get("required", ())
    return [
        _parameter("query", name, _portable(field), is_required=name in required)
        for name, field in schema["properties"].items()
    ]


def _header_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        _parameter("header", name, {"type": "string"}) | {"description": REQUEST_HEADERS[name]}
        for name in operation.headers
    ]


def _parameter(place: str, name: str, schema: Any, *, is_required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": is_required, "schema": schema}


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    kinds: list[Any] = [ErrorBody]
    for operation in operations:
        kinds += [
            kind
            for kind in (operation.body, operation.query, *operation.answers.values())
            if isinstance(kind, type)
        ]
    _, components = msgspec.json.schema_components(dict.fromkeys(kinds), ref_template=REFERENCE)
    return {name: _portable(schema) for name, schema in components.items()}


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def _template(path: str) -> str:
    """`/env/{names:.*}` is `/env/{names}` to everybody but aiohttp."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def _portable(schema: Any) -> Any:
    r"""Patterns as JSON Schema has them: `\Z` is Python's word for what ECMA-262 calls `$`."""
    if isinstance(schema, dict):
        return {
            key: value.replace(r"\Z", "$")
            if key == "pattern" and isinstance(value, str)
            else _portable(value)
            for key, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema
