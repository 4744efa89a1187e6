"""The server itself, and every answer that is not 2xx."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType


class Welcome(Struct, kw_only=True):
    message: str
    version: str
    timestamp: str


class DatabaseHealth(Struct, kw_only=True):
    connected: bool


class RedisHealth(Struct, kw_only=True):
    configured: bool
    connected: bool


class FleetHealth(Struct, kw_only=True):
    """`missing`: servers that have not said yet what they have; `mismatched`: who speak another protocol than this one.

    `clashes`: how many ids are here and elsewhere.
    """

    name: str
    servers: int
    alive: int
    missing: list[str]
    mismatched: list[str]
    clashes: int


class HealthView(Struct, kw_only=True):
    status: Literal["healthy", "degraded"]
    timestamp: str
    version: str
    database: DatabaseHealth
    redis: RedisHealth
    fleet: FleetHealth | UnsetType = UNSET
    error: str | UnsetType = UNSET
    code: str | UnsetType = UNSET


class Ready(Struct, kw_only=True):
    timestamp: str
    status: str = "ready"


class ServerView(Struct, kw_only=True):
    """A server of the fleet: where its peers reach it, whether it has been heard of, and how much it does.

    `name`, `url` and `protocol` are null where there is no fleet. `accepts`: it takes new sessions.
    """

    name: str | None
    url: str | None
    self: bool
    alive: bool
    accepts: bool
    active: int
    capacity: int
    version: str
    protocol: str | None


class ServerList(Struct, kw_only=True):
    """`clashes`: ids of sessions and terminals that the asked one has, and that are at home on another one."""

    servers: list[ServerView]
    count: int
    clashes: list[str]
    timestamp: str


class FieldProblem(Struct, kw_only=True):
    path: str
    message: str


class ErrorBody(Struct, kw_only=True):
    """Every answer that is not 2xx: `error` for people, `code` for programs, `details` when fields are wrong.

    Some have one more field, such as the `taskId` of a busy session.
    """

    error: Annotated[
        str, Meta(examples=["session s is busy with job 6f0c; follow it, stop it, or wait for its end"])
    ]
    code: Annotated[str, Meta(examples=["session_busy"])]
    timestamp: str
    details: list[FieldProblem] | UnsetType = UNSET
