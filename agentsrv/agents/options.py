"""What adapters check of a prompt's options before anything is started."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec

from agentsrv.errors import unsupported
from agentsrv.model import PermissionMode, TurnOptions


def counts_repository(options: TurnOptions) -> bool:
    """Do settings of the repository count? In `bypass` the agent may do everything anyway; else it must be trusted."""
    if options.setting_sources is not None:
        return "project" in options.setting_sources
    return options.permission_mode is PermissionMode.BYPASS


def require_effort(options: TurnOptions, efforts: Collection[str]) -> None:
    """Raises InvalidInput (`unsupported_option`) for an effort that an agent does not have."""
    if options.effort is not None and options.effort not in efforts:
        raise unsupported("effort", f"must be one of {', '.join(efforts)}")


_Place = Annotated[str, msgspec.Meta(min_length=1)]


class _McpServer(msgspec.Struct):
    """What every agent takes of an MCP server. There may be more, for one of them."""

    type: str | msgspec.UnsetType = msgspec.UNSET
    command: _Place | msgspec.UnsetType = msgspec.UNSET
    args: list[str] = []
    env: dict[str, str] = {}
    url: _Place | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] = {}


def require_mcp_servers(options: TurnOptions, types: Collection[str]) -> None:
    """Raises InvalidInput (`unsupported_option`) for what an agent would leave out without a word."""
    for name, server in (options.mcp_servers or {}).items():
        try:
            msgspec.convert(server, _McpServer)
        except msgspec.ValidationError as exc:
            raise unsupported("mcp_servers", f"{name}: {exc}") from exc
        if (type_ := mcp_server_type(server)) not in types:
            raise unsupported("mcp_servers", f"{name}: its type must be one of {', '.join(types)}")
        if (needed := "command" if type_ == "stdio" else "url") not in server:
            raise unsupported("mcp_servers", f"{name} must have a {needed}")


def mcp_server_type(server: Mapping[str, Any]) -> str:
    """`stdio`, or that of one which is reached by a URL, for which `http` may be left out."""
    return str(server.get("type", "http" if "url" in server else "stdio"))
