"""JSON-RPC 2.0, as far as the protocols that are made of it have it in common. Pure."""

from __future__ import annotations

from typing import Any

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601
INVALID_PARAMS, INTERNAL = -32602, -32603

MAX_ID_CHARACTERS = 256

BATCH = None, INVALID_REQUEST, "a message is one JSON object; batches are not taken"


def wrong_in(message: Any) -> tuple[Any, int, str] | None:
    """Why something is no message, and whose: its id, a code and words; None when nothing is wrong with it."""
    if not isinstance(message, dict):
        return BATCH
    method, id_ = message.get("method", ""), message.get("id")
    if not is_id(id_):
        return None, INVALID_REQUEST, f"`id` must be a number or at most {MAX_ID_CHARACTERS} characters"
    if not isinstance(method, str) or not isinstance(message.get("params", {}), dict):
        return id_, INVALID_REQUEST, "`method` must be a string and `params` an object"
    return None


def refusal(id_: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message}}


def is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID_CHARACTERS
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53)
