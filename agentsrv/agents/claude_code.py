"""Claude Code in its headless mode: `claude -p` with stream-json on stdin and stdout.

The shapes are those of claude 2.1.330, from live captures (tests/agents/transcripts/claude/). A turn is
`session_state_changed running`, `command_lifecycle` of the prompt's uuid, `init`, messages, `result`,
`session_state_changed idle`; the state events need CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS.

Not every `result` and `idle` belongs to the prompt. A finished background command wakes an idle agent: a turn
without a prompt, whose `result` has an `origin`. A prompt that comes meanwhile waits for its end or becomes
part of it, and after a subagent there are two results. So the prompt has a uuid (the turn's id), and the turn
is over at the first `idle` after a `result` that names it, or after the lifecycle's end.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from agentsrv.agents.base import (
    AgentInfo,
    Effect,
    Launch,
    child_environment,
    dump,
    find_program,
    load_object,
    raw_event,
    unsupported,
    user_event,
)
from agentsrv.agents.version import read_version
from agentsrv.config import Config
from agentsrv.model import Outcome, PermissionMode, Session, TurnId, TurnOptions, TurnStatus

EFFORTS = ("low", "medium", "high", "xhigh", "max")
MODELS = ("opus", "sonnet", "haiku")
OPTIONS = (
    "model", "effort", "system_prompt", "max_turns", "max_budget_usd", "mcp_servers", "output_schema",
    "partial_messages",
)  # fmt: skip

CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
PASSED_ON = (
    *CREDENTIALS, "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL", "ANTHROPIC_CUSTOM_HEADERS",
    "ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_MAX_RETRIES", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "API_TIMEOUT_MS",
    "BASH_DEFAULT_TIMEOUT_MS", "BASH_MAX_TIMEOUT_MS", "MAX_THINKING_TOKENS",
)  # fmt: skip

FIXED_ENVIRONMENT = {
    # The transcript is on disk before the line that shows it: a killed agent can be resumed.
    "CLAUDE_CODE_EAGER_FLUSH": "1",
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
    # Permission bypass is refused to root unless the CLI is told that it runs in a sandbox.
    "IS_SANDBOX": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}

MESSAGE_TYPES = frozenset({"user", "assistant", "result", "error", "raw"})
MESSAGE_SUBTYPES = frozenset({"init", "worktree_init", "compact_boundary"})

MAX_SCHEMA_BYTES = 64 * 1024

# A wrong key stays wrong; the CLI would try ten times, for minutes. A closed port may open again.
PATIENCE = {401: 2, 403: 2, None: 6}

ERROR_CODES = {
    "authentication_failed": "agent_not_authenticated",
    "rate_limit": "agent_rate_limited",
    "overloaded": "agent_overloaded",
    "model_not_found": "model_not_found",
    "prompt_too_long": "context_too_long",
    "blocking_limit": "context_too_long",
    "error_max_turns": "max_turns_reached",
    "error_max_budget_usd": "max_budget_reached",
    "connection_failed": "agent_api_unreachable",
    "server_error": "agent_api_error",
}
STATUS_CODES = {
    401: "authentication_failed",
    403: "authentication_failed",
    429: "rate_limit",
    529: "overloaded",
}


class _Envelope(msgspec.Struct):
    """What decides whether a line means something to the server. The rest of it is skipped unread."""

    type: str | None = None
    subtype: str | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode

NOT_LOGGED_IN = "Claude Code is not logged in; set ANTHROPIC_API_KEY, or log in once with `claude`"

ORDINARY = frozenset({"assistant", "user", "stream_event"})
NOTHING = Effect(event=None)


class ClaudeAdapter:
    """One `claude` process."""

    name: ClassVar[str] = "claude-code"

    def __init__(self, internal_id: str | None, state: Mapping[str, Any]) -> None:
        self._internal_id = internal_id
        self._process_cost = float(state.get("cost_usd", 0.0))
        self._background_tasks = int(state.get("background_tasks", 0))
        self._prompt_id: TurnId | None = None
        self._turn_cost = 0.0
        self._outcome: Outcome | None = None
        self._is_answered = False
        self._has_state_events = False
        self._synthetic_error: str | None = None

    @property
    def has_background_work(self) -> bool:
        """Commands that the agent started in the background still run; their end will wake it."""
        return self._background_tasks > 0

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> None:
        self._prompt_id = prompt_id
        self._turn_cost = 0.0
        self._outcome = None
        self._is_answered = False
        self._synthetic_error = None

    def prompt(self, event: bytes) -> bytes:
        # The user event is exactly what the CLI reads.
        return event + b"\n"

    def interrupt(self, turn_id: TurnId) -> bytes:
        return _control(f"interrupt-{turn_id}", {"subtype": "interrupt"})

    def state(self) -> dict[str, Any]:
        return {"cost_usd": self._process_cost, "background_tasks": self._background_tasks}

    def receive(self, line: bytes) -> Effect | None:
        try:
            envelope = _decode_envelope(line)
        except (msgspec.DecodeError, RecursionError):
            return self._receive_odd(line)
        if envelope.type in ORDINARY:
            if b'"<synthetic>"' in line:
                self._note_error(line)
            return None
        return self._receive_special(envelope.type, envelope.subtype, line)

    def _receive_odd(self, line: bytes) -> Effect | None:
        """What the fast decoder refuses: text that is not JSON, but also lone surrogates and odd types."""
        if not line.strip():
            return NOTHING
        message = load_object(line)
        if message is None:
            return Effect(event=raw_event(line))
        return self._receive_special(message.get("type"), message.get("subtype"), line)

    def _receive_special(self, type_: Any, subtype: Any, line: bytes) -> Effect | None:
        match type_, subtype:
            case "system", "session_state_changed":
                return self._state_changed(line)
            case "system", "init":
                return self._init(line)
            case "system", "background_tasks_changed":
                tasks = (load_object(line) or {}).get("tasks")
                self._background_tasks = len(tasks) if isinstance(tasks, list) else 0
                return None
            case "system", "api_retry":
                return self._retry(line)
            case "result", _:
                return self._result(line)
            case "command_lifecycle", _:
                self._lifecycle(line)
                return None
            case "control_response", _:
                return NOTHING
            case "control_request", _:
                return self._asked(line)
            case _:
                return None

    def _state_changed(self, line: bytes) -> Effect:
        self._has_state_events = True
        if (load_object(line) or {}).get("state") != "idle":
            return Effect(event=line, begins=True)
        return Effect(event=line, outcome=self._outcome, is_over=self._is_answered)

    def _lifecycle(self, line: bytes) -> None:
        message = load_object(line) or {}
        if message.get("command_uuid") == self._prompt_id and message.get("state") in {
            "completed",
            "cancelled",
        }:
            self._is_answered = True

    def _init(self, line: bytes) -> Effect:
        internal_id = (load_object(line) or {}).get("session_id")
        if not isinstance(internal_id, str) or internal_id == self._internal_id:
            internal_id = None
        else:
            self._internal_id = internal_id
        return Effect(event=line, begins=True, internal_session_id=internal_id)

    def _note_error(self, line: bytes) -> None:
        """The CLI tells the kind of an error in an assistant message of its own, not in `result`."""
        message = load_object(line) or {}
        if isinstance(error := message.get("error"), str):
            self._synthetic_error = error

    def _retry(self, line: bytes) -> Effect | None:
        message = load_object(line) or {}
        status = message.get("error_status")
        attempt = message.get("attempt")
        limit = PATIENCE.get(status) if isinstance(status, int | None) else None
        if limit is None or not isinstance(attempt, int) or attempt < limit:
            return None
        reason = message.get("error")
        if status is None:
            error, code = "the model API cannot be reached", "agent_api_unreachable"
        else:
            error = f"the model API refused the credentials (HTTP {status}, {reason})"
            code = "agent_not_authenticated"
        return Effect(event=line, gave_up=Outcome(TurnStatus.FAILED, error, code))

    def _result(self, line: bytes) -> Effect:
        message = load_object(line) or {}
        self._add_cost(message.get("total_cost_usd"))
        if self._is_of_this_turn(message):
            self._is_answered = True
            self._outcome = self._outcome_of(message)
        elif self._outcome is not None:
            self._outcome = replace(self._outcome, cost_usd=self._turn_cost)
        # A CLI that does not tell its state is idle after its result.
        is_over = self._is_answered and not self._has_state_events
        return Effect(event=line, outcome=self._outcome, is_over=is_over)

    def _add_cost(self, total: Any) -> None:
        """The CLI counts per process, and begins again at 0 when the conversation is cleared."""
        if isinstance(total, int | float):
            added = total - self._process_cost if total >= self._process_cost else total
            self._turn_cost = round(self._turn_cost + added, 9)
            self._process_cost = float(total)

    def _is_of_this_turn(self, result: Mapping[str, Any]) -> bool:
        if self._prompt_id is None:
            return True
        prompts = result.get("user_message_uuids")
        if isinstance(prompts, list) and prompts:
            return self._prompt_id in prompts
        return not result.get("origin")

    def _outcome_of(self, message: Mapping[str, Any]) -> Outcome:
        usage = message.get("usage")
        error, code = self._error(message)
        return Outcome(
            TurnStatus.COMPLETED if error is None else TurnStatus.FAILED,
            error,
            code,
            stop_reason=_text(message.get("stop_reason" if error is None else "terminal_reason")),
            usage=usage if isinstance(usage, dict) else None,
            cost_usd=self._turn_cost,
            structured_output=message.get("structured_output"),
        )

    def _error(self, result: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """(message, code) of a `result` line; (None, None) when it is a success.

        API errors come with subtype "success" and is_error true; limits come with their own subtype.
        """
        subtype = result.get("subtype")
        if subtype == "success" and not result.get("is_error"):
            return None, None
        errors = result.get("errors")
        texts = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
        if texts and texts[0].startswith("[ede_diagnostic]"):
            return "the agent was interrupted", "agent_interrupted"
        message = result.get("result") or "; ".join(texts) or f"the agent ended with {subtype}"
        kinds = (
            subtype,
            result.get("terminal_reason"),
            STATUS_CODES.get(status) if isinstance(status := result.get("api_error_status"), int) else None,
            result.get("api_error"),
            self._synthetic_error,
        )
        codes = (ERROR_CODES[kind] for kind in kinds if isinstance(kind, str) and kind in ERROR_CODES)
        code = next(codes, "agent_error")
        if str(message).startswith("Not logged in"):
            message = NOT_LOGGED_IN
        return str(message), code

    def _asked(self, line: bytes) -> Effect:
        """A control request that nobody expects: the answer is an error, so that it is not waited for."""
        message = load_object(line) or {}
        reply = {
            "type": "control_response",
            "response": {
                "subtype": "error",
                "request_id": message.get("request_id"),
                "error": "not supported by this client",
            },
        }
        return Effect(event=line, reply=dump(reply) + b"\n")

    def explain_exit(self, stderr: str) -> tuple[str, str] | None:
        if "Not logged in" in stderr:
            return NOT_LOGGED_IN, "agent_not_authenticated"
        lines = [text for text in stderr.splitlines() if text.lower().startswith("error")]
        return (lines[-1][:500], "agent_error") if lines else None


class ClaudeCode:
    """What is known of Claude Code without a process."""

    name = "claude-code"

    def __init__(self, config: Config) -> None:
        self._config = config

    def adapter(self, session: Session, state: Mapping[str, Any]) -> ClaudeAdapter:
        return ClaudeAdapter(session.internal_session_id, state)

    async def prepare(self) -> None:
        """Its processes share nothing that they could not make themselves."""

    def launch(self, session: Session, options: TurnOptions, *, resume: bool, directory: Path) -> Launch:
        files, arguments = _options(options, directory)
        conversation = f"--resume={session.internal_session_id}"
        if not resume:
            conversation = f"--session-id={session.internal_session_id}"
        return Launch(
            argv=(str(self.program()), *BASE_ARGUMENTS, conversation, *arguments),
            env=self.environment(),
            files=files,
        )

    def check(self, options: TurnOptions) -> None:
        if options.permission_mode is not PermissionMode.BYPASS:
            raise unsupported("permission_mode", "only `bypass` is supported so far")
        if options.effort is not None and options.effort not in EFFORTS:
            raise unsupported("effort", f"must be one of {', '.join(EFFORTS)}")
        if options.output_schema is not None and len(dump(options.output_schema)) > MAX_SCHEMA_BYTES:
            raise unsupported("output_schema", f"must not be larger than {MAX_SCHEMA_BYTES} bytes of JSON")

    def process_key(self, options: TurnOptions) -> str | None:
        if options.max_budget_usd is not None:
            # The CLI's budget is for all that a process does, not for a turn.
            return None
        files, arguments = _options(options, Path())
        return hashlib.sha256(repr((arguments, files)).encode()).hexdigest()

    def new_internal_id(self, session_id: str) -> str:
        try:
            return str(uuid.UUID(session_id))
        except ValueError:
            return str(uuid.uuid4())

    def transcript_of(self, session: Session) -> Path | None:
        if session.internal_session_id is None:
            return None
        name = f"{session.internal_session_id}.jsonl"
        projects = self._config_directory() / "projects"
        usual = projects / re.sub(r"[^A-Za-z0-9]", "-", session.cwd) / name
        if usual.is_file():
            return usual
        return next(projects.glob(f"*/{name}"), None)

    def user_event(self, session: Session, turn_id: TurnId, prompt: str) -> bytes:
        return user_event(prompt, turn_id, session.internal_session_id)

    def is_message(self, event: bytes) -> bool:
        try:
            envelope = _decode_envelope(event)
        except (msgspec.DecodeError, RecursionError):
            return False
        return envelope.type in MESSAGE_TYPES or envelope.subtype in MESSAGE_SUBTYPES

    def find(self) -> Path | None:
        return find_program(
            "claude",
            configured=self._config.claude_path,
            package="claude_agent_sdk",
            inside="_bundled/claude",
            environment=self._config.environment,
        )

    def program(self) -> Path:
        """The program to start, found or not: starting a missing one gives the clearer error."""
        return self.find() or self._config.claude_path or Path("claude")

    def environment(self) -> dict[str, str]:
        names = {*PASSED_ON, *self._config.agent_env}
        if self._config.use_claude_credentials:
            # With an API key in its environment the CLI does not look at the stored login.
            names -= {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"}
        return child_environment(self._config.environment, names) | FIXED_ENVIRONMENT

    async def describe(self) -> AgentInfo:
        program = self.find()
        if program is None:
            problem = "claude was not found; install the `agents` extra or set CLAUDE_PATH"
            return AgentInfo(self.name, available=False, problem=problem, credentials=self.credentials())
        version, trouble = await read_version(program, self.environment())
        return AgentInfo(
            self.name,
            available=version is not None,
            version=version,
            path=str(program),
            problem=trouble,
            credentials=self.credentials(),
            models=MODELS,
            options=OPTIONS,
        )

    def credentials(self) -> tuple[str, ...]:
        """Names of the credentials that an agent would find."""
        environment = self.environment()
        found = [name for name in CREDENTIALS if environment.get(name)]
        if (self._config_directory() / ".credentials.json").is_file():
            found.append(".credentials.json")
        return tuple(found)

    def _config_directory(self) -> Path:
        environment = self._config.environment
        if directory := environment.get("CLAUDE_CONFIG_DIR"):
            return Path(directory)
        return Path(environment.get("HOME") or Path.home()) / ".claude"


BASE_ARGUMENTS = (
    "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
    "--permission-mode", "bypassPermissions",
)  # fmt: skip


def _options(options: TurnOptions, directory: Path) -> tuple[dict[str, bytes], list[str]]:
    """Files to write into `directory`, and arguments. Texts of users go by file: `ps` shows arguments."""
    files: dict[str, bytes] = {}
    arguments: list[str] = []
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
        files["mcp.json"] = dump({"mcpServers": options.mcp_servers})
        arguments += ["--mcp-config", str(directory / "mcp.json")]
    if options.output_schema is not None:
        arguments.append(f"--json-schema={dump(options.output_schema).decode()}")
    return files, arguments


def _control(request_id: str, request: dict[str, Any]) -> bytes:
    return dump({"type": "control_request", "request_id": request_id, "request": request}) + b"\n"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
