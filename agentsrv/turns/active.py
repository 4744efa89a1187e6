"""A turn that runs here, as its agent, its questions and those who wait for it see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from agentsrv.agents.base import Adapter, Effect, Question
from agentsrv.eventlog import SessionLog
from agentsrv.model import Answer, Decision, Lease, Millis, Outcome, RunnerId, Session, Turn
from agentsrv.runner.handle import AgentExit


class Verdict(Enum):
    """Why a turn is to be closed."""

    OVER = auto()
    EXITED = auto()
    GAVE_UP = auto()
    STOPPED = auto()
    TIMED_OUT = auto()
    STALE = auto()


class Runner(Protocol):
    """The process behind a live agent: a RunnerHandle, or what a dead one has left."""

    id: RunnerId
    directory: Path

    def send(self, message_id: str, data: bytes) -> None: ...
    def set_linger(self, seconds: float) -> None: ...
    async def kill(self, grace_s: float | None = None) -> AgentExit: ...
    async def wait_exit(self) -> AgentExit: ...
    def detach(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that waits for its answer. `expires_at` None: for as long as it takes."""

    question: Question
    created_at: Millis
    expires_at: Millis | None
    timer: asyncio.TimerHandle | None


class ActiveTurn:
    """A turn that runs here. The first verdict counts; `finished` is set when its `done` is in the log.

    `on_effect` hears of the agent's questions. `steered` holds the user events that were added to the turn
    while it ran, by their uuid. `caught_up` is set when all is read that the agent had written before this
    server came: only then has what the server adds to the log its place.
    """

    def __init__(
        self,
        session: Session,
        turn: Turn,
        user_event: bytes | None,
        on_effect: Callable[[ActiveTurn, Effect], None] = lambda active, effect: None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.session = session
        self.turn = turn
        self.user_event = user_event
        """The prompt, until the agent has it."""
        self.is_prompted = user_event is not None
        self.is_new_session = False
        self.was_queued = False
        self.on_effect = on_effect
        self.worktree_event: bytes | None = None
        """What the log says of the worktree that the session got for this turn, its first."""
        self.log: SessionLog | None = None
        self.outcome: Outcome | None = None
        self.last_output_at = loop.time()
        self.adapter: Adapter | None = None
        self.runner: Runner | None = None
        self.pending: dict[str, Pending] = {}
        self.answers: dict[str, Answer] = {}
        self.steered: dict[str, bytes] = {}
        self.caught_up = asyncio.Event()
        self.verdict: asyncio.Future[Verdict] = loop.create_future()
        self.started: asyncio.Future[None] = loop.create_future()
        # Maybe nobody waits for it: a failure must not be reported as never retrieved then.
        self.started.add_done_callback(lambda started: started.exception())
        self.finished = asyncio.Event()
        self.answerable = asyncio.Event()
        """Whoever waits for the end gets an answer now: the turn has finished, or the server stops."""

    @property
    def lease(self) -> Lease:
        return Lease(self.turn.session_id, self.turn.generation)

    def end(self) -> None:
        """Tell all who wait for the turn that it is over; what was still asked is cancelled."""
        self.answers |= dict.fromkeys(self.pending, Answer(Decision.CANCELLED))
        self.forget_questions()
        self.finished.set()
        self.answerable.set()

    def forget_questions(self) -> None:
        """Nobody here waits for answers any more."""
        for pending in self.pending.values():
            if pending.timer is not None:
                pending.timer.cancel()
        self.pending.clear()

    def settle(self, verdict: Verdict) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)
