"""What an ACP agent is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agentsrv import __version__
from agentsrv.agents.options import mcp_server_type
from agentsrv.jsontext import as_object, dump

PROTOCOL_VERSION = 1
"""In version 2 the answer to a prompt would not end its turn any more."""

INITIALIZE = "initialize"


def message(fields: Mapping[str, Any]) -> bytes:
    return dump({"jsonrpc": "2.0", **fields}) + b"\n"


def request(id_: str, method: str, params: Mapping[str, Any]) -> bytes:
    return message({"id": id_, "method": method, "params": params})


def initialize() -> bytes:
    """It has neither our files nor our terminals: it works where it is."""
    capabilities = {
        "fs": {"readTextFile": False, "writeTextFile": False},
        "terminal": False,
        "elicitation": {"form": {}},
        "session": {"configOptions": {"boolean": {}}},
    }
    client = {"name": "agentsrv", "title": "agentsrv", "version": __version__}
    params = {"protocolVersion": PROTOCOL_VERSION, "clientCapabilities": capabilities, "clientInfo": client}
    return request(INITIALIZE, "initialize", params)


def prompt_blocks(event: bytes) -> list[dict[str, Any]]:
    """The content of a user event in ACP's words."""
    content = as_object(as_object(msgspec.json.decode(event)).get("message")).get("content") or []
    return [_block(block) for block in content]


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"]
    return {"type": "image", "mimeType": source["media_type"], "data": source["data"]}


def mcp_servers(servers: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Servers as Claude Code's configuration has them, as ACP has them."""
    return [_mcp_server(name, server) for name, server in (servers or {}).items()]


def _mcp_server(name: str, server: Mapping[str, Any]) -> dict[str, Any]:
    if (kind := mcp_server_type(server)) != "stdio":
        headers = _named(server.get("headers"))
        return {"type": kind, "name": name, "url": server["url"], "headers": headers}
    return {
        "name": name,
        "command": server["command"],
        "args": server.get("args", []),
        "env": _named(server.get("env")),
    }


def _named(values: Any) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in as_object(values).items()]
