"""What clients do with sessions themselves."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agentsrv.agents import AgentRegistry
from agentsrv.agents.contract import Agent
from agentsrv.errors import AgentsrvError, InvalidInput, NotFound
from agentsrv.eventlog import now_ms
from agentsrv.fleet.homes import session_elsewhere, session_key
from agentsrv.model import Fork, PermissionMode, Seq, Session, SessionId, Source, Turn, TurnOptions
from agentsrv.store import deletion, sessions, turns
from agentsrv.store.deletion import Remover
from agentsrv.tasks import Tasks
from agentsrv.threads import Threads
from agentsrv.turns.admission import Admission
from agentsrv.turns.cursor import decode_cursor, encode_cursor
from agentsrv.turns.means import Means
from agentsrv.turns.service import TurnService
from agentsrv.turns.signals import SessionChanged
from agentsrv.turns.snapshots import SnapshotStage
from agentsrv.turns.worktrees import SessionWorktrees

KEPT_OPTIONS = ("permission_mode", "effort", "mcp_servers", "setting_sources")
"""Of a session, for the prompts that do not say."""

PointOf = Callable[[bytes], tuple[str, str] | None]


class SessionService:
    def __init__(
        self,
        means: Means,
        agents: AgentRegistry,
        admission: Admission,
        turns: TurnService,
        worktrees: SessionWorktrees,
        threads: Threads,
        remover: Remover,
        snapshots: SnapshotStage,
    ) -> None:
        self._threads = threads
        self._db = means.db
        self._log = means.event_log
        self._agents = agents
        self._pool = means.pool
        self._admission = admission
        self._turns = turns
        self._warms_all = means.config.warm_sessions
        self._worktrees = worktrees
        self._remover = remover
        self._snapshots = snapshots
        self._signals = means.signals
        self._homes = means.homes
        self._tasks = Tasks("sessions")

    async def close(self) -> None:
        """A deletion that is not decided is not done. Closing twice is fine."""
        await self._tasks.close()

    async def create(
        self,
        *,
        session_id: str | None,
        agent: str | None,
        cwd: str | None,
        model: str | None,
        name: str | None,
        setting_sources: tuple[str, ...] | None = None,
        is_warm: bool | None = None,
        **own: Any,
    ) -> Session:
        """`is_warm`: its agent is started ahead; None: as the server does. `own`: its permission mode, effort, MCP
        servers, tags and metadata. Raises InvalidInput, Forbidden, Conflict (`session_exists`).
        """
        session = await self._admission.new_session(
            SessionId(session_id or str(uuid.uuid4())),
            agent=agent,
            cwd=cwd,
            model=self._agents.chosen_model(model),
            name=name,
            setting_sources=setting_sources,
        )
        session = replace(session, **own)
        await self._check(session, {"setting_sources": setting_sources, **own})
        await self._insert(session, is_named=session_id is not None)
        self._tell_changed(session.id)
        if self._warms_all if is_warm is None else is_warm:
            await self._warm_up(session)
        return session

    async def _warm_up(self, session: Session) -> None:
        """Unless its agent would refuse a prompt that says nothing: what it must not do then it must not do ahead."""
        options = self._admission.default_options(session)
        with suppress(InvalidInput):
            await self._agents.get(session.agent).check(options)
            self._pool.warm_up(session, options)

    async def fork(self, source_id: SessionId, *, session_id: str | None, **changes: str | None) -> Session:
        """A new session in the same place, whose agent knows what the source's knew after its last turn.

        A turn that runs is not part of it; what happens in the source from now on neither. It has the source's
        `model` and no `name`, unless `changes` holds others. Raises NotFound (`session_not_found`), Conflict
        (`session_exists`, `conversation_lost`), StorageFull, and InvalidInput when its directory is gone.
        """
        source = await self.get(source_id)
        await self._admission.place_of(source)  # A fork that cannot work would be of no use.
        new_id = SessionId(session_id or str(uuid.uuid4()))
        if await sessions.find(self._db, new_id) is not None:
            raise sessions.exists(new_id)
        kind = self._agents.get(source.agent)
        if (fork := await self._point_of(source)) is not None:
            conversation = await self._threads.state.run(kind.copy_conversation, fork, source.cwd)
        else:
            conversation = kind.new_internal_id(new_id)
        now = now_ms()
        session = replace(
            source,
            id=new_id,
            name=changes.get("name"),
            model=self._agents.chosen_model(changes.get("model", source.model)),
            internal_session_id=conversation,
            created_at=now,
            updated_at=now,
            generation=0,
            active_turn_id=None,
            fork=fork,
            allowances=(),
        )
        try:
            await self._insert(session, is_named=session_id is not None)
        except AgentsrvError:
            if fork is not None:
                await self._threads.files.run(_remove_copy, kind, session)
            raise
        self._tell_changed(session.id)
        return session

    async def _insert(self, session: Session, *, is_named: bool) -> None:
        """Store it, once no other server can have it. An id that we have made is nobody else's."""
        await (self._homes.claim if is_named else self._homes.announce)(session.id)
        try:
            await self._db.write(lambda db: sessions.insert(db, session))
        except AgentsrvError:
            if await sessions.find(self._db, session.id) is None:
                await self._homes.release(session.id)
            raise

    async def get(self, session_id: SessionId) -> Session:
        """Raises NotFound (`session_not_found`)."""
        await self._turns.settled(session_id)
        session = await sessions.find(self._db, session_id)
        if session is None:
            raise sessions.not_found(session_id)
        return session

    async def has(self, session_id: SessionId) -> bool:
        """Is it stored, or about to be?"""
        return self._turns.is_active(session_id) or await sessions.find(self._db, session_id) is not None

    async def require_not_elsewhere(self, session_id: SessionId) -> None:
        """Raises Conflict (`session_elsewhere`) for what is at home on another server of the fleet; Unavailable."""
        if not await self.has(session_id):
            home = await self._homes.find(session_key(session_id))
            if home not in (None, self._homes.name):
                raise session_elsewhere(session_id, home)

    async def list_sessions(
        self,
        *,
        limit: int,
        cursor: str | None,
        agent: str | None,
        cwd: str | None = None,
        archived: bool | None = None,
        with_labels: Sequence[str] = (),
    ) -> tuple[list[Session], str | None]:
        """A page, newest first, and the cursor of the next one. Raises InvalidInput for a bad cursor or agent."""
        if agent is not None:
            self._agents.get(agent)
        found = await sessions.page(
            self._db,
            agent=agent,
            cwd=cwd,
            archived=archived,
            with_labels=with_labels,
            before=decode_cursor(cursor),
            limit=limit + 1,
        )
        page = found[:limit]
        more = len(found) > limit
        return page, encode_cursor(page[-1].created_at, page[-1].id) if more else None

    async def update(self, session_id: SessionId, **changes: Any) -> Session:
        """Set those that are given: `archived`, and what Session has under these names.

        The mode is at once that of the turn that runs. A session is moved to another directory while it is idle.
        Raises NotFound, InvalidInput, Forbidden, Conflict (`mode_is_fixed`, `session_busy`).
        """
        if (cwd := changes.pop("cwd", None)) is not None:
            await self._move(session_id, cwd)
        await self._check(await self.get(session_id), changes)
        if (mode := changes.get("permission_mode")) is not None:
            self._turns.change_mode(session_id, mode)
        if "model" in changes:
            changes["model"] = self._agents.chosen_model(changes["model"])
        await self._db.write(lambda db: sessions.update(db, session_id, changes, now_ms()))
        self._tell_changed(session_id)
        return await self.get(session_id)

    async def _check(self, session: Session, changes: Mapping[str, Any]) -> None:
        """Can the agent do what its prompts are to ask for, with all else as it is? Raises InvalidInput."""
        wanted = {name: changes[name] for name in KEPT_OPTIONS if name in changes}
        if any(value is not None for value in wanted.values()):
            changed = replace(session, **wanted)
            options = TurnOptions(permission_mode=changed.permission_mode or PermissionMode.BYPASS)
            await self._agents.get(session.agent).check(self._admission.options_in(changed, options))

    async def _move(self, session_id: SessionId, cwd: str) -> None:
        session = await self.get(session_id)
        directory = await self._admission.directory(cwd)
        if self._turns.is_active(session_id):
            raise sessions.busy(session_id, session.active_turn_id or "unknown")
        leaves = session.worktree is None or not Path(directory).is_relative_to(session.worktree)
        write = partial(
            sessions.place, session_id=session_id, cwd=directory, now=now_ms(), leaves_worktree=leaves
        )
        await self._db.write(write)
        self._pool.renew(session_id)

    async def disallow(self, session_id: SessionId, allowance: str | None) -> Session:
        """Ask again for what was allowed for the session: for this, or for everything. Raises NotFound."""
        await self.get(session_id)
        await self._db.write(lambda db: sessions.remove_allowances(db, session_id, allowance))
        session = await self.get(session_id)
        self._turns.allow_only(session_id, session.allowances)
        # Its process may remember by itself.
        self._pool.renew(session_id)
        return session

    async def delete(self, session_id: SessionId, *, force: bool, with_worktree: bool = False) -> None:
        """Delete the session with all its turns and events. A running turn is stopped first when `force`.

        It takes no prompts from the first moment on. Its worktree stays, or goes first: with `force` whatever is
        lost with it. Raises NotFound, Conflict (`session_busy`, `session_deleting`, `worktree_has_changes`,
        `worktree_in_use`), StorageFull; then the session is there as before.
        """
        await self._turns.settled(session_id)
        # A task of its own: a client that leaves must not leave a session half deleted.
        deleting = self._tasks.start(
            self._delete(session_id, force=force, with_worktree=with_worktree), name=f"delete:{session_id}"
        )
        if (failure := await asyncio.shield(deleting)) is not None:
            raise failure

    async def _delete(
        self, session_id: SessionId, *, force: bool, with_worktree: bool
    ) -> AgentsrvError | None:
        try:
            await self._db.write(lambda db: deletion.begin(db, session_id, force=force))
        except AgentsrvError as exc:
            return exc
        over = self._turns.deletions[session_id] = asyncio.Event()
        try:
            return await self._carry_out(session_id, force=force, with_worktree=with_worktree)
        finally:
            del self._turns.deletions[session_id]
            over.set()

    async def _carry_out(
        self, session_id: SessionId, *, force: bool, with_worktree: bool
    ) -> AgentsrvError | None:
        """Delete a session that takes no prompts any more; or let it live on, when that cannot be."""
        try:
            session = await self.get(session_id)
            await self._end_work(session_id, force=force, with_worktree=with_worktree)
        except Exception as exc:
            await self._db.write(lambda db: deletion.give_up(db, session_id), must_happen=True)
            if not isinstance(exc, AgentsrvError):
                raise
            return exc
        await self._db.write(lambda db: deletion.decide(db, session_id), must_happen=True)
        await self._homes.release(session_id)
        self._turns.queue.forget(session_id)
        self._log.forget(session_id)
        self._tell_changed(session_id)
        await self._snapshots.forget(session)
        await self._remover.remove(session_id)
        return None

    async def _end_work(self, session_id: SessionId, *, force: bool, with_worktree: bool) -> None:
        """End what waits, runs or lives in a session that takes no prompts any more."""
        await self._turns.queue.clear(session_id)
        await self._stop(session_id)
        await self._pool.warmed(session_id)
        if (warm := self._pool.of(session_id)) is not None:
            await self._pool.retire(warm, "stopped")
        if with_worktree:
            await self._worktrees.remove_of(await self.get(session_id), force=force)

    def _tell_changed(self, session_id: SessionId) -> None:
        self._signals.session_changed.send(SessionChanged(session_id))

    async def last_seq(self, session_id: SessionId) -> Seq:
        """The newest seq of the session; 0 when its log is empty."""
        return (await self._log.session(session_id)).last_seq

    async def _point_of(self, source: Session) -> Fork | None:
        """What a fork of `source` goes on from; None when there is no conversation yet."""
        point_of = self._agents.get(source.agent).point_of
        newest = before = None
        while (turn := await turns.last_ended(self._db, source.id, before)) is not None:
            newest = newest or turn.last_seq
            before = turn.first_seq
            if (found := await self._last_point(turn, point_of)) is not None:
                conversation, point = found
                is_same = conversation == source.internal_session_id
                # Another one: the conversation was cleared, and nothing has been said since.
                return Fork(source.id, newest or 0, conversation, point) if is_same else None
        # A fork that has not been used is forked where it was itself.
        return source.fork and replace(source.fork, session_id=source.id, seq=newest or 0)

    async def _last_point(self, turn: Turn, point_of: PointOf) -> tuple[str, str] | None:
        found = None
        async for chunk in self._log.follow(turn.session_id, turn.first_seq - 1, lambda: turn.last_seq):
            if chunk.source is Source.AGENT:
                for line in chunk.lines():
                    found = point_of(line) or found
        return found

    async def _stop(self, session_id: SessionId) -> None:
        try:
            await self._turns.stop(session_id)
        except NotFound:
            # It ended by itself in this very moment.
            return


def _remove_copy(agent: Agent, session: Session) -> None:
    if (transcript := agent.transcript_of(session)) is not None:
        transcript.unlink(missing_ok=True)
