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

import hashlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from agentsrv.agents.codex.lines import REFUSED, decode_envelope, item_of, params_of, thread_of
from agentsrv.agents.codex.outcomes import halted_by, outcome_of, refusal_of
from agentsrv.agents.codex.questions import answer_lines, read_question, request_name, unasked_answer
from agentsrv.agents.codex.requests import (
    OUR_PROVIDER,
    Surroundings,
    inputs_of,
    request,
    thread_request,
    turn_request,
)
from agentsrv.agents.codex.state import Process, TurnState
from agentsrv.agents.contract import BackgroundTask, Effect, Question
from agentsrv.agents.conversations import as_conversation
from agentsrv.agents.memory import (
    MAX_ID_CHARACTERS,
    add_counts,
    as_id,
    bounded,
    note,
    remember,
    restored,
    state_of,
)
from agentsrv.agents.model_servers import ModelServer
from agentsrv.agents.questions import question_id, with_plain_id
from agentsrv.agents.questions import title as title_of
from agentsrv.agents.reading import NOTHING, UNREADABLE, read_odd
from agentsrv.agents.stderr import error_in
from agentsrv.jsontext import as_object, dump, is_utf8, load_object
from agentsrv.model import (
    Answer,
    Outcome,
    PermissionMode,
    TurnId,
    TurnOptions,
    TurnStatus,
)

SPOKEN = frozenset({"agentMessage", "reasoning", "plan"})
"""What a model begins with. A command may be that of an earlier answer."""

COMPLETED = {"status": "completed"}

OURS = re.compile(
    r"(initialize|login|config|config-new|resume|start|fork)\Z|(turn|interrupt|steer|refusal|end)-"
)
"""The ids of our requests."""


