"""What turns work with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct, field

from agentsrv.config import Config
from agentsrv.eventlog import EventLog, SessionLog
from agentsrv.fleet.homes import Homes, LocalHomes
from agentsrv.model import Seq, Session, Turn
from agentsrv.store.database import Database
from agentsrv.turns.facts import Fact
from agentsrv.turns.lifecycle import State
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.queue import PromptQueue
from agentsrv.turns.signals import Signals
from agentsrv.turns.stages import Stage


class Means(Struct, frozen=True):
    """The same for every turn of this server."""

    config: Config
    db: Database
    event_log: EventLog
    pool: AgentPool
    queue: PromptQueue
    stages: tuple[Stage, ...]
    signals: Signals
    homes: Homes = field(default_factory=LocalHomes)


class OpenTurn(Protocol):
    """One turn, as those who do a part of its driver's work see it."""

    @property
    def state(self) -> State: ...
    @property
    def turn(self) -> Turn: ...
    @property
    def session(self) -> Session: ...
    @property
    def log(self) -> SessionLog: ...
    def feed(self, fact: Fact) -> None: ...
    def held(self, *, must_happen: bool) -> AbstractAsyncContextManager[Seq]: ...
    async def process(self) -> AgentProcess | None: ...
