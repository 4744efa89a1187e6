"""How a question gets its answer: by its user, by what was allowed before, or by time."""

from __future__ import annotations

import json
import logging

from agentsrv.agents.contract import Question
from agentsrv.errors import AgentsrvError, StorageFull
from agentsrv.eventlog import now_ms, server_chunk
from agentsrv.model import Answer, Decision, Millis, Seq, Source
from agentsrv.store import transactions
from agentsrv.store.database import Database
from agentsrv.threads import Pool
from agentsrv.turns import lifecycle
from agentsrv.turns.facts import Answered, Asked, Pending
from agentsrv.turns.lifecycle import Open, Waiting
from agentsrv.turns.means import OpenTurn
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.questions import (
    answer_in,
    digest,
    is_ending,
    not_rememberable,
    not_waiting,
    question_in,
    require_same,
    resolved_event,
    untellable,
)
from agentsrv.turns.signals import QuestionAnswered, QuestionAsked, Signals

log = logging.getLogger(__name__)

LARGE_BYTES = 64 * 1024
"""Of a question. A larger one is worked on in a thread."""


class Answering:
    """The questions of one turn. `timeout_s` 0: they wait for as long as it takes."""

    def __init__(
        self, turn: OpenTurn, db: Database, folding: Pool, signals: Signals, timeout_s: float
    ) -> None:
        self._turn = turn
        self._db = db
        self._folding = folding
        self._signals = signals
        self._timeout_s = timeout_s

    def ask(self, id: str, event: bytes, seq: Seq, allowance: str | None, at: Millis) -> None:
        """The agent waits. The time for an answer counts from now, even if it was asked before a restart."""
        expires_at = now_ms() + int(self._timeout_s * 1000) if self._timeout_s else None
        self._turn.feed(Asked(Pending(id, event, seq, allowance, at, expires_at)))
        self._signals.question_asked.send(QuestionAsked(self._turn.turn, id, event))

    def replay(self, line: bytes, seq: Seq, at: Millis, process: AgentProcess | None) -> None:
        """A question or an answer, as the log has it. What may not have reached the agent is told it again."""
        fields = json.loads(line)
        if fields["type"] == "permission_request":
            self.ask(fields["requestId"], line, seq, fields["allowance"], at)
        elif (pending := self._pending(fields["requestId"])) is not None:
            answer = answer_in(fields)
            data = None if process is None else _words(process, question_in(pending.event), answer)
            self._turn.feed(Answered(pending.id, digest(answer), data, mode=answer.permission_mode))

    async def settle(self, question_id: str, answer: Answer) -> None:
        """Answer in place of a user. What the agent had written before a restart comes first."""
        if (process := await self._turn.process()) is not None:
            await process.catch_up()
        done = await self.answer(question_id, answer, must_happen=True)
        if isinstance(done, AgentsrvError):
            log.info("question %s of job %s: %s", question_id, self._turn.turn.id, done)

    async def answer(
        self, question_id: str, answer: Answer, *, must_happen: bool = False
    ) -> Answer | AgentsrvError:
        """Record an answer, and have the agent told; the same one again changes nothing."""
        try:
            pending = self._require_waiting(question_id, answer)
            if pending is None:
                return answer
            # Before the log is held: a large one takes its time. And it has to fit before it is recorded.
            data = await self._prepare(pending, answer)
            async with self._turn.held(must_happen=must_happen) as seq:
                if self._require_waiting(question_id, answer) is None:
                    return answer
                allowance = pending.allowance if answer.remember else None
                fact = Answered(question_id, digest(answer), data, allowance, answer.permission_mode)
                await self._record(answer, fact, seq, must_happen=must_happen)
        except AgentsrvError as exc:
            return exc
        return answer

    async def _record(self, answer: Answer, fact: Answered, seq: Seq, *, must_happen: bool) -> None:
        after = lifecycle.step(self._turn.state, fact)[0].turn
        chunk = server_chunk(after, Source.SERVER, seq, [resolved_event(after, fact.id, answer)])
        await transactions.resolve_question(
            self._db, after, chunk, allowance=fact.allowance, must_happen=must_happen
        )
        self._turn.log.publish(chunk)
        self._turn.feed(fact)
        self._signals.question_answered.send(QuestionAnswered(after, fact.id, answer))

    def _require_waiting(self, question_id: str, answer: Answer) -> Pending | None:
        """The question, if it waits; None, if it has got this answer already."""
        state = self._turn.state
        if isinstance(state, Open) and (known := state.answered.get(question_id)) is not None:
            require_same(question_id, known, answer)
            return None
        if (pending := self._pending(question_id)) is None:
            raise not_waiting(self._turn.turn, question_id)
        if not isinstance(state, Waiting):
            raise is_ending(self._turn.turn) if not self._db.is_full else disk_full()
        if answer.remember and pending.allowance is None:
            raise not_rememberable()
        return pending

    def _pending(self, question_id: str) -> Pending | None:
        state = self._turn.state
        return state.questions.get(question_id) if isinstance(state, Open) else None

    async def _prepare(self, pending: Pending, answer: Answer) -> bytes | None:
        """What the agent is told. Raises InvalidInput for what does not fit the question, or cannot be told."""
        if (process := await self._turn.process()) is None:
            return None

        def prepare() -> bytes | None:
            return _words(process, question_in(pending.event), answer)

        return prepare() if len(pending.event) <= LARGE_BYTES else await self._folding.run(prepare)


def _words(process: AgentProcess, question: Question, answer: Answer) -> bytes | None:
    if answer.decision is Decision.CANCELLED:
        return None
    try:
        return process.adapter.answer(question, answer)
    except AgentsrvError:
        raise
    except Exception as exc:
        log.error("an answer cannot be told to agent %s: %s", process.id, type(exc).__name__)
        raise untellable() from exc


def disk_full() -> StorageFull:
    return StorageFull("the server's disk is full; free some space and try again")
