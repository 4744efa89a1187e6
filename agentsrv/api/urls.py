"""What a URL says: ids in its path, parameters in its query."""

from __future__ import annotations

import re
from typing import TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec
from aiohttp import web

from agentsrv.api.fields import convert, convert_text, fields_of
from agentsrv.api.keys import CONFIG
from agentsrv.api.proxies import path_prefix
from agentsrv.errors import InvalidInput, NotFound, Problem, invalid_fields
from agentsrv.model import SESSION_ID, SessionId, TurnId

T = TypeVar("T", bound=msgspec.Struct)

TURN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def read_query(request: web.Request, kind: type[T]) -> T:
    """The query parameters as a `kind`; each may come once, a list several times. Unknown ones are ignored."""
    require_utf8(request)
    found = {
        field.encode_name: (request.query.getall(field.encode_name), field.default_factory is list)
        for field in fields_of(kind)
        if field.encode_name in request.query
    }
    if repeated := [name for name, (texts, is_list) in found.items() if len(texts) > 1 and not is_list]:
        raise invalid_fields([Problem(name, "may be given only once") for name in repeated])
    values = {name: texts if is_list else texts[0] for name, (texts, is_list) in found.items()}
    return convert(values, kind, convert_text)


def require_utf8(request: web.Request) -> None:
    """Refuse a query with escapes that are not UTF-8: they would be taken for the text `%ff`."""
    try:
        unquote_to_bytes(request.rel_url.raw_query_string).decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput("the query is not UTF-8; a path that is not is given as a file: URI") from exc


def location_of(request: web.Request, name: str, **parts: str) -> str:
    """The path of a route as clients have to ask for it: with the prefix that a proxy takes away."""
    public = request.app[CONFIG].public_url
    prefix = path_prefix(request) if public is None else urlsplit(public).path
    return prefix + str(request.app.router[name].url_for(**parts))


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
