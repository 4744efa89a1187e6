"""Messages of JSON-RPC 2.0, as MCP sends them. What is in them is checked where it is used."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class RpcMessage(Struct, kw_only=True):
    """A request, a notification (without `id`), or an answer (with `result` or `error`)."""

    jsonrpc: Literal["2.0"]
    id: Any = UNSET
    method: Any = UNSET
    params: Any = UNSET
    result: Any = UNSET
    error: Any = UNSET

    def plain(self) -> dict[str, Any]:
        """Without what was left out."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in fields.items() if value is not UNSET}


class RpcAnswer(Struct, kw_only=True, omit_defaults=True):
    jsonrpc: Literal["2.0"]
    id: int | str | None
    result: dict[str, Any] | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class RpcRefusal(Struct, kw_only=True, omit_defaults=True):
    """What is no message: an error of JSON-RPC (an object), or one of ours (a text)."""

    error: str | dict[str, Any]
    jsonrpc: Literal["2.0"] | UnsetType = UNSET
    id: int | str | UnsetType | None = UNSET
    code: str | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET
    details: list[dict[str, Any]] | UnsetType = UNSET
