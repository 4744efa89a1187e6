"""What Codex is told: threads, turns, and what they may do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import Struct

from agentsrv.agents.model_servers import ModelServer, is_named_with_provider
from agentsrv.agents.options import counts_repository
from agentsrv.jsontext import dump
from agentsrv.model import Fork, PermissionMode, TurnOptions

OUR_PROVIDER = "agentsrv"
"""The model provider of threads whose models are asked for at a URL of ours."""

SANDBOXES = {
    PermissionMode.BYPASS: ("danger-full-access", {"type": "dangerFullAccess"}),
    PermissionMode.ACCEPT_EDITS: ("workspace-write", {"type": "workspaceWrite"}),
    PermissionMode.ASK: ("read-only", {"type": "readOnly"}),
    PermissionMode.PLAN: ("read-only", {"type": "readOnly"}),
}
"""What its commands are confined to, as a thread is told of it and as a turn is."""

# Leave to write is not even asked for; what an MCP server does and asks is not known to be writing.
NO_WRITING = {
    "sandbox_approval": False,
    "rules": False,
    "skill_approval": False,
    "request_permissions": False,
    "mcp_elicitations": True,
}
APPROVALS: dict[PermissionMode, Any] = {
    # Not `never`: it would decline in the user's name what an MCP server asks for.
    PermissionMode.BYPASS: {"granular": NO_WRITING},
    PermissionMode.ACCEPT_EDITS: "on-request",
    PermissionMode.ASK: "on-request",
    PermissionMode.PLAN: {"granular": NO_WRITING},
}
"""What it may ask for, when the sandbox is in its way."""


class Surroundings(Struct, frozen=True):
    """What a thread needs to know of the server and the session."""

    cwd: str
    own: ModelServer
    origin_cwd: str | None = None
    """Where it was asked to work, when that is not where it works: a worktree's repository is around that."""
    llm: ModelServer | None = None
    """Asked for models that are named `provider/model`."""
    provider: str | None = None
    """Which one that the program knows is asked, where no `url` says so; None: as its configuration says."""
    model: str | None = None
    """For prompts that name none; None: as the program's configuration says."""
    fork: Fork | None = None

    def server(self, model: str | None) -> ModelServer:
        return self.llm if self.llm is not None and is_named_with_provider(model) else self.own


def request(id_: str, method: str, params: Mapping[str, Any]) -> bytes:
    return dump({"method": method, "id": id_, "params": params}) + b"\n"


def thread_request(
    around: Surroundings, options: TurnOptions, mode: PermissionMode, thread: str | None, provider: str
) -> bytes:
    """Resume the thread, or start one, if need be with what another one knew at some point.

    A resumed thread goes on with the model and the effort of its last turn, unless the provider is named:
    then it has the defaults of the configuration, from which each turn may differ.
    """
    params: dict[str, Any] = {
        "cwd": around.cwd,
        "approvalPolicy": APPROVALS[mode],
        "sandbox": SANDBOXES[mode][0],
        "modelProvider": provider,
        "config": _thread_config(around, options),
    }
    if thread is not None:
        return request("resume", "thread/resume", params | {"threadId": thread, "excludeTurns": True})
    if (fork := around.fork) is not None:
        source = {"threadId": fork.conversation, "lastTurnId": fork.point, "excludeTurns": True}
        return request("fork", "thread/fork", params | source)
    return request("start", "thread/start", params)


def turn_request(
    thread: str, turn_id: str | None, event: bytes, options: TurnOptions, mode: PermissionMode
) -> bytes:
    """Begin a turn with a user event. A thread keeps what it was told with an earlier turn, so it is told each time."""
    params: dict[str, Any] = {
        "threadId": thread,
        "clientUserMessageId": turn_id,
        "input": inputs_of(event),
        "approvalPolicy": APPROVALS[mode],
        "sandboxPolicy": SANDBOXES[mode][1],
    }
    if options.model is not None:
        params["model"] = options.model
    if options.effort is not None:
        params["effort"] = options.effort
    if options.output_schema is not None:
        params["outputSchema"] = options.output_schema
    if options.system_prompt is not None:
        # A thread keeps the instructions that it was started with; these come with the turn.
        instructions = {"kind": "application", "value": options.system_prompt}
        params["additionalContext"] = {"instructions": instructions}
    return request(f"turn-{turn_id}", "turn/start", params)


def _thread_config(around: Surroundings, options: TurnOptions) -> dict[str, Any]:
    config: dict[str, Any] = {}
    # Said each time: by itself the program trusts every repository in which it may write, and notes that for good.
    trust = "trusted" if counts_repository(options) else "untrusted"
    config["projects"] = {place: {"trust_level": trust} for place in _places(around)}
    if options.mcp_servers is not None:
        servers = options.mcp_servers.items()
        config["mcp_servers"] = {name: _mcp_server(server) for name, server in servers}
    if (url := around.server(options.model).url) is not None:
        provider = {
            "name": OUR_PROVIDER,
            "base_url": url,
            "wire_api": "responses",
            "requires_openai_auth": True,
        }
        config["model_providers"] = {OUR_PROVIDER: provider}
    return config


def _places(around: Surroundings) -> list[str]:
    """Where it may find the repository that it works in, and its note of another thread's trust."""
    paths = [PurePath(path) for path in (around.cwd, around.origin_cwd) if path]
    return list(dict.fromkeys(str(place) for path in paths for place in (path, *path.parents)))


def inputs_of(event: bytes) -> list[dict[str, str]]:
    """What a turn begins with, from the blocks of a user event."""
    return [_input(block) for block in msgspec.json.decode(event)["message"]["content"]]


def _input(block: Mapping[str, Any]) -> dict[str, str]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"]
    return {"type": "image", "url": f"data:{source['media_type']};base64,{source['data']}"}


def _mcp_server(server: Mapping[str, Any]) -> dict[str, Any]:
    """A server as Claude Code's configuration has it, in Codex's words."""
    renamed = {"headers": "http_headers"}
    return {renamed.get(name, name): value for name, value in server.items() if name != "type"}
