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

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from agentsrv.agents.claude import timers
from agentsrv.agents.claude.launch import MODES
from agentsrv.agents.claude.lines import (
    REFUSED,
    Said,
    decode_envelope,
    decode_line,
    request_id_of,
    said_in,
    text_or_none,
)
from agentsrv.agents.claude.outcomes import NOT_LOGGED_IN, blocked_by, outcome_of, told_error
from agentsrv.agents.claude.questions import read_question, response_to, unasked_response
from agentsrv.agents.claude.state import Process, TurnState
from agentsrv.agents.contract import BackgroundTask, Effect, Question
from agentsrv.agents.conversations import as_conversation
from agentsrv.agents.memory import as_id, note, remember, restored, state_of
from agentsrv.agents.questions import own_id, question_id, with_plain_id
from agentsrv.agents.questions import title as title_of
from agentsrv.agents.reading import NOTHING, UNREADABLE, read_odd
from agentsrv.agents.stderr import error_in
from agentsrv.jsontext import as_object, dump, is_utf8, load_object
from agentsrv.model import Answer, Outcome, PermissionMode, TurnId, TurnOptions, TurnStatus

READ = frozenset({"started", "completed"})
UNREAD = frozenset({"discarded", "refused"})
DEALT_WITH = UNREAD | {"completed", "cancelled"}
"""The last states of a message's lifecycle."""

ORDINARY = frozenset({"assistant", "user", "stream_event"})

SYNTHETIC = "<synthetic>"
"""The model of what the CLI says itself."""

MAX_PATH_CHARACTERS = 4096

# A wrong key stays wrong; the CLI would try ten times, for minutes. A closed port may open again.
PATIENCE = {401: 2, 403: 2, None: 6}
LOGIN_PATIENCE = 5
"""A login that another process renews is good again after some seconds: this many tries take eight."""


