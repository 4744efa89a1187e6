"""Claude Code in its headless mode: `claude -p` with stream-json on stdin and stdout.

The shapes are those of claude 2.1.330, from live captures (tests/agents/transcripts/claude/). A turn is
`session_state_changed running`, `command_lifecycle` of the prompt's uuid, `init`, messages, `result`,
`session_state_changed idle`; the state events need CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS.

Not every `result` and `idle` belongs to the prompt. A finished background command wakes an idle agent: a turn
without a prompt, whose `result` has an `origin`. A prompt that comes meanwhile waits for its end or becomes
part of it, and after a subagent there are two results. So the prompt has a uuid (the turn's id), and the turn
is over at the first `idle` after a `result` that names it, or after the lifecycle's end.

A message that is added while the turn runs has a uuid of its own and is waited for likewise. In the middle of a
command it becomes part of the work; else the CLI answers it next, with a result, and perhaps an `idle`, between.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from agentsrv.agents.base import (
    AgentInfo,
    Effect,
    Launch,
    Question,
    as_conversation,
    as_object,
    child_environment,
    conversation_lost,
    dump,
    find_program,
    load_object,
    mcp_server_type,
    not_found,
    raw_event,
    require_effort,
    require_mcp_servers,
    unsupported,
    user_event,
)
from agentsrv.agents.claude_questions import read_question, response_to
from agentsrv.agents.claude_transcript import copy_transcript
from agentsrv.agents.claude_updates import ClaudeUpdates
from agentsrv.agents.version import read_version
from agentsrv.config import Config
from agentsrv.model import (
    Answer,
    Fork,
    Image,
    Outcome,
    PermissionMode,
    Session,
    TurnId,
    TurnOptions,
    TurnStatus,
)

EFFORTS = ("low", "medium", "high", "xhigh", "max")
MCP_TYPES = ("stdio", "http", "sse", "ws")
MODELS = ("opus", "sonnet", "haiku")
OPTIONS = (
    "model", "permission_mode", "effort", "system_prompt", "max_turns", "max_budget_usd", "mcp_servers",
    "output_schema", "partial_messages",
)  # fmt: skip

LOGIN = "set ANTHROPIC_API_KEY, or log in once with `claude`"
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

MODES = {
    PermissionMode.BYPASS: "bypassPermissions",
    PermissionMode.ACCEPT_EDITS: "acceptEdits",
    PermissionMode.ASK: "default",
    PermissionMode.PLAN: "plan",
}

# Back in plan mode it would leave it to another model what it may do, and refuse instead of asking.
ASKING_SETTINGS = '{"useAutoModeDuringPlan":false}'

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


class _Place(msgspec.Struct):
    """What names a message of a conversation. Those of a subagent have a parent."""

    type: str | None = None
    uuid: str | None = None
    session_id: str | None = None
    parent_tool_use_id: str | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_place = msgspec.json.Decoder(_Place).decode

NOT_LOGGED_IN = "Claude Code is not logged in; set ANTHROPIC_API_KEY, or log in once with `claude`"

UNREAD = frozenset({"discarded", "refused"})
DEALT_WITH = UNREAD | {"completed", "cancelled"}
"""The last states of a message's lifecycle."""

ORDINARY = frozenset({"assistant", "user", "stream_event"})
NOTHING = Effect(event=None)


