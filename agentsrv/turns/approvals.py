"""Questions of agents: shown to users, and answered by them, by what they allowed before, or by time.

A question is an event that follows from the agent's own line. Its answer is an event of the server: the agent
gets it when it is committed, so that after a crash the log knows all questions and answers, and an answer that
may not have reached the agent is sent again. The agent waits under its runner meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from agentsrv.agents.base import Question, dump
from agentsrv.errors import AgentsrvError, Conflict, InvalidInput, NotFound, Problem
from agentsrv.eventlog import now_ms, server_chunk
from agentsrv.model import Answer, Chunk, Decision, Millis, Outcome, Source, Turn, TurnStatus
from agentsrv.store import transactions, turns
from agentsrv.store.database import Database
from agentsrv.tasks import Tasks
from agentsrv.turns.active import ActiveTurn, Pending, Verdict

log = logging.getLogger(__name__)

NO_ANSWER = Answer(Decision.TIMED_OUT, message="nobody answered in time")
ALLOWED_BEFORE = Answer(Decision.ALLOW)
WITHDRAWN = Answer(Decision.CANCELLED)

MAX_PENDING = 100
"""An agent that asks more at once does not wait for anybody."""

OUR_PREFIX = b'{"type":"permission_'
"""How the events of questions and answers begin, and no other event of the log."""


class Approvals:
    """The pending questions of all turns of this server. `timeout_s` 0: they wait for as long as it takes."""

    def __init__(self, db: Database, tasks: Tasks, timeout_s: float) -> None:
        self._db = db
        self._tasks = tasks
        self._timeout_s = timeout_s

    def asked(self, active: ActiveTurn, question: Question, at: Millis | None = None) -> None:
        """The agent waits for an answer. The time for it counts from now, even if it was asked before a restart.

        What has the id of an earlier question is none: an answer must not be taken for one to something else.
        """
        if question.id in active.pending or question.id in active.answers:
            return
        if len(active.pending) >= MAX_PENDING:
            error = f"the agent asked for more than {MAX_PENDING} permissions at once"
            active.outcome = Outcome(TurnStatus.FAILED, error, "too_many_permissions")
            active.settle(Verdict.GAVE_UP)
            return
        timer = expires_at = None
        if self._timeout_s:
            expires_at = now_ms() + int(self._timeout_s * 1000)
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._timeout_s, self._settle, active, question.id, NO_ANSWER)
        active.pending[question.id] = Pending(question, at or now_ms(), expires_at, timer)
        self._show_status(active)
        if question.allowance is not None and question.allowance in active.session.allowances:
            self._settle(active, question.id, ALLOWED_BEFORE)

    def withdrawn(self, active: ActiveTurn, question_id: str) -> None:
        """The agent does not need the answer any more, if it still waits for one."""
        if question_id in active.pending:
            self._settle(active, question_id, WITHDRAWN)

    async def answer(self, active: ActiveTurn, question_id: str, answer: Answer) -> Answer:
        """Record an answer and give it to the agent; the same one again changes nothing.

        Raises NotFound (`permission_not_found`), Conflict (`permission_answered`, `job_ended`), InvalidInput
        for an answer that does not fit the question, StorageFull.
        """
        # A task of its own: a client that leaves must not leave an answer half given.
        done = await asyncio.shield(
            self._tasks.start(self._resolve(active, question_id, answer), name=f"answer:{question_id}")
        )
        if isinstance(done, AgentsrvError):
            raise done
        return done

    def recall(self, active: ActiveTurn, event: dict[str, Any], at: Millis) -> None:
        """After a restart: a question or an answer, as the log has it, oldest first."""
        if event.get("type") == "permission_request":
            self.asked(active, _question_of(event), at)
        elif event.get("type") == "permission_resolved":
            self._recall_answer(active, str(event.get("requestId")), _answer_of(event))

    def _recall_answer(self, active: ActiveTurn, question_id: str, answer: Answer) -> None:
        if (pending := _forget(active, question_id)) is None:
            return
        active.answers[question_id] = answer
        self._show_status(active)
        self._tell(active, pending.question, answer)

    def _settle(self, active: ActiveTurn, question_id: str, answer: Answer) -> None:
        """Answer in place of a user."""
        self._tasks.spawn(self._settled(active, question_id, answer), name=f"settle:{question_id}")

    async def _settled(self, active: ActiveTurn, question_id: str, answer: Answer) -> None:
        await active.caught_up.wait()
        done = await self._resolve(active, question_id, answer, must_happen=True)
        if isinstance(done, AgentsrvError):
            log.info("question %s of job %s: %s", question_id, active.turn.id, done)

    async def _resolve(
        self, active: ActiveTurn, question_id: str, answer: Answer, *, must_happen: bool = False
    ) -> Answer | AgentsrvError:
        try:
            assert active.log is not None
            async with active.log.hold() as seq:
                if (known := active.answers.get(question_id)) is not None:
                    return _repeated(question_id, known, answer)
                pending = _waiting(active, question_id)
                # It has to fit before it is recorded.
                _message_for_agent(active, pending.question, answer)
                allowance = pending.question.allowance if answer.remember else None
                if answer.remember and allowance is None:
                    raise _not_rememberable()
                chunk = await self._record(active, question_id, answer, allowance, seq, must_happen)
                active.log.publish(chunk)
        except AgentsrvError as exc:
            return exc
        self._tell(active, pending.question, answer)
        if allowance is not None:
            self._allow_others(active, allowance)
        return answer

    async def _record(
        self,
        active: ActiveTurn,
        question_id: str,
        answer: Answer,
        allowance: str | None,
        seq: int,
        must_happen: bool,
    ) -> Chunk:
        still_waiting = len(active.pending) > 1
        turn = replace(
            active.turn, status=TurnStatus.WAITING_FOR_APPROVAL if still_waiting else TurnStatus.RUNNING
        )
        chunk = server_chunk(turn, Source.SERVER, seq, [resolved_event(turn, question_id, answer)])
        await transactions.resolve_question(
            self._db, turn, chunk, allowance=allowance, must_happen=must_happen
        )
        _forget(active, question_id)
        active.answers[question_id] = answer
        active.turn = replace(active.turn, status=turn.status)
        if allowance is not None:
            active.session = replace(active.session, allowances=(*active.session.allowances, allowance))
        return chunk

    def _tell(self, active: ActiveTurn, question: Question, answer: Answer) -> None:
        if (data := _message_for_agent(active, question, answer)) is not None and active.runner is not None:
            active.runner.send(f"permission-{question.id}", data)

    def _allow_others(self, active: ActiveTurn, allowance: str) -> None:
        """What was just allowed for the session may be what other questions wait for."""
        for pending in active.pending.values():
            if pending.question.allowance == allowance:
                self._settle(active, pending.question.id, ALLOWED_BEFORE)

    def _show_status(self, active: ActiveTurn) -> None:
        status = TurnStatus.WAITING_FOR_APPROVAL if active.pending else TurnStatus.RUNNING
        if active.turn.status is status:
            return
        active.turn = replace(active.turn, status=status)
        turn_id = active.turn.id
        write = self._db.write(lambda db: turns.set_status(db, turn_id, status), must_happen=True)
        self._tasks.spawn(write, name=f"status:{turn_id}")


def request_event(turn: Turn, question: Question) -> bytes:
    """The event of a question: the same for every agent, and it follows from the agent's line alone."""
    return dump(
        {
            "type": "permission_request",
            "requestId": question.id,
            "taskId": turn.id,
            "sessionId": turn.session_id,
            "kind": question.kind,
            "tool": question.tool,
            "title": question.title,
            "input": question.input,
            "toolCallId": question.tool_call_id,
            "options": answer_options(question),
            "allowance": question.allowance,
            "details": question.details,
        }
    )


