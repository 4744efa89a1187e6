"""`agentsrv keys add | list | revoke`: named keys, in the database of a server that may be running."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from agentsrv.access import Keyring, now_ms, scopes_of
from agentsrv.config import Config
from agentsrv.errors import AgentsrvError, StartupError
from agentsrv.model import AccessKey, AuditEntry, Millis
from agentsrv.store import audit
from agentsrv.store.database import Database
from agentsrv.store.migrate import migrate

UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
MAX_NAME = 200


def run(arguments: argparse.Namespace, config: Config) -> str:
    """What to print. Raises StartupError, one line."""
    does = {"add": _add, "list": _list, "revoke": _revoke}[arguments.action]
    if arguments.action != "list" and not arguments.name:
        raise StartupError(f"agentsrv keys {arguments.action}: give the name of a key")
    try:
        migrate(config.database_path)
        return asyncio.run(_with_database(config, arguments, does))
    except AgentsrvError as exc:
        raise StartupError(exc.message) from exc


async def _with_database(
    config: Config,
    arguments: argparse.Namespace,
    does: Callable[[Keyring, argparse.Namespace], Awaitable[str]],
) -> str:
    db = Database(config.database_path)
    try:
        await db.open()
        told = await does(Keyring(db, ()), arguments)
        if arguments.action != "list" and config.audit_days:
            await db.write(lambda db: audit.append(db, [_entry(arguments)]))
        return told
    finally:
        await db.close()


def _entry(arguments: argparse.Namespace) -> AuditEntry:
    """As of the same done by a request. There is no key: who may write the database needs none."""
    return AuditEntry(
        at=now_ms(),
        key="",
        address=f"uid {os.getuid()} on the command line",
        action={"add": "create_token", "revoke": "revoke_token"}[arguments.action],
        target=arguments.name,
        status=201 if arguments.action == "add" else 200,
        details={"scopes": arguments.scope} if arguments.action == "add" else {},
    )


async def _add(keyring: Keyring, arguments: argparse.Namespace) -> str:
    name = arguments.name
    if len(name) > MAX_NAME or not name.isprintable():
        raise StartupError(f"the name of a key has at most {MAX_NAME} printable characters")
    if name in [key.name for key in await keyring.list_keys()]:
        raise StartupError(f"there is a key {name} already; revoke it first, or choose another name")
    _, token = await keyring.add(name, scopes_of(arguments.scope), lasts_ms=duration_ms(arguments.expires))
    return token


async def _list(keyring: Keyring, _arguments: argparse.Namespace) -> str:
    found = await keyring.list_keys()
    return (
        "\n".join(map(_line, found))
        if found
        else "there are no named keys; `agentsrv keys add NAME` makes one"
    )


async def _revoke(keyring: Keyring, arguments: argparse.Namespace) -> str:
    revoked = await keyring.revoke(arguments.name)
    return "\n".join(f"revoked {key.name} ({key.id})" for key in revoked)


def _line(key: AccessKey) -> str:
    ends = "never ends" if key.ends_at is None else f"ends {_moment(key.ends_at)}"
    return f"{key.id}  {key.name}  {','.join(sorted(key.scopes))}  used {_moment(key.used_at)}  {ends}"


def _moment(at: Millis) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")


def duration_ms(text: str | None) -> Millis | None:
    """`90d`, `12h` or `30m`; None: for ever."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if found is None:
        raise StartupError(f"--expires {text}: give a number of minutes, hours or days, such as 90d")
    return int(found[1]) * UNITS_MS[found[2]]
