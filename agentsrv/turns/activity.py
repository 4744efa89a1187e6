"""What happens in all sessions at once, for those who watch them all: the newest state of what has changed.

A watcher has no queue, only the names of the sessions that have changed since it last looked. So a slow one costs
little and sees the newest state once; who comes, or comes back, begins with a snapshot.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from typing import Literal

from msgspec import Struct

from agentsrv.model import Seq, Session, SessionId, Turn, TurnId, TurnStatus
from agentsrv.store import sessions, turns
from agentsrv.store.database import Database
from agentsrv.turns.questions import WaitingQuestion
from agentsrv.turns.service import TurnService
from agentsrv.turns.signals import (
    QuestionAnswered,
    QuestionAsked,
    SessionChanged,
    Signals,
    ToolChanged,
    TurnEnded,
    TurnOpened,
)

MAX_SESSIONS = 500
"""In a snapshot: the newest ones. A watcher of which more have changed begins anew."""

GATHER_S = 0.05
"""Changes that come close together are told together."""

Status = Literal["idle", "queued", "running", "waiting", "failed"]
QuestionKey = tuple[TurnId, str]


class SessionState(Struct, frozen=True):
    """A session, what it does now, and its newest turn."""

    session: Session
    status: Status
    last_turn: Turn | None
    questions: int
    queued: int
    tool: str | None
    last_seq: Seq
    cost_usd: float | None
    """`tool` is what the agent waits for; `last_seq` the newest event of the turn; `cost_usd` of all turns."""


class Snapshot(Struct, frozen=True):
    """Everything. Whatever was known before is void."""

    sessions: list[SessionState]
    questions: list[WaitingQuestion]


class Deleted(Struct, frozen=True):
    session_id: SessionId


class Resolved(Struct, frozen=True):
    """A question does not wait any more."""

    turn_id: TurnId
    question_id: str


News = Snapshot | SessionState | Deleted | WaitingQuestion | Resolved


class Activity:
    """Knows who watches, and wakes them."""

    def __init__(self, db: Database, turns: TurnService, signals: Signals) -> None:
        self._db = db
        self._turns = turns
        self._watchers: set[_Watcher] = set()
        self._is_closed = False
        signals.turn_opened.subscribe(self._turn_changed)
        signals.turn_ended.subscribe(self._turn_changed)
        signals.question_asked.subscribe(self._turn_changed)
        signals.question_answered.subscribe(self._turn_changed)
        signals.session_changed.subscribe(self._session_changed)
        signals.tool_changed.subscribe(self._session_changed)

    async def watch(self) -> AsyncGenerator[list[News], None]:
        """A snapshot, then what is new, as it comes. Ends when the server stops."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            known = self._questions()
            yield [await self._snapshot(known)]
            while await self._is_woken(watcher):
                changed, questions = watcher.take(), self._questions()
                if len(changed) > MAX_SESSIONS:
                    yield [await self._snapshot(questions)]
                else:
                    yield [*_difference(known, questions), *await self._states(changed)]
                known = questions
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """The server stops: let go of all who watch."""
        self._is_closed = True
        for watcher in self._watchers:
            watcher.wake()

    async def _is_woken(self, watcher: _Watcher) -> bool:
        await watcher.woken()
        if not self._is_closed:
            await asyncio.sleep(GATHER_S)
        return not self._is_closed

    def _turn_changed(self, news: TurnOpened | TurnEnded | QuestionAsked | QuestionAnswered) -> None:
        self._changed(news.turn.session_id)

    def _session_changed(self, news: SessionChanged | ToolChanged) -> None:
        self._changed(news.session_id)

    def _changed(self, session_id: SessionId) -> None:
        for watcher in self._watchers:
            watcher.note(session_id)

    def _questions(self) -> dict[QuestionKey, WaitingQuestion]:
        return {(waiting.turn.id, waiting.question.id): waiting for waiting in self._turns.questions()}

    async def _snapshot(self, questions: dict[QuestionKey, WaitingQuestion]) -> Snapshot:
        newest = await sessions.page(self._db, agent=None, before=None, limit=MAX_SESSIONS)
        return Snapshot(await self._described(newest), list(questions.values()))

    async def _states(self, session_ids: Iterable[SessionId]) -> list[SessionState | Deleted]:
        found = {session_id: await sessions.find(self._db, session_id) for session_id in session_ids}
        gone = [Deleted(session_id) for session_id, session in found.items() if session is None]
        return [*gone, *await self._described([one for one in found.values() if one is not None])]

    async def _described(self, found: list[Session]) -> list[SessionState]:
        ids = [session.id for session in found]
        newest, costs = await turns.latest(self._db, ids), await turns.costs(self._db, ids)
        asking = Counter(waiting.turn.session_id for waiting in self._turns.questions())
        return [
            self._state(session, newest.get(session.id), asking[session.id], costs.get(session.id))
            for session in found
        ]

    def _state(
        self, session: Session, last_turn: Turn | None, questions: int, cost_usd: float | None
    ) -> SessionState:
        queued = self._turns.queue.count(session.id)
        return SessionState(
            session,
            _status(session, last_turn, questions, queued),
            last_turn,
            questions,
            queued,
            self._turns.running_tool(session.id),
            0 if last_turn is None else self._turns.last_seq(last_turn),
            cost_usd,
        )


class _Watcher:
    """What one who watches has not seen yet."""

    def __init__(self) -> None:
        self._changed: set[SessionId] = set()
        self._wake = asyncio.Event()

    def note(self, session_id: SessionId) -> None:
        # One name more than a snapshot has room for is enough to know that there are too many.
        if len(self._changed) <= MAX_SESSIONS:
            self._changed.add(session_id)
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    async def woken(self) -> None:
        await self._wake.wait()

    def take(self) -> set[SessionId]:
        self._wake.clear()
        changed, self._changed = self._changed, set()
        return changed


def _status(session: Session, last_turn: Turn | None, questions: int, queued: int) -> Status:
    if questions:
        return "waiting"
    if session.active_turn_id is not None:
        return "running"
    if queued:
        return "queued"
    has_failed = last_turn is not None and last_turn.status in (TurnStatus.FAILED, TurnStatus.INTERRUPTED)
    return "failed" if has_failed else "idle"


def _difference(
    before: dict[QuestionKey, WaitingQuestion], now: dict[QuestionKey, WaitingQuestion]
) -> list[WaitingQuestion | Resolved]:
    gone = [Resolved(*key) for key in before if key not in now]
    return [*gone, *(waiting for key, waiting in now.items() if key not in before)]
