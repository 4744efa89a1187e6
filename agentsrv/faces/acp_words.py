"""ACP's words for what the server knows, and the server's for what clients say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from agentsrv.agents.contract import AgentInfo
from agentsrv.errors import AgentsrvError, InvalidInput, NotFound
from agentsrv.faces.rpc import INTERNAL, INVALID_PARAMS
from agentsrv.jsontext import as_object
from agentsrv.model import (
    DEFAULT_MODEL,
    NAME,
    Answer,
    Decision,
    PermissionMode,
    Seq,
    Session,
    SessionId,
    TurnStatus,
)
from agentsrv.projections.acp import REMEMBER

NOT_FOUND = -32002

ANY_TEXT = re.compile(r"(?s).{1,8192}\Z")
MESSAGE_ID = re.compile(r"(?s).{1,200}\Z")

Params = Mapping[str, Any]

PROTOCOL_VERSION = 1

MODES = {
    PermissionMode.ASK: ("Ask", "Asks before it changes anything"),
    PermissionMode.ACCEPT_EDITS: ("Accept edits", "Changes files, asks for all else"),
    PermissionMode.PLAN: ("Plan", "Reads and plans"),
    PermissionMode.BYPASS: ("Bypass", "Asks nothing"),
}


OPTIONS = {"model": ("Model", "model"), "effort": ("Effort", "thought_level")}
"""Of a session, besides its mode: what each is called, and what that is to clients."""


class RpcError(Exception):
    """What is answered instead of a result."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({"data": data} if data else {})


def greeting(version: str, max_message_bytes: int) -> dict[str, Any]:
    """What the server can do."""
    sessions: dict[str, Any] = {name: {} for name in ("list", "resume", "close", "delete", "fork")}
    return {
        "protocolVersion": PROTOCOL_VERSION,
        "agentInfo": {"name": "agentsrv", "title": "agentsrv", "version": version},
        "authMethods": [],
        "agentCapabilities": {
            "loadSession": True,
            "promptCapabilities": {"image": True, "embeddedContext": True},
            "mcpCapabilities": {"http": True, "sse": True},
            "sessionCapabilities": sessions,
        },
        "_meta": {"agentsrv": {"maxMessageBytes": max_message_bytes}},
    }


def settings_of(session: Session, agent: AgentInfo, default_mode: PermissionMode) -> dict[str, Any]:
    """What a session may be set to, in the older words and the newer ones."""
    mode = session.permission_mode or default_mode
    modes = [
        {"id": id_, "name": name, "description": what}
        for id_, (name, what) in MODES.items()
        if id_ in agent.permission_modes or id_ == mode
    ]
    options = [_choice("mode", "Mode", "mode", mode, {each["id"]: each["name"] for each in modes})]
    for option, (name, category) in OPTIONS.items():
        offered = agent.models if option == "model" else agent.efforts
        current = getattr(session, option) or DEFAULT_MODEL
        if offered:
            values = dict.fromkeys((DEFAULT_MODEL, *offered, current))
            options.append(_choice(option, name, category, current, {value: value for value in values}))
    return {"modes": {"currentModeId": mode, "availableModes": modes}, "configOptions": options}


def _choice(id_: str, name: str, category: str, current: str, values: dict[str, str]) -> dict[str, Any]:
    options = [{"value": value, "name": label} for value, label in values.items()]
    kind = {"id": id_, "name": name, "category": category, "type": "select"}
    return kind | {"currentValue": current, "options": options}


def end_of(done: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, Any]:
    status, reason = done.get("status"), done.get("stopReason")
    if status in (TurnStatus.COMPLETED, TurnStatus.CANCELLED) or reason:
        return {"stopReason": reason or "end_turn", "_meta": {"agentsrv": {"taskId": done.get("taskId")}}}
    message = str(error.get("error") or done.get("error") or f"the turn has {status}")
    raise RpcError(INTERNAL, message, {"code": error.get("code"), "taskId": done.get("taskId")})


def error_of(exc: AgentsrvError) -> dict[str, Any]:
    code = INTERNAL
    if isinstance(exc, NotFound):
        code = NOT_FOUND
    elif isinstance(exc, InvalidInput):
        code = INVALID_PARAMS
    return {"code": code, "message": exc.message, "data": {"code": exc.code, **exc.extra}}


def answer_in(result: Mapping[str, Any]) -> Answer | None:
    """What a client has chosen; None: nothing of what it was offered."""
    outcome = as_object(result.get("outcome"))
    match outcome.get("optionId") if outcome.get("outcome") == "selected" else result.get("action"):
        case "allow":
            return Answer(Decision.ALLOW)
        case option if option == REMEMBER:
            return Answer(Decision.ALLOW, remember=True)
        case "deny" | "decline":
            return Answer(Decision.DENY)
        case "accept":
            return Answer(Decision.ALLOW, updated_input={"answers": as_object(result.get("content"))})
        case _:
            return None


