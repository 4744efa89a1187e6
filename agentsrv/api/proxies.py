"""What a proxy says of the client and of its own path: believed of those that TRUSTED_PROXIES names."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address

from aiohttp import web

from agentsrv.api.hop import is_hop
from agentsrv.api.keys import CONFIG
from agentsrv.config import UNIX_SOCKET, Network

FORWARDED_FOR = "X-Forwarded-For"
FORWARDED_PREFIX = "X-Forwarded-Prefix"

PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%-]+)+")
"""A path that cannot be read as another host's, nor leave a header or a document."""


def client_address(request: web.Request) -> str:
    """Whose request it is: the nearest address of the way here that is not a trusted proxy's; empty on a Unix socket.

    Each proxy adds the address that it was called from at the end, so what a client writes there itself stands
    before what is known. Another server of the fleet tells it as it is.
    """
    address = request.remote or ""
    told = ",".join(request.headers.getall(FORWARDED_FOR, ())).split(",")
    is_trusted = _tells(request)
    while is_trusted and told and is_address(nearer := told.pop().strip()):
        address, is_trusted = nearer, is_one_of(nearer, request.app[CONFIG].trusted_proxies)
    return address


def path_prefix(request: web.Request) -> str:
    """The path below which a proxy serves us, when it says so and not PUBLIC_URL: `/agents`, or nothing."""
    given = request.headers.get(FORWARDED_PREFIX, "").rstrip("/")
    return given if PREFIX.fullmatch(given) and _tells(request) else ""


def is_one_of(address: str, networks: Collection[Network]) -> bool:
    """`address` is one of IP, or empty for the peer of a Unix socket."""
    if not networks:
        return False
    ip = ip_address(address.partition("%")[0]) if address else UNIX_SOCKET
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in network for network in networks)


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _tells(request: web.Request) -> bool:
    """May whoever has sent this request say of whom it is?"""
    return is_hop(request) or is_one_of(request.remote or "", request.app[CONFIG].trusted_proxies)