class ClaudeAdapter:
    """One `claude` process."""

    name: ClassVar[str] = "claude-code"
    progress: ClassVar[None] = None

    def __init__(self, conversation: str | None, state: Mapping[str, Any]) -> None:
        self._process = msgspec.convert(state, Process)
        self._process.conversation = conversation or self._process.conversation
        self._turn = TurnState()

    @property
    def has_background_work(self) -> bool:
        """Commands that the agent started in the background still run; their end will wake it."""
        return self._process.background_tasks > 0

    def background(self) -> list[BackgroundTask]:
        return [
            BackgroundTask(id_, "command" if kind == "local_bash" else "agent", title)
            for id_, (kind, title) in self._process.tasks.items()
        ]

    def end_background(self, task_id: str) -> bytes | None:
        return _control(f"stop-{task_id}", {"subtype": "stop_task", "task_id": task_id})

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> None:
        if prompt_id is not None:
            # What it does by itself it does under the rules of the last prompt.
            self._process.permission_mode = options.permission_mode
            self._process.asks = (options.first_mode or options.permission_mode) is not PermissionMode.BYPASS
        self._turn = TurnState(prompt_id)

    def prompt(self, event: bytes) -> bytes:
        # The user event is exactly what the CLI reads.
        line = event + b"\n"
        mode = self._process.permission_mode
        if mode is PermissionMode.BYPASS:
            return line
        # In an earlier turn the agent may have changed it: it can leave plan mode, and enter it by itself.
        return _control(f"mode-{self._turn.prompt_id}", _mode_request(mode)) + line

    def steer(self, message_id: str, event: bytes) -> bytes:
        self._turn.steered.add(message_id)
        return event + b"\n"

    def interrupt(self, turn_id: TurnId) -> bytes:
        # What was added to the turn and not read yet would be a turn of its own.
        unread = sorted(self._turn.steered - self._turn.dealt_with)
        cancels = [
            _control(f"cancel-{message_id}", {"subtype": "cancel_async_message", "message_uuid": message_id})
            for message_id in unread
        ]
        return b"".join(cancels) + _control(f"interrupt-{turn_id}", {"subtype": "interrupt"})

    def change_mode(self, mode: PermissionMode) -> bytes | None:
        process = self._process
        if not process.asks and mode is not PermissionMode.BYPASS:
            return None  # It was started to ask nobody.
        process.permission_mode = mode
        if process.asks and mode is PermissionMode.BYPASS:
            # To a process that asks, everything can be allowed from here.
            return _control("mode-accept", _mode_request(PermissionMode.ACCEPT_EDITS))
        return _control(f"mode-{mode}", _mode_request(mode))

    def answer(self, question: Question, answer: Answer) -> bytes:
        return _control_response(own_id(question), response_to(question, answer))

    def running_tool(self) -> str | None:
        return next(iter(self._turn.tools.values()), None)

    def state(self) -> dict[str, Any]:
        return state_of(self._process, self._turn)

    def restore(self, state: Mapping[str, Any]) -> None:
        self._process, self._turn = restored(state, Process, TurnState)

    def receive(self, line: bytes) -> Effect | None:
        try:
            read = decode_line(line)
        except REFUSED:
            return read_odd(line, lambda message: self._read_odd(message, line))
        if not (line.isascii() or is_utf8(line)):
            return read_odd(line, lambda message: self._read_odd(message, line))
        if read.type in ORDINARY:  # As nearly all.
            said = read.message
            return self._said(said, line) if isinstance(said, Said) else None
        return self._read(read.type, read.subtype, line)

    def skim(self, line: bytes) -> Effect | None:
        envelope = decode_envelope(line)
        return self._read(envelope.type, envelope.subtype, line)

    def _note_background(self, tasks: Any) -> None:
        self._process.background_tasks = len(tasks) if isinstance(tasks, list) else 0
        self._process.tasks = {}
        for task in map(as_object, tasks if isinstance(tasks, list) else ()):
            kind, title = (
                text_or_none(task.get("task_type")) or "",
                text_or_none(task.get("description")) or "",
            )
            remember(self._process.tasks, as_id(task.get("task_id")), (kind[:100], title_of(title)))

    def _read_odd(self, message: Mapping[str, Any], line: bytes) -> Effect | None:
        type_ = message.get("type")
        if isinstance(type_, str) and type_ in ORDINARY:
            return self._said(said_in(message), line)
        return self._read(type_, message.get("subtype"), line)

    def _read(self, type_: Any, subtype: Any, line: bytes) -> Effect | None:
        match type_, subtype:
            case "system", "session_state_changed":
                return self._state_changed(line)
            case "system", "init":
                return self._init(line)
            case "system", "background_tasks_changed":
                self._note_background((load_object(line) or {}).get("tasks"))
            case "system", "informational":
                self._turn.blocked = blocked_by(load_object(line) or {}) or self._turn.blocked
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
                return self._withdrawn(line)
            case _:
                pass
        return None

    # The conversation

    def _said(self, said: Said, line: bytes) -> Effect | None:
        """What a message says is not the server's affair, but for tools and errors."""
        has_result = plans = False
        content = said.content
        for block in content if isinstance(content, list) else ():
            if block.type == "tool_use":
                remember(self._turn.tools, as_id(block.id), as_id(block.name) or "tool")
                plans = plans or block.name in timers.TOOLS
            elif block.type == "tool_result":
                has_result = True
                self._turn.tools.pop(block.tool_use_id or "", None)
                if (call := self._turn.plans.pop(block.tool_use_id or "", None)) is not None:
                    return Effect(event=line, timer=timers.news_of(call, line))
        if plans:
            for id_, call in timers.calls_in(line).items():
                remember(self._turn.plans, id_, call)
        if said.model == SYNTHETIC:
            self._turn.told_error = told_error(load_object(line) or {}) or self._turn.told_error
        return self._entered_worktree(line) if has_result and b'"worktreePath"' in line else None

    def _entered_worktree(self, line: bytes) -> Effect | None:
        message = load_object(line) or {}
        if message.get("parent_tool_use_id") is not None:
            return None
        return self._moved(as_object(message.get("tool_use_result")).get("worktreePath"), Effect(event=line))

    def _moved(self, cwd: Any, effect: Effect) -> Effect:
        """The same, with the directory that the CLI works in when it has changed."""
        if not isinstance(cwd, str) or not cwd.startswith("/") or len(cwd) > MAX_PATH_CHARACTERS:
            return effect
        before, self._process.cwd = self._process.cwd, cwd
        return replace(effect, cwd=cwd) if before not in ("", cwd) else effect

    # The turn

    def _state_changed(self, line: bytes) -> Effect:
        self._process.has_state_events = True
        if (load_object(line) or {}).get("state") != "idle":
            return Effect(event=line, begins=True)
        return Effect(event=line, outcome=self._turn.outcome, is_over=self._is_answered)

    @property
    def _is_answered(self) -> bool:
        """Has the agent dealt with all that it was told in this turn?"""
        turn = self._turn
        has_begun = turn.has_result if turn.prompt_id is None else turn.prompt_id in turn.dealt_with
        return has_begun and turn.steered <= turn.dealt_with

    @property
    def _looks_over(self) -> bool:
        return self._turn.has_result and self._is_answered

    def _lifecycle(self, line: bytes) -> Effect | None:
        message, turn = load_object(line) or {}, self._turn
        state, message_id = text_or_none(message.get("state")), text_or_none(message.get("command_uuid"))
        if (fired := timers.fired_in(message)) is not None:
            return Effect(event=line, timer=fired)
        if message_id is None:
            return None
        read = [message_id] if state in READ and message_id in turn.steered else []
        if state not in DEALT_WITH:
            return Effect(event=line, read_steers=read) if read else None
        note(turn.dealt_with, message_id, {str(turn.prompt_id), *turn.steered})
        if state not in UNREAD:
            return Effect(event=line, read_steers=read, outcome=turn.outcome, looks_over=self._looks_over)
        if message_id == turn.prompt_id and turn.outcome is None:
            turn.outcome = Outcome(TurnStatus.FAILED, f"the agent has {state} the prompt", "agent_error")
        return Effect(event=line, outcome=turn.outcome, lost_steers=[message_id])

    def _init(self, line: bytes) -> Effect:
        message, process = load_object(line) or {}, self._process
        conversation = as_conversation(message.get("session_id"))
        is_new = conversation is not None and conversation != process.conversation
        process.conversation = conversation or process.conversation
        process.has_key = message.get("apiKeySource") not in (None, "none")
        refused = self._refused_mode(message.get("permissionMode"))
        self._turn.has_begun = True
        effect = Effect(event=line, begins=True, gave_up=refused)
        return self._moved(
            message.get("cwd"), replace(effect, internal_session_id=conversation) if is_new else effect
        )

    def _refused_mode(self, mode: Any) -> Outcome | None:
        """Settings can forbid to bypass permissions; the CLI then works in another mode, without a word."""
        is_wanted = self._turn.prompt_id is not None and not self._process.asks
        if self._turn.has_begun or not is_wanted or mode in (None, MODES[PermissionMode.BYPASS]):
            return None
        error = f"the agent's settings do not allow `bypass` (it would work in its mode {str(mode)[:40]!r})"
        return Outcome(
            TurnStatus.FAILED, f"{error}; choose another permission mode", "permission_mode_refused"
        )

    def _retry(self, line: bytes) -> Effect | None:
        message = load_object(line) or {}
        status, attempt = message.get("error_status"), message.get("attempt")
        limit = PATIENCE.get(status) if isinstance(status, int | None) else None
        if status == 401 and not self._process.has_key:
            limit = LOGIN_PATIENCE
        if limit is None or not isinstance(attempt, int) or attempt < limit:
            return None
        reason = str(message.get("error"))[:100]
        if status is None:
            error, code = "the model API cannot be reached", "agent_api_unreachable"
        else:
            error = f"the model API refused the credentials (HTTP {status}, {reason})"
            code = "agent_not_authenticated"
        return Effect(event=line, gave_up=Outcome(TurnStatus.FAILED, error, code))

    def _result(self, line: bytes) -> Effect:
        read, turn = load_object(line), self._turn
        message = read or {}
        self._add_cost(message.get("total_cost_usd"))
        answered = _uuids(message)
        if self._is_of_this_turn(message, answered):
            turn.has_result = True
            for message_id in answered or {str(turn.prompt_id)}:
                note(turn.dealt_with, message_id, {str(turn.prompt_id), *turn.steered})
            turn.outcome = UNREADABLE if read is None else outcome_of(message, turn)
        elif turn.outcome is not None:
            turn.outcome = replace(turn.outcome, cost_usd=turn.cost_usd)
        # A CLI that does not tell its state is idle after its result.
        is_over = self._is_answered and not self._process.has_state_events
        return Effect(event=line, outcome=turn.outcome, is_over=is_over, looks_over=self._looks_over)

    def _add_cost(self, total: Any) -> None:
        """The CLI counts per process, and begins again at 0 when the conversation is cleared."""
        if isinstance(total, int | float) and 0 <= total < 1e9:
            before = self._process.cost_usd
            added = total - before if total >= before else total
            self._turn.cost_usd = round(self._turn.cost_usd + added, 9)
            self._process.cost_usd = float(total)

    def _is_of_this_turn(self, result: Mapping[str, Any], answered: set[str]) -> bool:
        if self._turn.prompt_id is None:
            return True
        if answered:
            return not answered.isdisjoint({self._turn.prompt_id, *self._turn.steered})
        return not result.get("origin")

    def _asked(self, line: bytes) -> Effect:
        """A question for people; or a request that nobody expects, whose answer is an error: it must not wait."""
        message = load_object(line) or {}
        id_ = message.get("request_id") if message else request_id_of(line)
        request = as_object(message.get("request"))
        question = read_question(id_, request) if isinstance(id_, str) else None
        if question is not None and self._process.permission_mode is not PermissionMode.BYPASS:
            return Effect(event=line, question=with_plain_id(question), begins=True)
        response = None if question is None else unasked_response(question, request)
        if question is not None and response is not None:
            return Effect(event=line, reply=_control_response(question.id, response))
        error = {"subtype": "error", "request_id": id_, "error": "not supported by this client"}
        return Effect(event=line, reply=dump({"type": "control_response", "response": error}) + b"\n")

    def _withdrawn(self, line: bytes) -> Effect:
        own = text_or_none((load_object(line) or {}).get("request_id"))
        return Effect(event=line, withdrawn=None if own is None else question_id(own))

    def explain_exit(self, stderr: str) -> tuple[str, str] | None:
        if "Not logged in" in stderr:
            return NOT_LOGGED_IN, "agent_not_authenticated"
        error = error_in(stderr)
        return None if error is None else (error, "agent_error")


def _mode_request(mode: PermissionMode) -> dict[str, Any]:
    return {"subtype": "set_permission_mode", "mode": MODES[mode]}


def _control(request_id: str, request: dict[str, Any]) -> bytes:
    return dump({"type": "control_request", "request_id": request_id, "request": request}) + b"\n"


def _control_response(request_id: str, response: dict[str, Any]) -> bytes:
    answer = {"subtype": "success", "request_id": request_id, "response": response}
    return dump({"type": "control_response", "response": answer}) + b"\n"


def _uuids(result: Mapping[str, Any]) -> set[str]:
    """The user messages that a result is the answer to, as far as it names them."""
    named = result.get("user_message_uuids")
    return {name for name in named if isinstance(name, str)} if isinstance(named, list) else set()