def form_of(session_id: SessionId, event: Mapping[str, Any]) -> dict[str, Any]:
    """A question of ours as a form: a text for each, or one of its choices."""
    asked = [
        entry for entry in as_object(event.get("input")).get("questions") or () if isinstance(entry, dict)
    ]
    schema = {
        "type": "object",
        "properties": {str(entry["id"]): _property(entry) for entry in asked},
        "required": [str(entry["id"]) for entry in asked if not entry.get("optional")],
    }
    ids = {"sessionId": session_id, "toolCallId": event.get("toolCallId")}
    return {**ids, "mode": "form", "message": event.get("title"), "requestedSchema": schema}


def _property(entry: Mapping[str, Any]) -> dict[str, Any]:
    labels = [option.get("label") for option in entry.get("options") or () if isinstance(option, dict)]
    choices: dict[str, Any] = {"type": "string"} | ({"enum": labels} if labels else {})
    if entry.get("multiSelect"):
        choices = {"type": "array", "items": choices}
    return {
        "title": entry.get("header") or entry.get("question"),
        "description": entry.get("question"),
        **choices,
    }


def content_of(blocks: Any) -> tuple[str, list[str]]:
    """The words and the pictures (`data:` URLs) of a prompt."""
    texts: list[str] = []
    images: list[str] = []
    for block in blocks if isinstance(blocks, list) else ():
        match as_object(block):
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image", "mimeType": str(kind), "data": str(data)}:
                images.append(f"data:{kind};base64,{data}")
            case {"type": "resource_link", "uri": str(uri)} as link:
                texts.append(f"[{link.get('name') or uri}]({uri})")
            case {"type": "resource", "resource": {"uri": str(uri), "text": str(text)}}:
                texts.append(f'<context uri="{uri}">\n{text}\n</context>')
            case other:
                raise RpcError(
                    INVALID_PARAMS, f"`prompt` has a block that is not taken: {str(other.get('type'))[:50]}"
                )
    if not "".join(texts).strip():
        raise RpcError(INVALID_PARAMS, "`prompt` must be a list of blocks, with some text among them")
    return "\n\n".join(texts), images


def mcp_servers_of(params: Params) -> dict[str, Any] | None:
    """Servers as ACP has them, as prompts do."""
    found: dict[str, Any] = {}
    servers = params.get("mcpServers") or []
    if not isinstance(servers, list):
        raise RpcError(INVALID_PARAMS, "`mcpServers` must be a list")
    for server in servers:
        match as_object(server):
            case {"name": str(name), "command": str(command)} as stdio:
                args, env = stdio.get("args") or [], _named(stdio.get("env"))
                found[name] = {"command": command, "args": args, "env": env}
            case {"name": str(name), "url": str(url)} as remote:
                headers = _named(remote.get("headers"))
                found[name] = {"type": remote.get("type", "http"), "url": url, "headers": headers}
            case _:
                raise RpcError(INVALID_PARAMS, "`mcpServers` must have a name, and a command or a url")
    return found or None


def _named(values: Any) -> dict[str, str]:
    entries = [as_object(value) for value in values] if isinstance(values, list) else []
    return {str(entry.get("name")): str(entry.get("value")) for entry in entries}


def session_id_of(params: Params) -> SessionId:
    session_id = params.get("sessionId")
    if not isinstance(session_id, str) or not NAME.match(session_id):
        raise RpcError(INVALID_PARAMS, "`sessionId` must be the id of a session")
    return SessionId(session_id)


def text_of(params: Params, name: str, pattern: re.Pattern[str] = ANY_TEXT) -> str | None:
    value = params.get(name)
    if value is not None and not (isinstance(value, str) and pattern.match(value)):
        raise RpcError(INVALID_PARAMS, f"`{name}` must be a text, as the HTTP API takes it")
    return value


def seen_in(ours: Mapping[str, Any], last: Seq) -> Seq | None:
    """The event that a client has seen last, if it says so; `last` is the session's."""
    seen = ours.get("lastEventId")
    if seen is not None and (type(seen) is not int or not 0 <= seen <= last):
        raise RpcError(INVALID_PARAMS, "`lastEventId` must be the id of an event that there is")
    return seen


def ours_in(params: Params) -> dict[str, Any]:
    return as_object(as_object(params.get("_meta")).get("agentsrv"))


def as_dict(value: Any) -> dict[str, Any]:
    """A notification, or an event of the server that passes on as it is: raw JSON."""
    return value if isinstance(value, dict) else as_object(_decode(value))


def _decode(raw: Any) -> Any:
    return msgspec.json.decode(raw)
