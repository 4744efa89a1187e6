"""`agentsrv login`, `logout` and `servers`: the servers whose keys are kept, and which of them is meant."""

from __future__ import annotations

import asyncio
import getpass
import json
import socket
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from agentsrv.cli import exits
from agentsrv.cli.exits import Refused, UsageError, explain
from agentsrv.client import AgentsrvError, AsyncAgentsrv, NotFoundError, PermissionDeniedError
from agentsrv.client.models import DeviceToken
from agentsrv.client.servers import (
    DEFAULT_URL,
    Server,
    Stored,
    checked_url,
    find_server,
    load_servers,
    save_servers,
)


def login(arguments: Namespace) -> int:
    """Ask for a key, try it, keep it; from then on this server is meant."""

    def work() -> int:
        url = checked_url(arguments.address or find_server(env_file=arguments.env_file).url)
        server = replace(find_server(url, ask_key(url)), key_source="what was typed")
        return told(lambda: keep(server), server)

    return told(work)


def keep(server: Server) -> int:
    """Try its key, and keep it or the one that the server makes for it."""
    made = asyncio.run(own_key(server))
    url, key, stored = server.url, server.key, load_servers()
    token_ids = {each: stored.token_ids[each] for each in stored.token_ids if each != url}
    if made is not None:
        key, token_ids[url] = made.token, made.id
    path = save_servers(Stored(url, {**stored.keys, url: key}, token_ids))
    say(f"{url} is kept in {path}, and is the server that is meant from now on")
    return exits.OK


def logout(arguments: Namespace) -> int:
    """Forget a key."""

    def work() -> int:
        stored = load_servers()
        url = checked_url(arguments.address or stored.current or DEFAULT_URL)
        if url not in stored.keys:
            raise Refused(f"no key is kept for {url}")
        asyncio.run(end_key(Server(url, stored.keys[url]), stored.token_ids.get(url)))
        keys = {other: key for other, key in stored.keys.items() if other != url}
        current = next(iter(keys), None) if stored.current == url else stored.current
        save_servers(Stored(current, keys, stored.token_ids))
        say(f"the key for {url} is forgotten" + (f"; {current} is meant now" if current else ""))
        return exits.OK

    return told(work)


def servers(arguments: Namespace) -> int:
    """Show the servers, or make one the current one."""

    def work() -> int:
        stored = load_servers()
        if arguments.use:
            url = checked_url(arguments.use)
            if url not in stored.keys:
                raise Refused(f"no key is kept for {url}: agentsrv login {url}")
            stored = replace(stored, current=url)
            save_servers(stored)
        if arguments.json:
            sys.stdout.write(json.dumps({"current": stored.current, "servers": list(stored.keys)}) + "\n")
        else:
            sys.stdout.writelines(f"{'*' if url == stored.current else ' '} {url}\n" for url in stored.keys)
            if not stored.keys:
                say("no key is kept: agentsrv login URL keeps one")
        return exits.OK

    return told(work, is_json=arguments.json)


def ask_key(url: str) -> str:
    """What is typed, without an echo, or the first line of what is piped in."""
    try:
        is_typed = sys.stdin.isatty()
        key = getpass.getpass(f"Key for {url}: ") if is_typed else sys.stdin.readline()
    except EOFError:
        key = ""
    except UnicodeDecodeError:
        raise UsageError("the key is no text") from None
    if not key.strip():
        raise UsageError("there is no key")
    return key.strip()


async def own_key(server: Server) -> DeviceToken | None:
    """A key for this machine alone, or None where the server has none: then what was typed, which is tried, is kept."""
    async with AsyncAgentsrv.at(server) as client:
        async for _ in client.sessions.list(page_size=1):
            break
        try:
            return await client.keys.add(f"agentsrv on {socket.gethostname()}"[:100])
        except (NotFoundError, PermissionDeniedError):
            return None


async def end_key(server: Server, token_id: str | None) -> None:
    """Tell the server, when it made the key and can be reached; it is forgotten here in any case."""
    async with AsyncAgentsrv.at(server) as client:
        with suppress(AgentsrvError):
            if token_id is not None:
                await client.with_options(max_retries=0, timeout=5).keys.revoke(token_id)


def told(work: Callable[[], int], server: Server | None = None, *, is_json: bool = False) -> int:
    """Do it, and say what is wrong with it, and with which server."""
    try:
        return work()
    except Exception as error:
        code, message, fields = explain(error, server)
        say(json.dumps({"error": message, **fields}) if is_json else f"agentsrv: {message}")
        return code


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
