"""What one server of a fleet says to another about a request that it passes on, and how it is believed."""

from __future__ import annotations

import base64
import binascii
import hmac

import msgspec
from aiohttp import web

from agentsrv.access import Caller
from agentsrv.config import Config
from agentsrv.fleet import PROTOCOL
from agentsrv.model import Scope

PURPOSE = f"agentsrv fleet {PROTOCOL}".encode()
"""So who speaks another protocol is not believed."""
HOP = "X-Agentsrv-Hop"
"""The secret of the fleet: whoever sends it has the API key."""
CALLER = "X-Agentsrv-Caller"
"""Whose request it is: the entry has looked at the key, and the home does not."""
TO = "X-Agentsrv-To"
"""Whom it is meant for: an address may belong to another server than a moment ago."""
FROM = "X-Agentsrv-From"
"""On answers to another server: who answers. Without it somebody else has the address now, of another fleet perhaps."""
SERVER = "X-Agentsrv-Server"
"""On answers about a session: its home."""
OURS = frozenset({HOP.lower(), CALLER.lower(), TO.lower(), FROM.lower()})
"""Headers that are for one hop, and never passed on."""

HOP_SECRET: web.AppKey[bytes] = web.AppKey("hop_secret")
_is_hop = web.RequestKey("is_hop", bool)


class Named(msgspec.Struct):
    name: str
    scopes: frozenset[Scope]
    hash: bytes
    id: str = ""


def secret_of(config: Config) -> bytes:
    """What the servers of a fleet know each other by; empty where there is no fleet."""
    return config.derived_key(PURPOSE).hex().encode() if config.server_name else b""


def is_hop(request: web.Request) -> bool:
    """Does it come from another server of the fleet? A wrong secret is as good as none."""
    if _is_hop not in request:
        secret = request.app.get(HOP_SECRET, b"")
        given = request.headers.get(HOP, "").encode("utf-8", "surrogateescape")
        request[_is_hop] = bool(secret) and hmac.compare_digest(given, secret)
    return request[_is_hop]


def is_for_another(request: web.Request, name: str) -> bool:
    """Does it come from a server that takes us for another one, or for one of its own fleet?"""
    to = request.headers.get(TO)
    return to is not None and (to != name or not is_hop(request))


def told(caller: Caller) -> str:
    """`caller` as the value of a header."""
    named = Named(caller.name, caller.scopes, caller.hash, caller.id)
    return base64.urlsafe_b64encode(msgspec.json.encode(named)).decode()


def caller_of(request: web.Request) -> Caller | None:
    """Who asks, as the entry says; None: nobody it knows."""
    try:
        named = msgspec.json.decode(base64.urlsafe_b64decode(request.headers.get(CALLER, "")), type=Named)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        return None
    return Caller(named.name, named.scopes, named.hash, named.id)
