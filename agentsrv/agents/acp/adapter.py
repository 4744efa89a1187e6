"""One agent that speaks ACP: JSON-RPC, one message a line, on stdin and stdout.

A process is one conversation. It is asked what it can do (`initialize`), then the conversation is made or
brought back, then it is set to what the prompt wants; each request waits for the answer to the one before, and
answers are kept as events: whoever reads the log again must know how far this has come. A turn is
`session/prompt`; its answer is the turn's end.

The shapes are those of ACP 1, from live captures of eight agents (tests/agents/transcripts/acp/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from agentsrv.agents.acp import requests
from agentsrv.agents.acp.known import KnownAgent, Quirk
from agentsrv.agents.acp.outcomes import add_usage, counted_before, failure, outcome_of, usage_in, usage_since
from agentsrv.agents.acp.questions import (
    ELICITATION,
    PERMISSION,
    answer_result,
    read_question,
    reply_id,
    unasked_answer,
    withdrawn_answer,
)
from agentsrv.agents.acp.requests import INITIALIZE, message, request
from agentsrv.agents.acp.state import Process, Setting, TurnState, settings_now, settings_of
from agentsrv.agents.contract import BackgroundTask, Effect, Question
from agentsrv.agents.memory import MAX_ID_CHARACTERS, as_id, bounded, restored, state_of
from agentsrv.agents.questions import with_plain_id
from agentsrv.agents.reading import NOTHING, UNREADABLE, read_odd
from agentsrv.agents.stderr import error_in
from agentsrv.agents.updates import as_text
from agentsrv.jsontext import as_object, dump, is_utf8
from agentsrv.model import Answer, Outcome, PermissionMode, TurnId, TurnOptions, TurnStatus

METHOD_NOT_FOUND = -32601

NEW, LOAD, RESUME = "session-new", "session-load", "session-resume"
OPENINGS = (NEW, LOAD, RESUME)
METHODS = {LOAD: "session/load", RESUME: "session/resume"}

OF_A_TURN = frozenset(
    {
        "user_message_chunk",
        "agent_message_chunk",
        "agent_thought_chunk",
        "tool_call",
        "tool_call_update",
        "plan",
    }
)
"""Updates that mean something only while a prompt is answered."""

REFUSED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

UNKNOWN = Setting()
"""What the agent has not told of."""


class Wanted(Struct, frozen=True):
    """A setting that is to be made. `target`: the agent's name of `value`; None: it does not have that."""

    kind: str
    value: str
    target: str | None


