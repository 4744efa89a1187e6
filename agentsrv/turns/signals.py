"""What turns and agents tell whoever wants to know. Who does says so when it is made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct, field

from agentsrv.agents.timers import TimerNews
from agentsrv.model import Answer, RunnerId, Session, SessionId, Turn

T = TypeVar("T")

log = logging.getLogger(__name__)


class Signal(Generic[T]):
    """Something that happens again and again, told to all subscribers, in the order in which they came.

    They are called at once, so they may not block, and what one raises is logged and disturbs nobody else.
    """

    def __init__(self) -> None:
        self._subscribers: list[Callable[[T], None]] = []

    def subscribe(self, subscriber: Callable[[T], None]) -> None:
        self._subscribers.append(subscriber)

    def send(self, value: T) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(value)
            except Exception:
                log.exception("a subscriber failed at %s", type(value).__name__)


class TurnOpened(Struct, frozen=True):
    """A turn is in the log. `is_resumed`: an earlier server has opened it."""

    session: Session
    turn: Turn
    is_resumed: bool = False


class TurnRefused(Struct, frozen=True):
    """A turn could not be opened: what waits for its session should be tried again later."""

    session: Session
    turn: Turn


class TurnEnded(Struct, frozen=True):
    """A turn's `done` is in the log, and its session is free."""

    session: Session
    turn: Turn


class QuestionAsked(Struct, frozen=True):
    """The agent waits for an answer; `event` is what the log says of it."""

    turn: Turn
    question_id: str
    event: bytes


class QuestionAnswered(Struct, frozen=True):
    turn: Turn
    question_id: str
    answer: Answer


class AgentWoke(Struct, frozen=True):
    """An idle agent works again, for something that it had left running has ended."""

    session_id: SessionId


class AgentGone(Struct, frozen=True):
    """A session has no process any more."""

    session_id: SessionId


class AgentPlanned(Struct, frozen=True):
    """An agent has planned something for later, or something of the kind. `is_replayed`: an earlier server knew it."""

    session_id: SessionId
    runner_id: RunnerId
    news: TimerNews
    is_replayed: bool


class TimersChanged(Struct, frozen=True):
    """What an agent has planned for later is noted, or its having given that up."""

    session_id: SessionId


class SessionChanged(Struct, frozen=True):
    """A session was made, changed or deleted by its user."""

    session_id: SessionId


class ToolChanged(Struct, frozen=True):
    """The agent waits for another tool, or for none."""

    session_id: SessionId


class Signals(Struct, frozen=True):
    """One of each kind, for all turns of a server."""

    turn_opened: Signal[TurnOpened] = field(default_factory=Signal)
    turn_refused: Signal[TurnRefused] = field(default_factory=Signal)
    turn_ended: Signal[TurnEnded] = field(default_factory=Signal)
    question_asked: Signal[QuestionAsked] = field(default_factory=Signal)
    question_answered: Signal[QuestionAnswered] = field(default_factory=Signal)
    agent_woke: Signal[AgentWoke] = field(default_factory=Signal)
    agent_gone: Signal[AgentGone] = field(default_factory=Signal)
    agent_planned: Signal[AgentPlanned] = field(default_factory=Signal)
    timers_changed: Signal[TimersChanged] = field(default_factory=Signal)
    session_changed: Signal[SessionChanged] = field(default_factory=Signal)
    tool_changed: Signal[ToolChanged] = field(default_factory=Signal)
