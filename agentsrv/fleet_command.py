"""`agentsrv fleet list | forget NAME`: the fleet's book in Redis, from any machine that reaches it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentsrv.config import Config
from agentsrv.errors import AgentsrvError, StartupError
from agentsrv.fleet import PROTOCOL
from agentsrv.fleet.scripts import Scripts


def run(arguments: argparse.Namespace, config: Config) -> str:
    """What to print. Raises StartupError, one line."""
    if config.redis_url is None:
        raise StartupError("REDIS_URL is not set; it says where the servers of a fleet find each other")
    if arguments.action == "forget" and not arguments.name:
        raise StartupError("agentsrv fleet forget: give the name of a server")
    does = {"list": _list, "forget": _forget}[arguments.action]
    try:
        return asyncio.run(_with_scripts(config.redis_url, lambda scripts: does(scripts, arguments)))
    except AgentsrvError as exc:
        raise StartupError(exc.message) from exc


async def _with_scripts(url: str, does: Callable[[Scripts], Awaitable[str]]) -> str:
    scripts = Scripts(url)
    try:
        return await does(scripts)
    finally:
        await scripts.close()


async def _list(scripts: Scripts, _arguments: argparse.Namespace) -> str:
    book = await scripts.book()
    servers = book["servers"]
    names = sorted({*servers, *book["expected"]})
    if not names:
        return "there are no servers"
    return "\n".join(_line(name, servers.get(name, {}), name in book["missing"]) for name in names)


def _line(name: str, known: dict[str, Any], is_missing: bool) -> str:
    state = "alive" if known.get("left", 0) > 0 else "away"
    load = f"{known.get('active', '?')}/{known.get('capacity', '?')}"
    notes = [] if known.get("accepts") == "1" else ["takes no new sessions"]
    if known.get("protocol", PROTOCOL) != PROTOCOL:
        notes.append(f"speaks protocol {known['protocol']}, not {PROTOCOL}")
    if is_missing:
        notes.append("has not said yet what it has")
    return "  ".join(
        [f"{name:24}", f"{state:5}", f"{load:>9}", known.get("address", "-"), ", ".join(notes)]
    ).rstrip()


async def _forget(scripts: Scripts, arguments: argparse.Namespace) -> str:
    name = arguments.name
    state = await scripts.forget_server(name)
    if state == "alive":
        raise StartupError(f"server {name} is alive; stop it first, and wait a few seconds")
    if state == "unknown":
        raise StartupError(f"there is no server {name}; `agentsrv fleet list` shows all")
    return f"server {name} is forgotten: the ids of its sessions are free, and nobody waits for it"
