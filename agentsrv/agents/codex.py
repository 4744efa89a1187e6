"""Codex through `codex app-server`: JSON-RPC, one message a line, on stdin and stdout.

The shapes are those of codex-cli 0.163.0, from live captures (tests/agents/transcripts/codex/). A process is
one conversation (a *thread*). It begins with `initialize` and, where the server has a key, a login that is kept
in memory alone: the agent's own commands find the key neither in the environment nor on the disk. Then the
thread is resumed or started, and only then can a prompt be taken. A turn is `turn/started`, items,
`turn/completed`; a command that outlives it may still end later.

Answers to our own requests are not events, so after a crash of the server they may never be read again. What
must be known of the process therefore follows from notifications, and two kinds of answers are kept as events:
one that ends the turn, which is an error, and one to a message that was added to it, which the turn's end waits for.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from agentsrv import __version__
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
    not_found,
    raw_event,
    require_effort,
    require_mcp_servers,
    unsupported,
    user_event,
)
from agentsrv.agents.codex_questions import answer_lines, read_question, request_name, unasked_answer
from agentsrv.agents.codex_updates import CodexUpdates
from agentsrv.agents.version import ask, read_version
from agentsrv.config import Config
from agentsrv.errors import InvalidInput, Problem
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
MCP_TYPES = ("stdio", "http")
OPTIONS = (
    "model", "permission_mode", "effort", "system_prompt", "mcp_servers", "output_schema", "partial_messages",
)  # fmt: skip

LOGIN = "set OPENAI_API_KEY, or see CODEX_HOME in docs/configuration.md"
KEYS = ("CODEX_API_KEY", "OPENAI_API_KEY")
"""The first one that is set is logged in with. The program itself looks at neither of them."""

PASSED_ON = ("OPENAI_ORGANIZATION", "OPENAI_PROJECT", "CODEX_CA_CERTIFICATE", "RUST_LOG")

OUR_PROVIDER = "agentsrv"
"""The model provider of threads that use OPENAI_BASE_URL, which the program does not look at either."""

DELTAS = (
    "item/agentMessage/delta", "item/plan/delta", "item/reasoning/summaryPartAdded",
    "item/reasoning/summaryTextDelta", "item/reasoning/textDelta", "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
)  # fmt: skip

MESSAGE_TYPES = frozenset({"user", "error", "raw", "system"})

ERROR_CODES = {
    "contextWindowExceeded": "context_too_long",
    "usageLimitExceeded": "agent_rate_limited",
    "rateLimitExceeded": "agent_rate_limited",
    "serverOverloaded": "agent_overloaded",
    "internalServerError": "agent_api_error",
    "unauthorized": "agent_not_authenticated",
}
STATUS_CODES = {
    401: "agent_not_authenticated",
    403: "agent_not_authenticated",
    429: "agent_rate_limited",
    None: "agent_api_unreachable",
}
UNREACHED = frozenset(
    {"httpConnectionFailed", "responseStreamConnectionFailed", "responseTooManyFailedAttempts"}
)

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
    PermissionMode.BYPASS: "never",
    PermissionMode.ACCEPT_EDITS: "on-request",
    PermissionMode.ASK: "on-request",
    PermissionMode.PLAN: {"granular": NO_WRITING},
}
"""What it may ask for, when the sandbox is in its way."""

OURS = re.compile(r"(initialize|login|config|config-new|resume|start|fork)\Z|(turn|interrupt|steer|refusal)-")
"""The ids of our requests."""

NOTHING = Effect(event=None)


class _Envelope(msgspec.Struct):
    """What decides whether a line means something to the server. The rest of it is skipped unread."""

    method: str | None = None
    id: int | str | None = None
    type: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    id: str | None = None


class _ItemParams(msgspec.Struct):
    item: _Item


class _ItemEnvelope(msgspec.Struct):
    params: _ItemParams


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_item = msgspec.json.Decoder(_ItemEnvelope).decode


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a thread needs to know of the server and the session."""

    cwd: str
    base_url: str | None
    logs_in: bool
    fork: Fork | None = None


