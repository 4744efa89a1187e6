"""The agents of this server: those that are known, and those that an operator has written down in AGENTS_FILE.

```toml
[agents.my-agent]
command = ["/opt/my-agent/bin/my-agent", "acp"]
environment = { MY_AGENT_OFFLINE = "1" }
pass = ["MY_AGENT_URL"]
credentials = ["MY_AGENT_KEY"]
modes = { ask = "default", bypass = "yolo" }
quirks = ["relay"]
```

An entry with the name of a known agent changes what it names, and nothing else.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from agentsrv.agents.acp.known import KNOWN, Distrust, KnownAgent, Quirk
from agentsrv.config import OWN_SECRETS
from agentsrv.errors import StartupError
from agentsrv.model import PermissionMode

NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
NATIVE = frozenset({"claude-code", "codex"})
MAX_BYTES = 1024 * 1024


class _Stated(msgspec.Struct, forbid_unknown_fields=True, rename={"passed": "pass"}):
    """What may be written about an agent. What is left out is as it is known, or as ACP says."""

    command: list[str] | msgspec.UnsetType = msgspec.UNSET
    login: str | msgspec.UnsetType = msgspec.UNSET
    environment: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    passed: list[str] | msgspec.UnsetType = msgspec.UNSET
    credentials: list[str] | msgspec.UnsetType = msgspec.UNSET
    modes: dict[PermissionMode, str] | msgspec.UnsetType = msgspec.UNSET
    mode_option: str | msgspec.UnsetType = msgspec.UNSET
    efforts: list[str] | msgspec.UnsetType = msgspec.UNSET
    mcp: list[str] | msgspec.UnsetType = msgspec.UNSET
    takes_images: bool | msgspec.UnsetType = msgspec.UNSET
    failures: list[str] | msgspec.UnsetType = msgspec.UNSET
    quirks: list[Quirk] | msgspec.UnsetType = msgspec.UNSET
    reads_repositories: bool | msgspec.UnsetType = msgspec.UNSET


class _File(msgspec.Struct, forbid_unknown_fields=True):
    agents: dict[str, _Stated] = {}


def agents_of(path: Path | None) -> list[KnownAgent]:
    """Known agents first, in their order; then those of the file in its order. Raises StartupError."""
    table = {known.name: known for known in KNOWN}
    if path is None:
        return list(table.values())
    for name, entry in _read(path).agents.items():
        if not NAME.fullmatch(name) or name in NATIVE:
            raise StartupError(f"AGENTS_FILE: {name!r} cannot be the name of an agent; use a-z, 0-9 and -")
        table[name] = _with(table.get(name) or _new(name, entry), entry)
    return list(table.values())


def wanted_in(path: Path | None) -> frozenset[str]:
    """The agents that the file names."""
    return frozenset() if path is None else frozenset(_read(path).agents)


def _read(path: Path) -> _File:
    try:
        if path.exists() and not path.is_file():  # A pipe would be waited for for ever.
            raise ValueError("it is not a file")
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return msgspec.convert(tomllib.loads(data.decode()), _File)
    except (OSError, ValueError) as exc:
        raise StartupError(f"AGENTS_FILE: {path} cannot be read: {exc}") from exc


def _new(name: str, entry: _Stated) -> KnownAgent:
    """An agent of which nothing is known: it may do what it does by itself."""
    if not entry.command:
        raise StartupError(f"AGENTS_FILE: {name} needs a command")
    modes: dict[PermissionMode, str | None] = {PermissionMode.BYPASS: None}
    return KnownAgent(name=name, command=(), login="see its own documentation", modes=modes)


def _with(known: KnownAgent, entry: _Stated) -> KnownAgent:
    fields: dict[str, Any] = {
        field: value
        for field in entry.__struct_fields__
        if (value := getattr(entry, field)) is not msgspec.UNSET
    }
    if fields.get("command") == []:
        raise StartupError(f"AGENTS_FILE: the command of {known.name} is empty")
    if own := OWN_SECRETS.intersection([*fields.get("passed", ()), *fields.get("credentials", ())]):
        raise StartupError(f"AGENTS_FILE: {known.name} must not get {', '.join(sorted(own))}")
    if (reads := fields.pop("reads_repositories", None)) is not None:
        fields["distrust"] = None if reads else known.distrust or Distrust()
    for field, value in fields.items():
        if isinstance(value, list):
            fields[field] = frozenset(value) if field == "quirks" else tuple(value)
    return replace(known, **fields)