class ClaudeAdapter:
    """One `claude` process."""

    name: ClassVar[str] = "claude-code"

    def __init__(self, internal_id: str | None, state: Mapping[str, Any]) -> None:
        self._internal_id = internal_id
        self._process_cost = float(state.get("cost_usd", 0.0))
        self._background_tasks = int(state.get("background_tasks", 0))
        self._mode = PermissionMode(state.get("permission_mode", PermissionMode.BYPASS))
        self._prompt_id: TurnId | None = None
        self._steered: set[str] = set()
        self._dealt_with: set[str] = set()
        self._turn_cost = 0.0
        self._outcome: Outcome | None = None
        self._has_result = False
        self._has_state_events = False
        self._synthetic_error: str | None = None

    @property
    def has_background_work(self) -> bool:
        """Commands that the agent started in the background still run; their end will wake it."""
        return self._background_tasks > 0

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> None:
        self._prompt_id = prompt_id
        if prompt_id is not None:
            # What it does by itself it does under the rules of the last prompt.
            self._mode = options.permission_mode
        self._steered.clear()
        self._dealt_with.clear()
        self._turn_cost = 0.0
        self._outcome = None
        self._has_result = False
        self._synthetic_error = None

    def prompt(self, event: bytes) -> bytes:
        # The user event is exactly what the CLI reads.
        line = event + b"\n"
        if self._mode is PermissionMode.BYPASS:
            return line
        # In an earlier turn the agent may have changed it: it can leave plan mode, and enter it by itself.
        request = {"subtype": "set_permission_mode", "mode": MODES[self._mode]}
        return _control(f"mode-{self._prompt_id}", request) + line

    def steer(self, message_id: str, event: bytes) -> bytes:
        self._steered.add(message_id)
        return event + b"\n"

    def interrupt(self, turn_id: TurnId) -> bytes:
        # What was added to the turn and not read yet would be a turn of its own.
        unread = sorted(self._steered - self._dealt_with)
        cancels = [
            _control(f"cancel-{message_id}", {"subtype": "cancel_async_message", "message_uuid": message_id})
            for message_id in unread
        ]
        return b"".join(cancels) + _control(f"interrupt-{turn_id}", {"subtype": "interrupt"})

    def answer(self, question: Question, answer: Answer) -> bytes:
        return _control_response(question.id, response_to(question, answer))

    def state(self) -> dict[str, Any]:
        return {
            "cost_usd": self._process_cost,
            "background_tasks": self._background_tasks,
            "permission_mode": self._mode,
        }

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
                return self._lifecycle(line)
            case "control_response", _:
                return NOTHING
            case "control_request", _:
                return self._asked(line)
            case "control_cancel_request", _:
                return Effect(event=line, withdrawn=_text((load_object(line) or {}).get("request_id")))
            case _:
                return None

    def _state_changed(self, line: bytes) -> Effect:
        self._has_state_events = True
        if (load_object(line) or {}).get("state") != "idle":
            return Effect(event=line, begins=True)
        return Effect(event=line, outcome=self._outcome, is_over=self._is_answered)

    @property
    def _is_answered(self) -> bool:
        """Has the agent dealt with all that it was told in this turn?"""
        has_begun = self._has_result if self._prompt_id is None else self._prompt_id in self._dealt_with
        return has_begun and self._steered <= self._dealt_with

    def _lifecycle(self, line: bytes) -> Effect | None:
        message = load_object(line) or {}
        state, message_id = _text(message.get("state")), str(message.get("command_uuid"))
        if state not in DEALT_WITH:
            return None
        self._dealt_with.add(message_id)
        if state not in UNREAD:
            return None
        if message_id == self._prompt_id and self._outcome is None:
            self._outcome = Outcome(TurnStatus.FAILED, f"the agent has {state} the prompt", "agent_error")
        return Effect(event=line, outcome=self._outcome, lost_steer=message_id)

    def _init(self, line: bytes) -> Effect:
        internal_id = as_conversation((load_object(line) or {}).get("session_id"))
        if internal_id == self._internal_id:
            internal_id = None
        self._internal_id = internal_id or self._internal_id
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
            self._has_result = True
            self._dealt_with.update(_uuids(message) or {str(self._prompt_id)})
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
        if prompts := _uuids(result):
            return not prompts.isdisjoint({self._prompt_id, *self._steered})
        return not result.get("origin")

    def _outcome_of(self, message: Mapping[str, Any]) -> Outcome:
        earlier = self._outcome.usage if self._outcome is not None else None
        error, code = self._error(message)
        return Outcome(
            TurnStatus.COMPLETED if error is None else TurnStatus.FAILED,
            error,
            code,
            stop_reason=_text(message.get("stop_reason" if error is None else "terminal_reason")),
            usage=_added(earlier, message.get("usage")),
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
        """A question for people; or a request that nobody expects, whose answer is an error: it must not wait."""
        message = load_object(line) or {}
        id_, request = message.get("request_id"), as_object(message.get("request"))
        is_question = request.get("subtype") == "can_use_tool" and isinstance(id_, str)
        if is_question and self._mode is not PermissionMode.BYPASS:
            return Effect(event=line, question=read_question(str(id_), request), begins=True)
        reply = {
            "type": "control_response",
            "response": {
                "subtype": "error",
                "request_id": id_,
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

    async def check(self, options: TurnOptions) -> None:
        require_effort(options, EFFORTS)
        require_mcp_servers(options, MCP_TYPES)
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
        return self._transcript(session.internal_session_id, session.cwd)

    def point_of(self, event: bytes) -> tuple[str, str] | None:
        try:
            message = _decode_place(event)
        except (msgspec.DecodeError, RecursionError):
            return None
        if message.type not in ("assistant", "user") or message.parent_tool_use_id is not None:
            return None
        if message.session_id is None or message.uuid is None:
            return None
        return message.session_id, message.uuid

    def copy_conversation(self, fork: Fork, cwd: str) -> str:
        if (source := self._transcript(fork.conversation, cwd)) is None:
            raise conversation_lost(fork.conversation)
        conversation = str(uuid.uuid4())
        copy_transcript(source, conversation, fork.point)
        return conversation

    def _transcript(self, conversation: str, cwd: str) -> Path | None:
        if as_conversation(conversation) is None:
            return None
        name = f"{conversation}.jsonl"
        projects = self._config_directory() / "projects"
        usual = projects / re.sub(r"[^A-Za-z0-9]", "-", cwd) / name
        if usual.is_file():
            return usual
        return next(projects.glob(f"*/{name}"), None)

    def user_event(
        self, session: Session, turn_id: TurnId, prompt: str, images: Sequence[Image] = ()
    ) -> bytes:
        return user_event(prompt, turn_id, session.internal_session_id, images)

    def is_message(self, event: bytes) -> bool:
        try:
            envelope = _decode_envelope(event)
        except (msgspec.DecodeError, RecursionError):
            return False
        return envelope.type in MESSAGE_TYPES or envelope.subtype in MESSAGE_SUBTYPES

    def updates(self, *, deltas: bool = True) -> ClaudeUpdates:
        return ClaudeUpdates(deltas=deltas)

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
        info = AgentInfo(
            self.name,
            available=False,
            login=LOGIN,
            is_wanted=self._config.claude_path is not None,
            credentials=self.credentials(),
        )
        program = self.find()
        if program is None:
            problem = not_found("claude", "CLAUDE_PATH", self._config.claude_path)
            return replace(info, problem=problem)
        version, trouble = await read_version(program, self.environment())
        return replace(
            info,
            available=version is not None,
            version=version,
            path=str(program),
            problem=trouble,
            models=MODELS,
            efforts=EFFORTS,
            permission_modes=tuple(PermissionMode),
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
)  # fmt: skip


def _options(options: TurnOptions, directory: Path) -> tuple[dict[str, bytes], list[str]]:
    """Files to write into `directory`, and arguments. Texts of users go by file: `ps` shows arguments."""
    files: dict[str, bytes] = {}
    arguments = [f"--permission-mode={MODES[options.permission_mode]}"]
    if options.permission_mode is not PermissionMode.BYPASS:
        arguments += ["--permission-prompt-tool=stdio", f"--settings={ASKING_SETTINGS}"]
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
        # Without a type it would take one with a URL for a command, and leave it out.
        servers = {
            name: {"type": mcp_server_type(server)} | server for name, server in options.mcp_servers.items()
        }
        files["mcp.json"] = dump({"mcpServers": servers})
        arguments += ["--mcp-config", str(directory / "mcp.json")]
    if options.output_schema is not None:
        arguments.append(f"--json-schema={dump(options.output_schema).decode()}")
    return files, arguments


def _control(request_id: str, request: dict[str, Any]) -> bytes:
    return dump({"type": "control_request", "request_id": request_id, "request": request}) + b"\n"


def _control_response(request_id: str, response: dict[str, Any]) -> bytes:
    answer = {"subtype": "success", "request_id": request_id, "response": response}
    return dump({"type": "control_response", "response": answer}) + b"\n"


def _uuids(result: Mapping[str, Any]) -> set[str]:
    """The user messages that a result is the answer to, as far as it names them."""
    named = result.get("user_message_uuids")
    return {name for name in named if isinstance(name, str)} if isinstance(named, list) else set()


def _added(earlier: Mapping[str, Any] | None, usage: Any) -> dict[str, Any] | None:
    """The usage of a turn that has had a result already: the counts are added up."""
    if not isinstance(usage, dict) or earlier is None:
        return usage if isinstance(usage, dict) else None
    counts = {name: count for name, count in earlier.items() if isinstance(count, int)}
    return usage | {
        name: count + usage[name] for name, count in counts.items() if isinstance(usage.get(name), int)
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
