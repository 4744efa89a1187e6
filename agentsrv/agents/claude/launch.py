"""How `claude` is started: arguments, files, environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentsrv.agents.model_servers import ModelServer
from agentsrv.agents.options import counts_repository, mcp_server_type
from agentsrv.jsontext import dump
from agentsrv.model import PermissionMode, TurnOptions

LOGIN = "set ANTHROPIC_API_KEY, or log in once with `agentsrv agents login claude`"
CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
ALIASES = ("ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL")
"""What `opus`, `sonnet` and `haiku` mean, also to the CLI itself, which asks the last one for small things."""

PASSED_ON = (
    *CREDENTIALS, *ALIASES, "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL", "ANTHROPIC_CUSTOM_HEADERS",
    "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_MAX_RETRIES", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "API_TIMEOUT_MS",
    "BASH_DEFAULT_TIMEOUT_MS", "BASH_MAX_TIMEOUT_MS", "MAX_THINKING_TOKENS",
)  # fmt: skip

FIXED_ENVIRONMENT = {
    # The transcript is on disk before the line that shows it: a killed agent can be resumed.
    "CLAUDE_CODE_EAGER_FLUSH": "1",
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
    # Without a terminal the CLI has no to-do list, which clients show as a plan.
    "CLAUDE_CODE_ENABLE_TODO_TOOLS": "1",
    # Permission bypass is refused to root unless the CLI is told that it runs in a sandbox.
    "IS_SANDBOX": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}

MODES = {
    PermissionMode.BYPASS: "bypassPermissions",
    PermissionMode.ACCEPT_EDITS: "acceptEdits",
    PermissionMode.ASK: "default",
    PermissionMode.PLAN: "plan",
}

ASKING_SETTINGS = {
    # Back in plan mode it would leave it to another model what it may do, and refuse instead of asking.
    "useAutoModeDuringPlan": False,
}
SETTINGS = {
    # Whenever any session starts, the CLI deletes the records of all that were silent for longer; they are ours.
    "cleanupPeriodDays": 36500,
}

READS_INSTRUCTIONS = {"CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD": "1"}
"""Directories that are added are read for CLAUDE.md, as the working directory is whose settings count."""

BASE_ARGUMENTS = (
    "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
)  # fmt: skip


class Start(Struct, frozen=True):
    """What options ask of a process. `files` are to be written into its directory, `opening` to its stdin."""

    arguments: tuple[str, ...]
    files: dict[str, bytes]
    environment: dict[str, str]
    opening: bytes


def asking(server: ModelServer, model: str | None) -> dict[str, str]:
    """Variables with which the CLI asks another server, for one model alone, whatever it wants a model for."""
    aliases = dict.fromkeys(ALIASES, model or "")
    return {"ANTHROPIC_BASE_URL": server.url or "", "ANTHROPIC_AUTH_TOKEN": server.key or "", **aliases}


def start_of(options: TurnOptions, directory: Path) -> Start:
    """Texts of users go by file or by stdin: `ps` shows arguments."""
    files: dict[str, bytes] = {}
    arguments = [*_permissions(options), *_sources(options)]
    if options.partial_messages:
        arguments.append("--include-partial-messages")
    if options.model is not None:
        arguments.append(f"--model={options.model}")
    if options.effort is not None:
        arguments.append(f"--effort={options.effort}")
    if options.system_prompt is not None:
        files["system-prompt.txt"] = options.system_prompt.encode()
        arguments += ["--append-system-prompt-file", str(directory / "system-prompt.txt")]
    if options.max_turns is not None:
        arguments.append(f"--max-turns={options.max_turns}")
    if options.max_budget_usd is not None:
        arguments.append(f"--max-budget-usd={options.max_budget_usd}")
    if options.mcp_servers is not None:
        files["mcp.json"] = dump({"mcpServers": _with_types(options.mcp_servers)})
        arguments += ["--mcp-config", str(directory / "mcp.json")]
    environment = {} if counts_repository(options) else READS_INSTRUCTIONS
    return Start(tuple(arguments), files, environment, _opening(options))


def _permissions(options: TurnOptions) -> list[str]:
    asks = options.permission_mode is not PermissionMode.BYPASS
    settings = SETTINGS | (ASKING_SETTINGS if asks else {})
    arguments = [
        f"--permission-mode={MODES[options.permission_mode]}",
        f"--settings={dump(settings).decode()}",
    ]
    return [*arguments, "--permission-prompt-tool=stdio"] if asks else arguments


def _sources(options: TurnOptions) -> list[str]:
    """Whose settings count. Those of a repository run programs and redirect the model before it has said anything.

    Its instructions (CLAUDE.md) are for the model alone, and are read all the same.
    """
    if options.setting_sources is not None:
        return [f"--setting-sources={','.join(options.setting_sources)}"]
    return [] if counts_repository(options) else ["--setting-sources=user", "--add-dir=."]


def _with_types(servers: Mapping[str, Any]) -> dict[str, Any]:
    """Without a type the CLI would take a server with a URL for a command, and leave it out."""
    return {name: {"type": mcp_server_type(server)} | server for name, server in servers.items()}


def _opening(options: TurnOptions) -> bytes:
    if options.output_schema is None:
        return b""
    request = {"subtype": "initialize", "jsonSchema": options.output_schema}
    return dump({"type": "control_request", "request_id": "initialize", "request": request}) + b"\n"