class CodexAdapter:
    """One `codex app-server` process."""

    name: ClassVar[str] = "codex"

    def __init__(self, around: Surroundings, internal_id: str | None, state: Mapping[str, Any]) -> None:
        self._around = around
        self._known_thread = internal_id
        self._thread_id: str | None = state.get("thread_id")
        self._prompt_id: TurnId | None = None
        self._options = TurnOptions()
        self._turn_id: str | None = None
        self._usage: Counter[str] = Counter()
        self._total: Any = None
        self._commands: set[str] = set()
        self._calls: dict[str, dict[str, Any]] = {}
        self._helpers: set[str] = set()
        self._mode = PermissionMode(state.get("permission_mode", PermissionMode.BYPASS))
        self._steered: set[str] = set()
        self._steers_answered: set[str] = set()
        self._ended: Outcome | None = None

    @property
    def has_background_work(self) -> bool:
        """A command or a helper that the agent has started still works, though nobody waits for it."""
        return bool(self._commands or self._helpers)

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> None:
        self._prompt_id = prompt_id
        self._options = options
        if prompt_id is not None:
            # What it does by itself it does under the rules of the last prompt.
            self._mode = options.permission_mode
        self._turn_id = None
        self._usage = Counter()
        self._calls.clear()
        self._steered.clear()
        self._steers_answered.clear()
        self._ended = None

    def prompt(self, event: bytes) -> bytes | None:
        if self._thread_id is None:
            return None
        options = self._options
        params: dict[str, Any] = {
            "threadId": self._thread_id,
            "clientUserMessageId": self._prompt_id,
            "input": _inputs(event),
            # A thread keeps what it was told with an earlier turn, so it is told with each.
            "approvalPolicy": APPROVALS[self._mode],
            "sandboxPolicy": SANDBOXES[self._mode][1],
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
        return _request(f"turn-{self._prompt_id}", "turn/start", params)

    def interrupt(self, turn_id: TurnId) -> bytes | None:
        if self._turn_id is None:
            return None
        params = {"threadId": self._thread_id, "turnId": self._turn_id}
        return _request(f"interrupt-{turn_id}", "turn/interrupt", params)

    def steer(self, message_id: str, event: bytes) -> bytes | None:
        if self._turn_id is None:
            return None
        self._steered.add(message_id)
        params = {
            "threadId": self._thread_id,
            "expectedTurnId": self._turn_id,
            "clientUserMessageId": message_id,
            "input": _inputs(event),
        }
        return _request(f"steer-{message_id}", "turn/steer", params)

    def answer(self, question: Question, answer: Answer) -> bytes:
        return b"".join(dump(line) + b"\n" for line in answer_lines(question, answer))

    def state(self) -> dict[str, Any]:
        return {"thread_id": self._thread_id, "permission_mode": self._mode}

    def receive(self, line: bytes) -> Effect | None:
        try:
            envelope = _decode_envelope(line)
        except (msgspec.DecodeError, RecursionError):
            return self._receive_odd(line)
        return self._receive_message(envelope.method, envelope.id, line)

    def _receive_odd(self, line: bytes) -> Effect | None:
        """What the fast decoder refuses: text that is not JSON, but also lone surrogates and odd types."""
        if not line.strip():
            return NOTHING
        message = load_object(line)
        if message is None:
            return Effect(event=raw_event(line))
        return self._receive_message(message.get("method"), message.get("id"), line)

    def _receive_message(self, method: Any, id_: Any, line: bytes) -> Effect | None:
        if method is None:
            return self._answered(id_, line) if isinstance(id_, str) and OURS.match(id_) else None
        if id_ is not None:
            return self._asked(line)
        match method:
            case "account/login/completed":
                return self._logged_in(line)
            case "thread/started":
                return self._started(line)
            case "thread/status/changed":
                return self._status_changed(line)
            case "turn/started":
                return self._turn_started(line)
            case "turn/completed":
                return self._turn_completed(line)
            case "thread/tokenUsage/updated":
                self._add_usage(line)
            case "item/started" | "item/completed":
                self._count_command(method, line)
                self._note_call(method, line)
                return _without_images(line)
            case "serverRequest/resolved":
                return Effect(event=line, withdrawn=request_name(_params(line).get("requestId")))
            case _:
                pass
        return None

    # Up to the thread

    def _answered(self, id_: str, line: bytes) -> Effect:
        """An answer to a request of ours."""
        message = load_object(line) or {}
        error = message.get("error")
        if id_.startswith("steer-"):
            return self._steer_answered(id_.removeprefix("steer-"), line, is_refused=error is not None)
        if error is not None:
            return self._refused(id_, error, line)
        match id_:
            case "initialize" if not self._around.logs_in:
                return Effect(event=None, reply=self._first_request())
            case "config" | "config-new":
                provider = as_object(as_object(message.get("result")).get("config")).get("model_provider")
                return Effect(event=None, reply=self._thread_request(provider or "openai"))
            case "resume":
                return self._loaded(self._known_thread, None)
            case _:
                return NOTHING

    def _refused(self, id_: str, error: Any, line: bytes) -> Effect:
        if id_ == "resume" and "no rollout" in str(error):
            # It was never written down, or has been deleted: a new one takes its place.
            self._known_thread = None
            return Effect(event=None, reply=self._first_request())
        if id_.startswith(("interrupt-", "refusal-")):
            return NOTHING
        outcome = Outcome(TurnStatus.FAILED, *_refusal(error))
        if id_ == "fork":
            text = f"the conversation that this session goes on from cannot be forked: {outcome.error}"
            outcome = Outcome(TurnStatus.FAILED, text, "conversation_lost")
        if id_.startswith("turn-"):
            return Effect(event=line, outcome=outcome, is_over=True)
        return Effect(event=line, gave_up=outcome)

    def _logged_in(self, line: bytes) -> Effect | None:
        params = _params(line)
        if self._thread_id is not None:
            return None
        if not params.get("success"):
            error = f"the agent could not log in: {params.get('error')}"
            return Effect(event=line, gave_up=Outcome(TurnStatus.FAILED, error, "agent_not_authenticated"))
        # Not earlier: while the login changes its configuration, it may refuse to start a thread.
        return Effect(event=line, reply=self._first_request())

    def _first_request(self) -> bytes:
        if self._around.base_url is not None:
            return self._thread_request(OUR_PROVIDER)
        id_ = "config-new" if self._known_thread is None else "config"
        return _request(id_, "config/read", {"cwd": self._around.cwd})

    def _thread_request(self, provider: str) -> bytes:
        """Resume the thread, or start one, if need be with what another one knew at some point.

        A resumed thread goes on with the model and the effort of its last turn, unless the provider is named:
        then it has the defaults of the configuration, from which each turn may differ.
        """
        params: dict[str, Any] = {
            "cwd": self._around.cwd,
            "approvalPolicy": APPROVALS[self._mode],
            "sandbox": SANDBOXES[self._mode][0],
            "modelProvider": provider,
            "config": self._thread_config(),
        }
        if self._known_thread is None and (fork := self._around.fork) is not None:
            source = {"threadId": fork.conversation, "lastTurnId": fork.point, "excludeTurns": True}
            return _request("fork", "thread/fork", params | source)
        if self._known_thread is None:
            return _request("start", "thread/start", params)
        params |= {"threadId": self._known_thread, "excludeTurns": True}
        return _request("resume", "thread/resume", params)

    def _thread_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        if self._options.mcp_servers is not None:
            servers = self._options.mcp_servers.items()
            config["mcp_servers"] = {name: _mcp_server(server) for name, server in servers}
        if self._around.base_url is not None:
            provider = {
                "name": OUR_PROVIDER,
                "base_url": self._around.base_url,
                "wire_api": "responses",
                "requires_openai_auth": True,
            }
            config["model_providers"] = {OUR_PROVIDER: provider}
        return config

    def _started(self, line: bytes) -> Effect | None:
        """A thread of this process; those after the first are the agent's own helpers."""
        if self._thread_id is not None:
            return None
        thread_id = as_conversation(as_object(_params(line).get("thread")).get("id"))
        return None if thread_id is None else self._loaded(thread_id, line)

    def _status_changed(self, line: bytes) -> Effect | None:
        """The first that is heard of a resumed thread. Of other threads: whether a helper works."""
        params = _params(line)
        thread_id = str(params.get("threadId"))
        if self._thread_id is None:
            return self._loaded(thread_id, line) if thread_id == self._known_thread else None
        if as_object(params.get("status")).get("type") != "active":
            self._helpers.discard(thread_id)
        elif thread_id != self._thread_id:
            self._helpers.add(thread_id)
        return None

    def _loaded(self, thread_id: str | None, line: bytes | None) -> Effect:
        if self._thread_id is not None:
            return Effect(event=line)
        self._thread_id = thread_id
        is_new = thread_id != self._known_thread
        return Effect(event=line, takes_prompt=True, internal_session_id=thread_id if is_new else None)

    # The turn

    def _turn_started(self, line: bytes) -> Effect | None:
        params = _params(line)
        if params.get("threadId") != self._thread_id:
            return None
        self._turn_id = str(as_object(params.get("turn")).get("id"))
        return Effect(event=line, begins=True)

    def _steer_answered(self, message_id: str, line: bytes, *, is_refused: bool) -> Effect:
        """A message that was added to the turn is part of it, or came too late. Both are kept in the log:
        whoever reads it again must know that nothing is waited for any more.
        """
        self._steers_answered.add(message_id)
        outcome, self._ended = self._ended, None
        return Effect(
            event=line,
            lost_steer=message_id if is_refused else None,
            outcome=outcome,
            is_over=outcome is not None and self._is_steered_out(),
        )

    def _is_steered_out(self) -> bool:
        return self._steered <= self._steers_answered

    def _note_call(self, method: str, line: bytes) -> None:
        """Remember what is about to be done: a request for leave does not say it again."""
        if not (b'"fileChange"' in line or b'"mcpToolCall"' in line):
            return
        if _item_of(line).type not in ("fileChange", "mcpToolCall"):
            return
        item = as_object(_params(line).get("item"))
        if method == "item/started":
            self._calls[str(item.get("id"))] = item
        else:
            self._calls.pop(str(item.get("id")), None)

    def _count_command(self, method: str, line: bytes) -> None:
        """Keep count of commands that run."""
        if b'"commandExecution"' not in line or (item := _item_of(line)).type != "commandExecution":
            return
        if method == "item/started":
            self._commands.add(str(item.id))
        else:
            self._commands.discard(str(item.id))

    def _add_usage(self, line: bytes) -> None:
        """Add up what each call to the model has used. A resumed thread tells of its last turn again."""
        params = _params(line)
        if self._turn_id is None or params.get("turnId") != self._turn_id:
            return
        usage = as_object(params.get("tokenUsage"))
        last = as_object(usage.get("last"))
        # A call that did not fit is reported as one that filled the context and used nothing.
        if usage.get("total") != self._total and (last.get("inputTokens") or last.get("outputTokens")):
            self._total = usage.get("total")
            self._usage.update({name: count for name, count in last.items() if isinstance(count, int)})

    def _turn_completed(self, line: bytes) -> Effect | None:
        params = _params(line)
        if params.get("threadId") != self._thread_id:
            return None
        outcome = self._outcome(as_object(params.get("turn")))
        self._turn_id = None
        is_over = self._is_steered_out()
        self._ended = None if is_over else outcome
        return Effect(event=line, outcome=outcome, is_over=is_over)

    def _outcome(self, turn: Mapping[str, Any]) -> Outcome:
        usage = dict(self._usage) or None
        match turn.get("status"):
            case "completed":
                structured = _structured(turn) if self._options.output_schema is not None else None
                return Outcome(
                    TurnStatus.COMPLETED, stop_reason="end_turn", usage=usage, structured_output=structured
                )
            case "interrupted":
                return Outcome(
                    TurnStatus.FAILED, "the agent was interrupted", "agent_interrupted", usage=usage
                )
            case _:
                error, code = _failure(as_object(turn.get("error")))
                return Outcome(TurnStatus.FAILED, error, code, usage=usage)

    def _asked(self, line: bytes) -> Effect:
        """A question of the agent. Where nobody can be asked it is answered at once, so that it never waits
        for somebody who is not there.
        """
        message = load_object(line) or {}
        id_, method, params = message.get("id"), str(message.get("method")), as_object(message.get("params"))
        is_asked = self._mode is not PermissionMode.BYPASS
        if is_asked and (question := read_question(id_, method, params, self._calls)) is not None:
            return Effect(event=line, question=question, begins=True)
        reply: dict[str, Any] = {"id": id_}
        if (result := unasked_answer(method, params)) is not None:
            reply["result"] = result
        else:
            reply["error"] = {"code": -32601, "message": "not supported by this client"}
        return Effect(event=line, reply=dump(reply) + b"\n")

    def explain_exit(self, stderr: str) -> tuple[str, str] | None:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", stderr).splitlines()
        errors = [text.strip() for text in lines if text.lower().startswith("error")]
        return (errors[-1][:500], "agent_error") if errors else None


class Codex:
    """What is known of Codex without a process."""

    name = "codex"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self._has_sandbox = False

    def adapter(self, session: Session, state: Mapping[str, Any]) -> CodexAdapter:
        around = Surroundings(session.cwd, self._base_url(), self._key() is not None, session.fork)
        return CodexAdapter(around, session.internal_session_id, state)

    async def prepare(self) -> None:
        """Make its home. Processes that find no database there all make one, and all but one of them fail.

        So a first process comes alone. Nobody asks it anything: it finds the end of its input and exits.
        """
        async with self._preparing:
            if not self._is_prepared:
                self._home().mkdir(mode=0o700, parents=True, exist_ok=True)
                _, trouble = await ask(self.program(), "app-server", env=self.environment())
                self._is_prepared = trouble is None

    def launch(self, session: Session, options: TurnOptions, *, resume: bool, directory: Path) -> Launch:
        # Whether there is a thread to resume is the program's own knowledge: the adapter asks it.
        return Launch(
            argv=(str(self.program()), "app-server", *self._arguments()),
            env=self.environment(),
            opening=self._opening(options),
        )

    async def check(self, options: TurnOptions) -> None:
        require_effort(options, EFFORTS)
        for field in ("max_turns", "max_budget_usd"):
            if getattr(options, field) is not None:
                raise unsupported(field, "codex has no such limit")
        require_mcp_servers(options, MCP_TYPES)
        if options.permission_mode is not PermissionMode.BYPASS:
            await self._require_sandbox()

    async def _require_sandbox(self) -> None:
        """Find out whether commands can be confined here; the agent itself would let each one fail.

        A refusal is asked for again, for it may have been mended. Raises InvalidInput (`sandbox_unavailable`).
        """
        if self._has_sandbox or (program := self.find()) is None:
            return
        await self.prepare()
        _, trouble = await ask(program, "sandbox", "--", "/bin/true", env=self.environment())
        self._has_sandbox = trouble is None
        if trouble is not None:
            message = (
                "codex cannot confine its commands on this server, which every mode but `bypass` needs: "
                f"`codex {trouble}`. Use `bypass`, or let the server's user make user namespaces"
            )
            problem = Problem("permission_mode", message)
            raise InvalidInput(f"permission_mode: {message}", code="sandbox_unavailable", problems=[problem])

    def process_key(self, options: TurnOptions) -> str | None:
        # A model or an effort stays until another one is named; back to the default leads a new process alone.
        facts = (
            options.partial_messages,
            options.mcp_servers,
            options.model is not None,
            options.effort is not None,
        )
        return hashlib.sha256(dump(facts)).hexdigest()

    def new_internal_id(self, session_id: str) -> None:
        """Codex names its threads itself."""

    def transcript_of(self, session: Session) -> Path | None:
        if session.internal_session_id is None:
            return None
        return self._rollout(session.internal_session_id)

    def point_of(self, event: bytes) -> tuple[str, str] | None:
        # Not its beginning: a turn that was killed counts as one that still runs, and cannot be forked at.
        if b'"turn/completed"' not in event:
            return None
        message = load_object(event) or {}
        params = as_object(message.get("params"))
        conversation, point = params.get("threadId"), as_object(params.get("turn")).get("id")
        if message.get("method") != "turn/completed" or not isinstance(conversation, str):
            return None
        return (conversation, point) if isinstance(point, str) else None

    def copy_conversation(self, fork: Fork, cwd: str) -> None:
        # The program forks threads by itself: what it writes then refers to the other thread's file.
        if self._rollout(fork.conversation) is None:
            raise conversation_lost(fork.conversation)

    def _rollout(self, thread_id: str) -> Path | None:
        if as_conversation(thread_id) is None:
            return None
        return next((self._home() / "sessions").glob(f"*/*/*/rollout-*-{thread_id}.jsonl"), None)

    def user_event(
        self, session: Session, turn_id: TurnId, prompt: str, images: Sequence[Image] = ()
    ) -> bytes:
        return user_event(prompt, turn_id, session.id, images)

    def is_message(self, event: bytes) -> bool:
        try:
            envelope = _decode_envelope(event)
        except (msgspec.DecodeError, RecursionError):
            return False
        if envelope.method != "item/completed":
            return envelope.type in MESSAGE_TYPES
        # The user's message is an event of its own already.
        return _item_of(event).type != "userMessage"

    def updates(self, *, deltas: bool = True) -> CodexUpdates:
        return CodexUpdates(deltas=deltas)

    def find(self) -> Path | None:
        return find_program(
            "codex",
            configured=self._config.codex_path,
            package="codex_cli_bin",
            inside="bin/codex",
            environment=self._config.environment,
        )

    def program(self) -> Path:
        """The program to start, found or not: starting a missing one gives the clearer error."""
        return self.find() or self._config.codex_path or Path("codex")

    def environment(self) -> dict[str, str]:
        names = {*PASSED_ON, *self._config.agent_env}
        return child_environment(self._config.environment, names) | {"CODEX_HOME": str(self._home())}

    async def describe(self) -> AgentInfo:
        info = AgentInfo(
            self.name,
            available=False,
            login=LOGIN,
            is_wanted=self._config.codex_path is not None,
            credentials=self.credentials(),
        )
        program = self.find()
        if program is None:
            problem = not_found("codex", "CODEX_PATH", self._config.codex_path)
            return replace(info, problem=problem)
        (version, trouble), models = await asyncio.gather(
            read_version(program, self.environment()), self._models(program)
        )
        return replace(
            info,
            available=version is not None,
            version=version,
            path=str(program),
            problem=trouble,
            models=tuple(models),
            efforts=EFFORTS,
            model_efforts=models,
            permission_modes=tuple(PermissionMode),
            options=OPTIONS,
        )

    def credentials(self) -> tuple[str, ...]:
        """Names of the credentials that an agent would use."""
        found = [name for name in KEYS if self._config.environment.get(name)]
        if (self._home() / "auth.json").is_file():
            found.append("auth.json")
        return tuple(found)

    async def _models(self, program: Path) -> dict[str, tuple[str, ...]]:
        """The models that the program knows, the best first, with their efforts; none when it does not tell."""
        answer, _ = await ask(program, "debug", "models", "--bundled", env=self.environment())
        models = (load_object(answer or b"") or {}).get("models") or []
        listed = [model for model in models if model.get("visibility") == "list"]
        listed.sort(key=lambda model: model.get("priority", 0))
        return {model["slug"]: _efforts(model) for model in listed}

    def _arguments(self) -> tuple[str, ...]:
        settings = [
            # Without it a closed port is waited for until it opens, for ever.
            "features.unbounded_connection_retries=false",
        ]
        if self._key() is not None:
            settings.append('cli_auth_credentials_store="ephemeral"')
        if self._base_url() is not None:
            # It would ask OpenAI for its models, with a key that is for somebody else.
            settings.append("features.api_key_model_discovery=false")
        return tuple(word for setting in settings for word in ("-c", setting))

    def _opening(self, options: TurnOptions) -> bytes:
        capabilities: dict[str, Any] = {"experimentalApi": True}
        if not options.partial_messages:
            capabilities["optOutNotificationMethods"] = DELTAS
        client = {"name": "agentsrv", "title": "agentsrv", "version": __version__}
        params = {"clientInfo": client, "capabilities": capabilities}
        opening = _request("initialize", "initialize", params) + dump({"method": "initialized"}) + b"\n"
        if (key := self._key()) is not None:
            opening += _request("login", "account/login/start", {"type": "apiKey", "apiKey": key})
        return opening

    def _key(self) -> str | None:
        environment = self._config.environment
        return next((environment[name] for name in KEYS if environment.get(name)), None)

    def _base_url(self) -> str | None:
        return self._config.environment.get("OPENAI_BASE_URL") or None

    def _home(self) -> Path:
        if home := self._config.environment.get("CODEX_HOME"):
            return Path(home)
        return self._config.state_dir / "codex"


def _efforts(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a model's efforts that prompts can ask for."""
    levels = [as_object(level).get("effort") for level in model.get("supported_reasoning_levels") or []]
    return tuple(effort for effort in EFFORTS if effort in levels)


def _mcp_server(server: Mapping[str, Any]) -> dict[str, Any]:
    """A server as Claude Code's configuration has it, in Codex's words."""
    renamed = {"headers": "http_headers"}
    return {renamed.get(name, name): value for name, value in server.items() if name != "type"}


def _inputs(event: bytes) -> list[dict[str, str]]:
    """What a turn begins with, from the blocks of a user event."""
    return [_input(block) for block in msgspec.json.decode(event)["message"]["content"]]


def _input(block: Mapping[str, Any]) -> dict[str, str]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"]
    return {"type": "image", "url": f"data:{source['media_type']};base64,{source['data']}"}


def _without_images(line: bytes) -> Effect | None:
    """The agent's echo of a prompt, which comes twice, without its images: the log has them already."""
    if b'"data:image/' not in line or _item_of(line).type != "userMessage":
        return None
    message = msgspec.json.decode(line)
    content = message["params"]["item"].get("content")
    for block in map(as_object, content if isinstance(content, list) else []):
        if (url := str(block.get("url"))).startswith("data:image/"):
            block["url"] = url.partition(",")[0] + ","
    return Effect(event=msgspec.json.encode(message))


def _structured(turn: Mapping[str, Any]) -> Any:
    """The agent's last message as data; None when it is no JSON."""
    items = turn.get("items")
    texts = [as_object(item).get("text") for item in items] if isinstance(items, list) else []
    try:
        return msgspec.json.decode(str(texts[-1]))
    except (IndexError, TypeError, ValueError):
        return None


def _failure(error: Mapping[str, Any]) -> tuple[str, str]:
    """(message, code) of a turn's error. Its kind is a word, or an object of one word and what belongs to it."""
    message = _text(error.get("message") or "the agent failed without a word")
    info = error.get("codexErrorInfo")
    if info == "other" and message.startswith("stream disconnected"):
        return message, "agent_api_unreachable"
    if isinstance(info, str):
        # What the API had against a request comes as its whole answer.
        said = as_object(as_object(load_object(message.encode())).get("error")).get("message")
        return _text(said or message), ERROR_CODES.get(info, "agent_error")
    if isinstance(info, dict) and UNREACHED.intersection(info):
        status = as_object(next(iter(info.values()))).get("httpStatusCode")
        is_known = status is None or isinstance(status, int)
        return message, STATUS_CODES.get(status, "agent_api_error") if is_known else "agent_error"
    return message, "agent_error"


def _refusal(error: Any) -> tuple[str, str]:
    """(message, code) of the error of a refused request."""
    fields = as_object(error)
    is_too_long = as_object(fields.get("data")).get("input_error_code") == "input_too_large"
    return _text(fields.get("message") or error), "context_too_long" if is_too_long else "agent_error"


def _item_of(line: bytes) -> _Item:
    try:
        return _decode_item(line).params.item
    except (msgspec.DecodeError, RecursionError):
        return _Item()


def _request(id_: str, method: str, params: Mapping[str, Any]) -> bytes:
    return dump({"method": method, "id": id_, "params": params}) + b"\n"


def _params(line: bytes) -> dict[str, Any]:
    return as_object((load_object(line) or {}).get("params"))


def _text(value: Any) -> str:
    """What should be a text, as one that can be stored."""
    return str(value).encode("utf-8", "replace").decode()
