"""Which session a prompt is for, and with which options: found, made or refused before anything has happened."""

from __future__ import annotations

import contextlib

from msgspec.structs import replace

from agentsrv.agents import AgentRegistry
from agentsrv.config import Config
from agentsrv.errors import AgentsrvError, Conflict, InvalidInput, Unavailable
from agentsrv.eventlog import now_ms
from agentsrv.model import DEFAULT_MODEL, SETTING_SOURCES, Session, SessionId, TurnOptions
from agentsrv.store import sessions
from agentsrv.store.database import Database
from agentsrv.turns.requests import StartTurn
from agentsrv.workspace.finder import PathFinder


class Admission:
    """What is the session's, the server's and the prompt's own, put together."""

    def __init__(self, config: Config, db: Database, agents: AgentRegistry, paths: PathFinder) -> None:
        self._config = config
        self._db = db
        self._agents = agents
        self._paths = paths

    async def session_for(self, request: StartTurn) -> tuple[Session, bool]:
        """The session that the turn is for, and whether it has to be created."""
        session = await sessions.find(self._db, request.session_id)
        is_new = session is None
        if session is None:
            # It keeps the model once a turn has worked with it.
            session = await self.new_session(
                request.session_id, agent=request.agent, cwd=request.cwd, model=None
            )
        else:
            session = await self._checked(session, request)
        agent = self._agents.get(session.agent)
        await agent.check(self.options_in(session, self.in_mode(session, request).options))
        if agent.find() is None:
            problem = (await agent.describe()).problem
            raise Unavailable(
                f"agent {session.agent} is not on the server: {problem}", code="agent_unavailable"
            )
        return session, is_new

    def in_mode(self, session: Session, request: StartTurn) -> StartTurn:
        """The request, in the session's permission mode when it names none."""
        if request.is_mode_given or session.permission_mode is None:
            return request
        return replace(request, options=replace(request.options, permission_mode=session.permission_mode))

    async def directory(self, cwd: str | None) -> str:
        """Where a session may work, resolved. Raises InvalidInput, Forbidden."""
        return str(await self._paths.directory(cwd))

    def default_options(self, session: Session) -> TurnOptions:
        """Those of a prompt that says nothing."""
        mode = session.permission_mode or self._config.default_permission_mode
        return self.options_in(session, TurnOptions(permission_mode=mode))

    def options_in(self, session: Session, options: TurnOptions) -> TurnOptions:
        """What a prompt leaves open is the session's, or the server's."""
        sources = session.setting_sources
        if sources is None and self._config.trust_repositories:
            sources = SETTING_SOURCES
        model = options.model or session.model
        return replace(
            options,
            model=None if model == DEFAULT_MODEL else model,
            setting_sources=sources,
            effort=options.effort or session.effort,
            mcp_servers=session.mcp_servers if options.mcp_servers is None else options.mcp_servers,
        )

    async def usable(self, session: Session) -> Session:
        """The session with its directory resolved, if it is there: otherwise its agent cannot be started."""
        with contextlib.suppress(AgentsrvError):
            return replace(session, cwd=await self.directory(session.cwd or None))
        return session

    async def new_session(
        self,
        session_id: SessionId,
        *,
        agent: str | None,
        cwd: str | None,
        model: str | None,
        name: str | None = None,
        setting_sources: tuple[str, ...] | None = None,
    ) -> Session:
        """A session that is not stored yet. Raises InvalidInput, Forbidden."""
        kind = self._agents.get(agent or self._agents.names()[0])
        now = now_ms()
        return Session(
            id=session_id,
            name=name,
            agent=kind.name,
            cwd=await self.directory(cwd),
            model=model,
            internal_session_id=kind.new_internal_id(session_id),
            created_at=now,
            updated_at=now,
            setting_sources=setting_sources,
        )

    async def place_of(self, session: Session) -> str:
        """Where it works, resolved. Raises Forbidden, and InvalidInput that says how a session without goes on."""
        try:
            # Sessions of the earlier server may have none, or a relative one, and no conversation either.
            return await self.directory(session.cwd or None)
        except InvalidInput as exc:
            ways = f"tell with PUT /sessions/{session.id} in which cwd it goes on"
            if session.worktree is not None and await self._paths.is_gone(session.worktree):
                ways = f"send the prompt with use_worktree to make it again from its branch, or {ways}"
            reason = f"session {session.id} has no directory to work in: {exc.message}"
            raise InvalidInput(f"{reason}; {ways}", problems=exc.problems) from exc

    async def _place_for(self, session: Session, request: StartTurn) -> str:
        worktree = session.worktree if request.use_worktree else None
        if worktree is not None and await self._paths.is_gone(worktree):
            return session.cwd  # It is made again.
        return await self.place_of(session)

    async def _checked(self, session: Session, request: StartTurn) -> Session:
        """The stored session, if the request fits it. Raises Conflict, InvalidInput, Forbidden."""
        if request.agent is not None and request.agent != session.agent:
            self._agents.get(request.agent)
            raise Conflict(
                f"session {session.id} belongs to agent {session.agent}; use it, or another session",
                code="agent_mismatch",
            )
        # Also finds out, before the stream has begun, that the directory is gone.
        directory = await self._place_for(session, request)
        known = (directory, session.origin_cwd)
        if request.cwd is not None and await self.directory(request.cwd) not in known:
            raise Conflict(
                f"session {session.id} works in {session.cwd}; leave out cwd, or use another session",
                code="cwd_mismatch",
            )
        internal_id = session.internal_session_id or self._agents.get(session.agent).new_internal_id(
            session.id
        )
        return replace(session, cwd=directory, internal_session_id=internal_id)
