"""What is done around a turn besides running it. Each kind is a stage; a turn goes through all of them."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from agentsrv.fleet.homes import Homes
from agentsrv.model import Session, Turn
from agentsrv.store import sessions
from agentsrv.store.database import Database
from agentsrv.turns.requests import IfLost
from agentsrv.turns.setup import NO_WISH, WorktreeSetup, WorktreeWish
from agentsrv.turns.worktrees import SessionWorktrees


class Plan(Struct, frozen=True):
    """A turn that is about to be opened.

    prompt: the user event; None when the agent has begun to work by itself.
    events: what the log is to say behind the prompt.
    """

    session: Session
    turn: Turn
    prompt: bytes | None
    events: tuple[bytes, ...] = ()
    is_new_session: bool = False
    was_queued: bool = False
    needs_worktree: bool = False
    worktree: WorktreeWish = NO_WISH
    if_lost: IfLost = IfLost.REJECT


class Stage:
    """A kind does what it needs to, and leaves out the rest."""

    async def prepare(self, plan: Plan) -> Plan:
        """Before its agent is started and the turn opened; the plan may be changed.

        What is raised a client is told; then the stages before it are undone, the last one first.
        """
        return plan

    async def make_ready(self, plan: Plan) -> None:
        """While its agent starts, which gets the prompt afterwards. What is raised a client is told, too."""

    async def finish(self, session: Session, turn: Turn) -> None:
        """The agent has done with the turn; its end is not in the log yet. A failure does not keep it out."""

    async def undo(self, plan: Plan) -> None:
        """The turn does not take place: leave everything as it was before."""


class HomeStage(Stage):
    """Makes this server the home of a session before its first turn: it stays there for ever."""

    def __init__(self, homes: Homes, db: Database) -> None:
        self._homes = homes
        self._db = db

    async def prepare(self, plan: Plan) -> Plan:
        if plan.is_new_session:
            await self._homes.claim(plan.session.id)
        return plan

    async def undo(self, plan: Plan) -> None:
        if plan.is_new_session and await sessions.find(self._db, plan.session.id) is None:
            await self._homes.release(plan.session.id)


class WorktreeStage(Stage):
    """Gives a session its git worktree before its first turn; it stays until its user says so."""

    def __init__(self, worktrees: SessionWorktrees, setup: WorktreeSetup) -> None:
        self._worktrees = worktrees
        self._setup = setup

    async def prepare(self, plan: Plan) -> Plan:
        if not plan.needs_worktree:
            return plan
        session, event = await self._worktrees.make(plan.session, plan.worktree, is_new=plan.is_new_session)
        plan = replace(plan, session=session, events=(*plan.events, event))
        try:
            events = await self._setup.run(session.cwd, plan.worktree)
        except BaseException:
            await self._worktrees.take_back(session)
            raise
        return replace(plan, events=(*plan.events, *events))

    async def undo(self, plan: Plan) -> None:
        if plan.needs_worktree and plan.session.worktree is not None:
            await self._worktrees.undo(plan.session)
