"""What the table of routes says of one route: enough for the router, the check for a key and the OpenAPI document."""

from __future__ import annotations

import msgspec
from aiohttp.typedefs import Handler
from msgspec import Struct

from agentsrv.model import Scope

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
HTML = "text/html"
BYTES = "application/octet-stream"
ANY = "*/*"
GZIP = "application/gzip"
FORM = "multipart/form-data"
NO_BODY = ""


class Events(Struct, frozen=True):
    """An event stream: the data of each frame is one of these."""

    name: str
    description: str
    kinds: tuple[type[msgspec.Struct], ...]
    are_all: bool = True
    """Is there nothing else in the stream, such as what an agent says in its own words?"""


Answer = type[msgspec.Struct] | Events | str
"""A JSON body of this class, an event stream, or the media type of something else (`NO_BODY`: nothing)."""


class Operation(Struct, frozen=True, eq=False):
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
    refusal: type[msgspec.Struct] | None = None
    """What it is refused with, where it speaks a protocol that has a body of its own for that."""

    @property
    def name(self) -> str:
        """Unique, and stable for generated clients: the handler's name."""
        return self.handler.__name__

    def all_errors(self) -> list[int]:
        """Its own errors and those that the middlewares add."""
        common = {403, 500} if self.is_public else {401, 403, 500}
        for_body = {400, 408, 413, 415, 429} if self.body else set()
        for_query = {400} if self.query else set()
        for_url = {414} if self.query or "{" in self.path else set()
        return sorted(common | for_body | for_query | for_url | set(self.errors))


class Group(Struct, frozen=True, eq=False):
    """The operations on one subject, under the name that documents have for it."""

    tag: str
    description: str
    operations: tuple[Operation, ...]
    reading: Scope | None = Scope.READ
    """What a key has to be allowed for a GET; None: any key will do."""
    changing: Scope | None = Scope.ADMIN
    """The same for everything else."""

    def scopes(self) -> dict[Handler, Scope | None]:
        return {op.handler: self.reading if op.method == "GET" else self.changing for op in self.operations}