class _Envelope(msgspec.Struct):
    method: str | None = None
    id: str | int | None = None


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class AcpAdapter:
    """One process of an ACP agent. `on_models` is told which models its conversation can be set to."""

    def __init__(
        self,
        known: KnownAgent,
        cwd: str,
        conversation: str | None,
        state: Mapping[str, Any],
        on_models: Callable[[tuple[str, ...]], None] = lambda models: None,
    ) -> None:
        self.name = known.name
        self._known = known
        self._cwd = cwd
        self._known_conversation = conversation
        self._on_models = on_models
        self._progress = 0
        self._process = msgspec.convert(state, Process)
        self._turn = TurnState()
        self._options = TurnOptions()
        self._has_options = False

    @property
    def progress(self) -> int | None:
        """Before the prompt there is no model that could fail; to start may take as long as it likes."""
        return self._progress if self._turn.is_prompted else None

    @property
    def models(self) -> tuple[str, ...]:
        """The agent's own names of those that it has told of."""
        return tuple(dict.fromkeys(self._process.settings.get("model", UNKNOWN).values.values()))

    @property
    def has_background_work(self) -> bool:
        """What goes on between turns nobody is told of."""
        return False

    def background(self) -> list[BackgroundTask]:
        return []

    def end_background(self, task_id: str) -> bytes | None:
        return None

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> bytes | None:
        self._options, self._has_options = options, True
        self._process.permission_mode = options.permission_mode
        self._turn = TurnState(prompt_id)
        return self._next_request()

    def prompt(self, event: bytes) -> bytes | None:
        if not self._is_ready():
            return None
        self._turn.is_prompted = True
        params = {"sessionId": self._process.conversation, "prompt": requests.prompt_blocks(event)}
        return request(f"prompt-{self._turn.prompt_id}", "session/prompt", params)

    def interrupt(self, turn_id: TurnId) -> bytes | None:
        if not self._turn.is_prompted:
            return None
        cancel = message({"method": "session/cancel", "params": {"sessionId": self._process.conversation}})
        # Some do not end before their questions are answered as well.
        return cancel + b"".join(map(_withdrawn, self._turn.asked))

    def steer(self, message_id: str, event: bytes) -> bytes | None:
        # A second prompt would cancel the first one, be dropped, or be refused.
        return None

    def change_mode(self, mode: PermissionMode) -> bytes | None:
        if mode is not PermissionMode.BYPASS and mode is not self._process.permission_mode:
            return None
        self._process.permission_mode = mode
        return b""

    def answer(self, question: Question, answer: Answer) -> bytes:
        result, id_ = answer_result(question, answer), reply_id(question)
        self._turn.asked = [asked for asked in self._turn.asked if msgspec.json.decode(asked)[0] != id_]
        return message({"id": id_, "result": result})

    def running_tool(self) -> str | None:
        return next(iter(self._turn.open.values()), None)

    def state(self) -> dict[str, Any]:
        return state_of(self._process, self._turn)

    def restore(self, state: Mapping[str, Any]) -> None:
        self._process, self._turn = restored(state, Process, TurnState)

    def receive(self, line: bytes) -> Effect | None:
        try:
            decoded = _decode(line)
        except REFUSED:
            return read_odd(line, lambda found: self._read(found, line))
        if is_utf8(line):
            return self._read(decoded, line)
        return read_odd(line, lambda found: self._read(found, line))

    def skim(self, line: bytes) -> Effect | None:
        envelope = _decode_envelope(line)
        method, id_ = envelope.method, envelope.id
        if id_ is None:
            return None
        if method is None:
            return self._over_unread(line) if id_ == self._prompted else self._read({"id": id_}, line)
        if method in (PERMISSION, ELICITATION):
            return Effect(event=line, reply=message({"id": id_, "result": withdrawn_answer(method)}))
        return self._asked(id_, method, {}, line)

    def explain_exit(self, stderr: str) -> tuple[str, str] | None:
        error = error_in(stderr)
        return None if error is None else (error, "agent_error")

    def _read(self, found: dict[str, Any], line: bytes) -> Effect | None:
        method, id_, params = found.get("method"), found.get("id"), as_object(found.get("params"))
        if method == "session/update":
            return self._updated(params, line)
        if method is not None:
            return None if id_ is None else self._asked(id_, as_text(method), params, line)
        if not isinstance(id_, str):
            return None
        if id_ == self._prompted:
            return self._over(found, line)
        # When the log is read again, the conversation that was made may be known by now, and be asked for otherwise.
        is_opening = id_ in OPENINGS and self._process.conversation is None
        return self._answered(id_, found, line) if is_opening or id_ == self._awaited else None

    # Up to the prompt

    @property
    def _prompted(self) -> str | None:
        """The request with the prompt, while it has no answer."""
        return f"prompt-{self._turn.prompt_id}" if self._turn.is_prompted else None

    @property
    def _awaited(self) -> str | None:
        """The request before the prompt that has no answer yet."""
        return self._process.pending if self._process.is_initialized else INITIALIZE

    def _is_ready(self) -> bool:
        process = self._process
        is_open = process.conversation is not None and not process.is_replaying
        return is_open and process.pending is None and self._wanted_setting() is None

    def _next_request(self) -> bytes | None:
        """The next request before the prompt; None when one waits for its answer, or nothing is to be asked."""
        process = self._process
        if not process.is_initialized or process.pending is not None or process.is_replaying:
            return None
        if process.conversation is None:
            return self._open_request() if self._has_options else None
        if (wanted := self._wanted_setting()) is None:
            return None
        process.pending = f"{wanted.kind}-{self._turn.prompt_id}"
        return self._setting_request(process.pending, wanted)

    def _open_request(self) -> bytes:
        """Bring the conversation back, without what was said in it if that can be; or make a new one."""
        process = self._process
        params: dict[str, Any] = {
            "cwd": self._cwd,
            "mcpServers": requests.mcp_servers(self._options.mcp_servers),
        }
        process.pending = self._way_back()
        if process.pending == NEW:
            return request(NEW, "session/new", params)
        params["sessionId"] = self._known_conversation
        return request(process.pending, METHODS[process.pending], params)

    def _way_back(self) -> str:
        if self._known_conversation is None:
            return NEW
        if "resume" in self._process.can:
            return RESUME
        return LOAD if "load" in self._process.can else NEW

    def _wanted_setting(self) -> Wanted | None:
        """What is to be set next."""
        options, settings = self._options, self._process.settings
        wanted = {
            "mode": self._known.modes.get(options.permission_mode),
            "model": options.model or settings.get("model", UNKNOWN).default,
            "effort": options.effort or _default_effort(settings.get("effort", UNKNOWN)),
        }
        for kind, value in wanted.items():
            setting = settings.get(kind, UNKNOWN)
            if value is None or (target := _target(kind, value, setting)) == setting.current is not None:
                continue
            return Wanted(kind, value, target)
        return None

    def _setting_request(self, id_: str, wanted: Wanted) -> bytes:
        setting, conversation = self._process.settings.get(wanted.kind, UNKNOWN), self._process.conversation
        # What it does not have it is asked for all the same: the turn ends with the answer, whatever that is.
        kind, value = wanted.kind, wanted.target or wanted.value
        if setting.option is not None:
            params = {"sessionId": conversation, "configId": setting.option, "value": value}
            return request(id_, "session/set_config_option", params)
        name = "modeId" if kind == "mode" else "modelId"
        return request(id_, f"session/set_{kind}", {"sessionId": conversation, name: value})

    def _answered(self, id_: str, found: Mapping[str, Any], line: bytes) -> Effect:
        """An answer to one of our requests before the prompt."""
        process, error, result = self._process, found.get("error"), as_object(found.get("result"))
        process.pending = None
        if id_ == INITIALIZE:
            return self._initialized(error, result, line)
        if id_ in OPENINGS:
            return self._opened(id_, error, result, line)
        kind = id_.partition("-")[0]
        if error is not None:
            return self._not_set(kind, failure(error)[0], line)
        wanted = self._wanted_setting()
        if wanted is not None and wanted.kind == kind and wanted.target is None:
            # Some take what they do not have, and say that they have it from then on.
            process.settings.setdefault(kind, Setting()).current = None
            return self._lacking(wanted, line)
        if told := settings_of(result, self._known.mode_option):
            process.settings = settings_now(process.settings, told)
        if wanted is not None and wanted.kind == kind:
            process.settings.setdefault(kind, Setting()).current = wanted.target
        return self._go_on(line)

    def _initialized(self, error: Any, result: Mapping[str, Any], line: bytes) -> Effect:
        if error is not None:
            return Effect(event=line, gave_up=Outcome(TurnStatus.FAILED, *failure(error)))
        process, can = self._process, as_object(result.get("agentCapabilities"))
        process.is_initialized = True
        if can.get("loadSession"):
            process.can.add("load")
        if "resume" in as_object(can.get("sessionCapabilities")):
            process.can.add("resume")
        return self._go_on(line)

    def _opened(self, id_: str, error: Any, result: Mapping[str, Any], line: bytes) -> Effect:
        process = self._process
        if error is not None and id_ != NEW:
            # It has no record of it any more: a new one takes its place, and the log has its words for it.
            self._known_conversation = None
            return self._go_on(line)
        if error is not None:
            return Effect(event=line, gave_up=Outcome(TurnStatus.FAILED, *failure(error)))
        conversation = self._known_conversation if id_ != NEW else as_id(result.get("sessionId"))
        if conversation is None:
            outcome = Outcome(TurnStatus.FAILED, "the agent did not name its conversation", "agent_error")
            return Effect(event=line, gave_up=outcome)
        process.conversation = conversation
        process.settings = settings_of(result, self._known.mode_option)
        self._on_models(self.models)
        if id_ == NEW:
            process.counted = {}
        process.is_replaying = id_ == LOAD and Quirk.REPLAYS_LATE in self._known.quirks
        return self._go_on(line, conversation if id_ == NEW else None)

    def _not_set(self, kind: str, why: str, line: bytes | None) -> Effect:
        option = {"mode": "permission_mode"}.get(kind, kind)
        error = f"{option}: the agent does not have what was asked for: {why}"
        return Effect(event=line, gave_up=Outcome(TurnStatus.FAILED, error, "unsupported_option"))

    def _lacking(self, wanted: Wanted, line: bytes) -> Effect:
        values = self._process.settings.get(wanted.kind, UNKNOWN).values.values()
        known = ", ".join(dict.fromkeys(values))[:1000]
        return self._not_set(wanted.kind, f"it has {known or 'none'}", line)

    def _go_on(self, line: bytes, conversation: str | None = None) -> Effect:
        """What follows from an answer: the next request, or that a prompt can be taken."""
        wanted = self._wanted_setting() if self._process.conversation is not None else None
        if wanted is not None and wanted.target is None and self._has_options:
            return self._lacking(wanted, line)
        return Effect(
            event=line,
            reply=self._next_request(),
            takes_prompt=self._is_ready(),
            internal_session_id=conversation,
        )

    # The turn

    def _updated(self, params: Mapping[str, Any], line: bytes) -> Effect | None:
        update, process, turn = as_object(params.get("update")), self._process, self._turn
        kind = as_text(update.get("sessionUpdate"))
        if process.conversation is not None and params.get("sessionId") != process.conversation:
            return NOTHING
        if kind in OF_A_TURN and (not turn.is_prompted or kind == "user_message_chunk"):
            return NOTHING  # A replay, an echo, or too late.
        match kind:
            case "agent_message_chunk":
                self._said(update)
            case "agent_thought_chunk" | "plan":
                self._progress += 1
                turn.message_id, turn.said = "", ""
            case "tool_call" | "tool_call_update":
                self._progress += 1
                turn.has_worked = True
                turn.note_call(update)
            case "available_commands_update" if process.is_replaying:
                process.is_replaying = False
                return self._go_on(line)
            case "usage_update" if not turn.is_prompted:
                process.counted = counted_before(update) or process.counted
            case "current_mode_update":
                self._is_now("mode", update.get("currentModeId"))
            case "config_option_update":
                for name, setting in settings_of(update, self._known.mode_option).items():
                    self._is_now(name, setting.current)
            case _:
                pass
        return None

    def _said(self, update: Mapping[str, Any]) -> None:
        words = as_text(as_object(update.get("content")).get("text"))
        if self._known.notices is not None and self._known.notices.match(words):
            self._turn.notices += 1
            return
        self._progress += 1
        self._turn.has_worked = self._turn.has_worked or bool(words)
        self._turn.say(words, as_text(update.get("messageId"))[:MAX_ID_CHARACTERS])
        add_usage(self._turn.usage, update)

    def _is_now(self, kind: str, value: Any) -> None:
        """The agent has changed a setting by itself."""
        if (setting := self._process.settings.get(kind)) is not None and (now := as_id(value)) is not None:
            setting.current = now

    def _over(self, found: Mapping[str, Any], line: bytes) -> Effect:
        """The answer to the prompt."""
        turn, error, result = self._turn, found.get("error"), as_object(found.get("result"))
        turn.is_prompted = False
        turn.open.clear()
        if error is not None:
            outcome = bounded(Outcome(TurnStatus.FAILED, *failure(error)))
            if outcome.error_code == "agent_not_authenticated":
                # Some take no other key for as long as they live.
                return Effect(event=line, gave_up=outcome)
            return Effect(event=line, outcome=outcome, is_over=True)
        counted = usage_in(result)
        failures = self._known.failures if self._may_speak_of_failure(counted) else ()
        is_mute = Quirk.FAILS_MUTE in self._known.quirks
        has_worked = bool(turn.said) if is_mute else turn.has_worked
        used = self._used(counted)
        outcome = outcome_of(result, turn.said, used, has_worked=has_worked, failures=failures)
        return Effect(event=line, outcome=bounded(outcome), is_over=True)

    def _may_speak_of_failure(self, counted: dict[str, int]) -> bool:
        """Can the last message be the agent's own, and not its model's, which may begin with the same words?"""
        turn, own_ids = self._turn, self._known.own_ids
        if own_ids is not None and turn.message_id:
            return own_ids.match(turn.message_id) is not None
        # Where the model has answered there are other counts than before.
        return turn.said_after > 0 or not counted or counted == self._process.counted

    def _over_unread(self, line: bytes) -> Effect:
        self._turn.is_prompted = False
        self._turn.open.clear()
        return Effect(event=line, outcome=UNREADABLE, is_over=True)

    def _used(self, counted: dict[str, int]) -> dict[str, int]:
        """What the turn has used, from what its end tells."""
        if not counted:
            return self._turn.usage
        before, self._process.counted = self._process.counted, counted
        if Quirk.COUNTS_SESSION not in self._known.quirks:
            return counted
        return {} if before is None else usage_since(before, counted)

    def _asked(self, id_: Any, method: str, params: Mapping[str, Any], line: bytes) -> Effect:
        """A question of the agent. Where nobody can be asked it is answered at once."""
        if method not in (PERMISSION, ELICITATION):
            error = {"code": METHOD_NOT_FOUND, "message": f"Method not found: {method[:100]}"}
            return Effect(event=line, reply=message({"id": id_, "error": error}))
        self._progress += 1
        if not self._turn.is_prompted:
            return Effect(event=line, reply=message({"id": id_, "result": withdrawn_answer(method)}))
        is_asked = self._process.permission_mode is not PermissionMode.BYPASS
        question = read_question(id_, method, params, self._turn.calls) if is_asked else None
        if question is not None and len(question.id) <= MAX_ID_CHARACTERS:
            self._turn.note_asked(dump([id_, method]).decode())
            return Effect(event=line, question=with_plain_id(question))
        result = None if is_asked else unasked_answer(method, params)
        return Effect(event=line, reply=message({"id": id_, "result": result or withdrawn_answer(method)}))


def _default_effort(setting: Setting) -> str | None:
    """Another model may not have it."""
    return setting.default if setting.default in setting.values else None


def _withdrawn(asked: str) -> bytes:
    id_, method = msgspec.json.decode(asked)
    return message({"id": id_, "result": withdrawn_answer(method)})


def _target(kind: str, value: str, setting: Setting) -> str | None:
    """The agent's own name for what is wanted. Of modes that it does not list it is asked by ours for it."""
    if value in setting.values:
        return setting.values[value]
    is_unlisted = value == setting.default and kind != "effort"
    return value if is_unlisted or (kind == "mode" and not setting.values) else None