class CodexAdapter:
    """One `codex app-server` process."""

    name: ClassVar[str] = "codex"
    progress: ClassVar[None] = None

    def __init__(self, around: Surroundings, known_thread: str | None, state: Mapping[str, Any]) -> None:
        self._around = around
        self._known_thread = known_thread
        self._process = msgspec.convert(state, Process)
        self._turn = TurnState()
        self._options = TurnOptions()

    @property
    def has_background_work(self) -> bool:
        """A command or a helper that the agent has started still works, though nobody waits for it."""
        return bool(self._process.commands or self._process.helpers)

    def background(self) -> list[BackgroundTask]:
        process = self._process
        commands = [BackgroundTask(id_, "command", title) for id_, title in process.commands.items()]
        return [*commands, *(BackgroundTask(id_, "agent", title) for id_, title in process.helpers.items())]

    def end_background(self, task_id: str) -> bytes | None:
        terminal = self._process.terminals.get(task_id)
        if terminal is None:
            return None
        params = {"threadId": self._process.thread_id, "processId": terminal}
        return request(f"end-{task_id}", "thread/backgroundTerminals/terminate", params)

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> None:
        self._options = replace(options, model=options.model or self._around.model)
        if prompt_id is not None:
            # What it does by itself it does under the rules of the last prompt.
            self._process.permission_mode = options.permission_mode
        self._turn = TurnState(prompt_id)

    def prompt(self, event: bytes) -> bytes | None:
        thread, mode = self._process.thread_id, self._process.permission_mode
        if thread is None:
            return None
        return turn_request(thread, self._turn.prompt_id, event, self._options, mode)

    def interrupt(self, turn_id: TurnId) -> bytes | None:
        if self._turn.turn_id is None:
            return None
        params = {"threadId": self._process.thread_id, "turnId": self._turn.turn_id}
        return request(f"interrupt-{turn_id}", "turn/interrupt", params)

    def steer(self, message_id: str, event: bytes) -> bytes | None:
        if self._turn.turn_id is None:
            return None
        self._turn.steered.add(message_id)
        params = {
            "threadId": self._process.thread_id,
            "expectedTurnId": self._turn.turn_id,
            "clientUserMessageId": message_id,
            "input": inputs_of(event),
        }
        return request(f"steer-{message_id}", "turn/steer", params)

    def change_mode(self, mode: PermissionMode) -> bytes | None:
        # What commands are confined to is told with a turn, and stays: what they ask for can be allowed from here.
        if mode is not PermissionMode.BYPASS and mode is not self._process.permission_mode:
            return None
        self._process.permission_mode = mode
        return b""

    def answer(self, question: Question, answer: Answer) -> bytes:
        return b"".join(dump(line) + b"\n" for line in answer_lines(question, answer))

    def running_tool(self) -> str | None:
        if self._process.commands:
            return "command"
        return next((str(call.get("type")) for call in self._turn.calls.values()), None)

    def state(self) -> dict[str, Any]:
        return state_of(self._process, self._turn)

    def restore(self, state: Mapping[str, Any]) -> None:
        self._process, self._turn = restored(state, Process, TurnState)

    def receive(self, line: bytes) -> Effect | None:
        try:
            envelope = decode_envelope(line)
        except REFUSED:
            return read_odd(line, lambda message: self._read(message.get("method"), message.get("id"), line))
        if is_utf8(line):
            return self._read(envelope.method, envelope.id, line)
        return read_odd(line, lambda _: self._read(envelope.method, envelope.id, line))

    def skim(self, line: bytes) -> Effect | None:
        envelope = decode_envelope(line)
        return self._read(envelope.method, envelope.id, line)

    def _read(self, method: Any, id_: Any, line: bytes) -> Effect | None:
        if method is None:
            return self._answered(id_, line) if isinstance(id_, str) and OURS.match(id_) else None
        if id_ is not None:
            return self._asked(id_, line)
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
                return self._add_usage(line)
            case "item/started" | "item/completed":
                return self._item(method, line)
            case "hook/completed":
                self._hook_has_run(params_of(line))
            case "error":
                return self._failed(line)
            case "serverRequest/resolved":
                own = request_name(params_of(line).get("requestId"))
                return Effect(event=line, withdrawn=question_id(own))
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
            case "initialize" if self._server.key is None:
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
        if id_.startswith(("interrupt-", "refusal-", "end-")):
            return NOTHING
        outcome = Outcome(TurnStatus.FAILED, *refusal_of(error))
        if id_ == "fork":
            text = f"the conversation that this session goes on from cannot be forked: {outcome.error}"
            outcome = Outcome(TurnStatus.FAILED, text, "conversation_lost")
        if id_.startswith("turn-"):
            return Effect(event=line, outcome=outcome, is_over=True)
        return Effect(event=line, gave_up=outcome)

    def _logged_in(self, line: bytes) -> Effect | None:
        params = params_of(line)
        if self._process.thread_id is not None:
            return None
        if not params.get("success"):
            error = f"the agent could not log in: {params.get('error')}"
            return Effect(event=line, gave_up=Outcome(TurnStatus.FAILED, error, "agent_not_authenticated"))
        # Not earlier: while the login changes its configuration, it may refuse to start a thread.
        return Effect(event=line, reply=self._first_request())

    def _first_request(self) -> bytes:
        if self._server.url is not None:
            return self._thread_request(OUR_PROVIDER)
        if self._around.provider is not None:
            return self._thread_request(self._around.provider)
        id_ = "config-new" if self._known_thread is None else "config"
        return request(id_, "config/read", {"cwd": self._around.cwd})

    @property
    def _server(self) -> ModelServer:
        return self._around.server(self._options.model)

    def _thread_request(self, provider: str) -> bytes:
        mode = self._process.permission_mode
        return thread_request(self._around, self._options, mode, self._known_thread, provider)

    def _started(self, line: bytes) -> Effect | None:
        """A thread of this process; those after the first are the agent's own helpers."""
        if self._process.thread_id is not None:
            return None
        thread_id = as_conversation(as_object(params_of(line).get("thread")).get("id"))
        return None if thread_id is None else self._loaded(thread_id, line)

    def _status_changed(self, line: bytes) -> Effect | None:
        """The first that is heard of a resumed thread. Of other threads: whether a helper works."""
        params, process = params_of(line), self._process
        thread_id, is_active = params.get("threadId"), as_object(params.get("status")).get("type") == "active"
        if process.thread_id is None:
            return self._loaded(self._known_thread, line) if thread_id == self._known_thread else None
        if thread_id == process.thread_id:
            return None if is_active else self._went_idle(line)
        process.helpers.pop(str(thread_id), None)
        if is_active:
            remember(process.helpers, as_id(thread_id), "helper")
        return None

    def _went_idle(self, line: bytes) -> Effect | None:
        """The main thread rests. The end of its turn is told right after this; if it is not, this was it."""
        if self._turn.turn_id is None or as_object(params_of(line).get("status")).get("type") != "idle":
            return None
        outcome = Outcome(TurnStatus.COMPLETED, stop_reason="end_turn", usage=dict(self._turn.usage) or None)
        return self._looks_over(line, outcome if self._turn.halted is None else self._outcome(COMPLETED))

    def _failed(self, line: bytes) -> Effect | None:
        """An error: if nothing is tried again, the end of the turn is told right after it."""
        params = params_of(line)
        if params.get("threadId") != self._process.thread_id or params.get("willRetry") is not False:
            return None
        turn = {"status": "failed", "error": params.get("error")}
        return self._looks_over(line, self._outcome(turn))

    def _looks_over(self, line: bytes, outcome: Outcome) -> Effect:
        # What has failed does not become good because the thread rests then.
        self._turn.likely = self._turn.likely or outcome
        return Effect(event=line, outcome=self._turn.likely, looks_over=self._is_steered_out())

    def _loaded(self, thread_id: str | None, line: bytes | None) -> Effect:
        if self._process.thread_id is not None:
            return Effect(event=line)
        self._process.thread_id = thread_id
        is_new = thread_id != self._known_thread
        return Effect(event=line, takes_prompt=True, internal_session_id=thread_id if is_new else None)

    # The turn

    def _turn_started(self, line: bytes) -> Effect | None:
        params = params_of(line)
        if params.get("threadId") != self._process.thread_id:
            return None
        self._turn.turn_id = as_id(as_object(params.get("turn")).get("id")) or self._turn.turn_id
        self._turn.likely = None
        return Effect(event=line, begins=True)

    def _steer_answered(self, message_id: str, line: bytes, *, is_refused: bool) -> Effect:
        """A message that was added to the turn is part of it, or came too late. Both are kept in the log:
        whoever reads it again must know that nothing is waited for any more.
        """
        turn = self._turn
        note(turn.steers_answered, message_id, turn.steered)
        outcome, turn.ended = turn.ended, None
        return Effect(
            event=line,
            lost_steers=[message_id] if is_refused else (),
            outcome=outcome,
            is_over=outcome is not None and self._is_steered_out(),
        )

    def _is_steered_out(self) -> bool:
        return self._turn.steered <= self._turn.steers_answered

    def _item(self, method: str, line: bytes) -> Effect | None:
        if b'"commandExecution"' in line or b'"fileChange"' in line or b'"mcpToolCall"' in line:
            self._note_call(method, line)
        if b'"userMessage"' in line and (item := item_of(line)).type == "userMessage":
            if method == "item/completed" and item.client_id in self._turn.steered:
                self._turn.taken.add(str(item.client_id))
            event = _without_images(line)
            return Effect(event=event) if event is not line else None
        is_news = bool(self._turn.taken or self._turn.halted)
        if is_news and item_of(line).type in SPOKEN and thread_of(line) == self._process.thread_id:
            self._turn.halted = None
            return Effect(event=line, read_steers=self._turn.all_taken())
        return None

    def _hook_has_run(self, params: Mapping[str, Any]) -> None:
        if params.get("threadId") == self._process.thread_id:
            self._turn.halted = halted_by(as_object(params.get("run"))) or self._turn.halted

    def _note_call(self, method: str, line: bytes) -> None:
        """Remember what is about to be done: a request for leave does not say it again. And count commands."""
        item = item_of(line)
        if (id_ := as_id(item.id)) is None:
            return
        has_begun = method == "item/started"
        match item.type:
            case "commandExecution" if has_begun:
                begun = as_object(params_of(line).get("item"))
                remember(self._process.commands, id_, title_of(str(begun.get("command", "command"))))
                if (terminal := as_id(begun.get("processId"))) is not None:
                    remember(self._process.terminals, id_, terminal)
            case "commandExecution":
                self._process.commands.pop(id_, None)
                self._process.terminals.pop(id_, None)
            case "fileChange" | "mcpToolCall" if has_begun:
                self._turn.note_call(id_, as_object(params_of(line).get("item")))
            case "fileChange" | "mcpToolCall":
                self._turn.forget_call(id_)
            case _:
                pass

    def _add_usage(self, line: bytes) -> Effect | None:
        """Add up what each call to the model has used. A resumed thread tells of its last turn again."""
        params, turn = params_of(line), self._turn
        if turn.turn_id is None or params.get("turnId") != turn.turn_id:
            return None
        usage = as_object(params.get("tokenUsage"))
        last, total = as_object(usage.get("last")), hashlib.sha256(dump(usage.get("total"))).hexdigest()
        # A call that did not fit is reported as one that filled the context and used nothing.
        if total != turn.total and (last.get("inputTokens") or last.get("outputTokens")):
            turn.total = total
            add_counts(turn.usage, last)
        return Effect(event=line, read_steers=turn.all_taken()) if turn.taken else None

    def _turn_completed(self, line: bytes) -> Effect | None:
        if thread_of(line) != self._process.thread_id:
            return None
        message = load_object(line)
        turn = as_object(as_object((message or {}).get("params")).get("turn"))
        outcome = UNREADABLE if message is None else self._outcome(turn)
        self._turn.turn_id = None
        is_over = self._is_steered_out()
        self._turn.ended = None if is_over else outcome
        # As it ends, Codex puts what has come too late into its thread, and asks the model nothing more (0.163).
        lost = self._turn.all_taken()
        return Effect(event=line, outcome=outcome, lost_steers=lost, is_over=is_over)

    def _outcome(self, turn: Mapping[str, Any]) -> Outcome:
        if self._turn.halted is not None and turn.get("status") == "completed":
            return Outcome(TurnStatus.FAILED, *self._turn.halted, usage=dict(self._turn.usage) or None)
        wants_output = self._options.output_schema is not None
        return bounded(outcome_of(turn, dict(self._turn.usage) or None, wants_output=wants_output))

    def _asked(self, id_: Any, line: bytes) -> Effect:
        """A question of the agent. Where nobody can be asked it is answered at once, so that it never waits
        for somebody who is not there.
        """
        message = load_object(line) or {}
        method, params = str(message.get("method")), as_object(message.get("params"))
        is_asked = self._process.permission_mode is not PermissionMode.BYPASS
        question = read_question(id_, method, params, self._turn.calls) if is_asked else None
        if question is not None and len(question.id) <= MAX_ID_CHARACTERS:
            return Effect(event=line, question=with_plain_id(question), begins=True)
        reply: dict[str, Any] = {"id": id_}
        if (result := unasked_answer(method, params)) is not None:
            reply["result"] = result
        else:
            reply["error"] = {"code": -32601, "message": "not supported by this client"}
        return Effect(event=line, reply=dump(reply) + b"\n")

    def explain_exit(self, stderr: str) -> tuple[str, str] | None:
        error = error_in(stderr)
        return None if error is None else (error, "agent_error")


def _without_images(line: bytes) -> bytes:
    """The agent's echo of a prompt, which comes twice, without its images: the log has them already."""
    if b'"data:image/' not in line:
        return line
    message = load_object(line) or {}
    content = as_object(as_object(message.get("params")).get("item")).get("content")
    for block in map(as_object, content if isinstance(content, list) else []):
        if (url := str(block.get("url"))).startswith("data:image/"):
            block["url"] = url.partition(",")[0] + ","
    return dump(message) if message else line