def answer_options(question: Question) -> list[dict[str, str]]:
    """What may be answered, in the fields of an answer."""
    always = {"decision": "allow", "remember": "session"}
    return [{"decision": "allow"}, *([always] if question.allowance else []), {"decision": "deny"}]


def resolved_event(turn: Turn, question_id: str, answer: Answer) -> bytes:
    event: dict[str, Any] = {
        "type": "permission_resolved",
        "requestId": question_id,
        "taskId": turn.id,
        "decision": answer.decision,
    }
    if answer.remember:
        event["remember"] = "session"
    if answer.message is not None:
        event["message"] = answer.message
    if answer.updated_input is not None:
        event["updatedInput"] = answer.updated_input
    return dump(event)


def closing_events(active: ActiveTurn) -> list[bytes]:
    """For the end of a turn: nobody will answer what is still asked."""
    return [resolved_event(active.turn, question_id, WITHDRAWN) for question_id in active.pending]


def _question_of(event: dict[str, Any]) -> Question:
    return Question(
        id=event["requestId"],
        kind=event["kind"],
        tool=event["tool"],
        input=event["input"],
        title=event["title"],
        tool_call_id=event["toolCallId"],
        allowance=event["allowance"],
        details=event["details"],
    )


def _answer_of(event: dict[str, Any]) -> Answer:
    return Answer(
        Decision(event["decision"]),
        remember="remember" in event,
        message=event.get("message"),
        updated_input=event.get("updatedInput"),
    )


def answered_before(event: dict[str, Any], answer: Answer) -> Answer:
    """The answer in a `permission_resolved` event, when it is `answer` once more. Raises Conflict."""
    done = _repeated(str(event["requestId"]), _answer_of(event), answer)
    if isinstance(done, AgentsrvError):
        raise done
    return done


def _message_for_agent(active: ActiveTurn, question: Question, answer: Answer) -> bytes | None:
    if answer.decision is Decision.CANCELLED or active.adapter is None:
        return None
    return active.adapter.answer(question, answer)


def _waiting(active: ActiveTurn, question_id: str) -> Pending:
    pending = active.pending.get(question_id)
    if pending is None:
        raise NotFound(
            f"job {active.turn.id} does not wait for permission {question_id}", code="permission_not_found"
        )
    if active.verdict.done():
        raise Conflict(f"job {active.turn.id} is ending; nothing waits for an answer", code="job_ended")
    return pending


def _forget(active: ActiveTurn, question_id: str) -> Pending | None:
    pending = active.pending.pop(question_id, None)
    if pending is not None and pending.timer is not None:
        pending.timer.cancel()
    return pending


def _repeated(question_id: str, known: Answer, answer: Answer) -> Answer | Conflict:
    if known == answer:
        return known
    return Conflict(
        f"permission {question_id} is settled already: {known.decision}", code="permission_answered"
    )


def _not_rememberable() -> InvalidInput:
    message = "this cannot be allowed for the whole session; answer it without remember"
    return InvalidInput(f"remember: {message}", problems=[Problem("remember", message)])
