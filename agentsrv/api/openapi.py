"""The OpenAPI document, made from the table of operations in `routes.py`, and a page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from agentsrv.api.documents import Document, give
from agentsrv.api.keys import CONFIG, GROUPS
from agentsrv.api.operations import (
    ANY,
    BYTES,
    EVENT_STREAM,
    FORM,
    GZIP,
    HTML,
    JSON,
    Answer,
    Events,
    Group,
    Operation,
)
from agentsrv.api.parameters import PATH, QUERY
from agentsrv.api.proxies import path_prefix
from agentsrv.api.schemas.server import ErrorBody

REFERENCE = "#/components/schemas/{name}"

RESPONSE_HEADERS = {
    401: {"WWW-Authenticate": "the scheme to use: Bearer"},
    429: {"Retry-After": "seconds to wait"},
    503: {"Retry-After": "seconds to wait"},
}

REQUEST_HEADERS = {
    "Acp-Connection-Id": "the connection, from the answer to `initialize`",
    "Acp-Session-Id": "the session of that connection",
    "Idempotency-Key": "the client's name for this prompt: the same again is the same job",
    "If-Match": "the ETag of what is to be replaced",
    "If-None-Match": "an ETag that the client has; `*` for a file that must not exist yet",
    "If-Range": "the ETag that `Range` is meant for",
    "Last-Event-ID": "the id of the last event that the client has",
    "Range": "one range of bytes",
}

SCHEMAS: dict[str, dict[str, str]] = {
    JSON: {"type": "object"},
    HTML: {"type": "string"},
    BYTES: {"type": "string", "format": "binary"},
    ANY: {"type": "string", "format": "binary"},
    GZIP: {"type": "string", "format": "binary"},
}
"""Of bodies and answers that are neither a class of ours nor a stream."""

UPLOAD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "files": {"type": "array", "items": SCHEMAS[BYTES], "minItems": 1},
        "targetPath": {
            "type": "string",
            "description": "the directory to put them into; the workspace when not said",
        },
        "relativePaths": {
            "type": "string",
            "description": "a JSON array of paths, one for each file; the names of the files when not said",
        },
        "overwrite": {"type": "boolean", "description": "false: files that exist stay as they are"},
    },
    "required": ["files"],
}


async def openapi(request: web.Request) -> web.StreamResponse:
    """The OpenAPI document of this server."""
    config = request.app[CONFIG]
    prefix = request.path.rstrip("/").removesuffix("/openapi.json")
    public = path_prefix(request) if config.public_url is None else config.public_url
    return await give(request, _described(request.app[GROUPS], config.app_version, public + prefix))


async def docs(request: web.Request) -> web.StreamResponse:
    """A page that shows the OpenAPI document; it loads nothing from elsewhere."""
    policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return await give(request, _page(), {"Content-Security-Policy": policy})


@lru_cache(maxsize=4)
def _described(groups: tuple[Group, ...], version: str, prefix: str) -> Document:
    return Document.of(msgspec.json.encode(document(groups, version, prefix)), JSON)


@lru_cache(maxsize=1)
def _page() -> Document:
    return Document.of(files("agentsrv.api").joinpath("docs.html").read_bytes(), f"{HTML}; charset=utf-8")


def document(groups: Iterable[Group], version: str, prefix: str = "") -> dict[str, Any]:
    """OpenAPI 3.1 as plain values. `prefix` is where a host has mounted the application."""
    groups = tuple(groups)
    paths: dict[str, dict[str, Any]] = {}
    for group in groups:
        for operation in group.operations:
            paths.setdefault(_template(operation.path), {})[operation.method.lower()] = {
                "tags": [group.tag],
                **_operation(operation),
            }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agentsrv",
            "version": version,
            "description": "Coding agents as a durable HTTP service: sessions, jobs, streams that resume.",
        },
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": group.tag, "description": group.description} for group in groups],
        "paths": paths,
        "components": {
            "schemas": _schemas(op for group in groups for op in group.operations),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
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
        "security": _security(operation),
    }
    entry["description"] = " ".join(rest.split()) or entry["summary"]
    for status in operation.all_errors():
        entry["responses"].setdefault(str(status), _refusal(status, operation.refusal))
    if operation.body:
        entry["requestBody"] = {"required": operation.is_body_required, "content": _content(operation.body)}
    return entry


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    """One of these is enough."""
    if operation.is_public:
        return []
    return [{"key": []}, {"ticket": []}] if operation.method == "GET" else [{"key": []}]


def _content(body: type[msgspec.Struct] | str) -> dict[str, Any]:
    if isinstance(body, str):
        return {body: {"schema": UPLOAD if body == FORM else SCHEMAS[body]}}
    return {JSON: {"schema": _reference(body)}}


def _answer(status: int, answer: Answer) -> dict[str, Any]:
    entry: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(answer, type):
        entry["content"] = {JSON: {"schema": _reference(answer)}}
    elif isinstance(answer, Events):
        entry["content"] = {EVENT_STREAM: {"schema": _stream(answer)}}
    elif answer:
        types = (BYTES, ANY) if answer == ANY else (answer,)  # some generators know no other name for bytes
        entry["content"] = {name: {"schema": SCHEMAS[name]} for name in types}
    if status in RESPONSE_HEADERS:
        entry["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in RESPONSE_HEADERS[status].items()
        }
    return entry


def _refusal(status: int, own: type[msgspec.Struct] | None) -> dict[str, Any]:
    """Ours, or that of another protocol: what is refused before the handler looks at it is refused in our words."""
    entry = _answer(status, ErrorBody)
    if own is not None:
        entry["content"] = {JSON: {"schema": {"anyOf": [_reference(own), _reference(ErrorBody)]}}}
    return entry


def _stream(events: Events) -> dict[str, Any]:
    """What a frame has in it, where JSON Schema looks for that.

    Without a `type`: to generated clients the answer is a text, to others that know streams each event is an object.
    """
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": _component(events.name)}
    return {
        "description": f"Server-Sent Events. {events.description}",
        "contentMediaType": EVENT_STREAM,
        "contentSchema": {
            "type": "object",
            "properties": {"id": {"type": "string", "description": "the event's number"}, "data": data},
            "required": ["data"],
        },
    }


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)", operation.path)
    return [
        _parameter("path", name, {"type": "string"}, PATH.get(name, ""), is_required=True) for name in names
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    _, components = msgspec.json.schema_components([operation.query], ref_template=REFERENCE)
    schema = components[operation.query.__name__]
    required = schema.get("required", ())
    return [
        _parameter("query", name, _portable(field), QUERY.get(name, ""), is_required=name in required)
        for name, field in schema["properties"].items()
    ]


def _header_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        _parameter("header", name, {"type": "string"}, REQUEST_HEADERS[name]) for name in operation.headers
    ]


def _parameter(
    place: str, name: str, schema: Any, description: str, *, is_required: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "description": description,
        "required": is_required,
        "schema": schema,
    }


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    kinds: list[Any] = [ErrorBody]
    streams: list[Events] = []
    for operation in operations:
        for kind in (operation.body, operation.refusal, *operation.answers.values()):
            if isinstance(kind, Events):
                streams.append(kind)
            elif isinstance(kind, type):
                kinds.append(kind)
    kinds += [kind for events in streams for kind in events.kinds]
    _, components = msgspec.json.schema_components(dict.fromkeys(kinds), ref_template=REFERENCE)
    schemas = {name: _portable(schema) for name, schema in components.items()}
    return schemas | {events.name: _any_event(events) for events in streams}


def _any_event(events: Events) -> dict[str, Any]:
    known = [_reference(kind) for kind in events.kinds]
    other = [] if events.are_all else [{"type": "object", "description": "a message as the agent wrote it"}]
    any_of = "anyOf" if len(known + other) > 1 else "allOf"
    return {"title": events.name, "description": events.description, any_of: [*known, *other]}


def _reference(kind: type) -> dict[str, str]:
    return _component(kind.__name__)


def _component(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=name)}


def _template(path: str) -> str:
    """`/env/{names:.*}` is `/env/{names}` to everybody but aiohttp."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def _portable(schema: Any) -> Any:
    r"""As JSON Schema has it: `\Z` is Python's word for what ECMA-262 calls `$`; each list says of what."""
    if isinstance(schema, dict):
        if schema.get("type") == "array" and "items" not in schema:
            schema = {**schema, "items": {}}
        return {
            key: value.replace(r"\Z", "$")
            if key == "pattern" and isinstance(value, str)
            else _portable(value)
            for key, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


# fmt: off
ROUTES = (
    Operation("GET", "/openapi.json", openapi, {200: JSON}, is_public=True),
    Operation("GET", "/docs", docs, {200: HTML}, is_public=True),
)
# fmt: on
