"""What agents have left running beside their conversations: listed, and ended one by one."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from agentsrv.agents.contract import BackgroundTask
from agentsrv.errors import Conflict, NotFound
from agentsrv.model import SessionId
from agentsrv.store import sessions
from agentsrv.turns.means import Means
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.recovery import Recovery

LOOK_AGAIN_S = 0.05
LOOKS = 200


class Background:
    def __init__(self, means: Means, recovery: Recovery) -> None:
        self._db = means.db
        self._pool = means.pool
        self._recovery = recovery

    async def of(self, session_id: SessionId) -> list[BackgroundTask]:
        """What runs in a session besides its conversation. Raises NotFound (`session_not_found`)."""
        process = await self._process(session_id)
        return [] if process is None else process.adapter.background()

    async def end(self, session_id: SessionId, task_id: str) -> list[BackgroundTask]:
        """End one; returns what is left once it is gone, or after a while.

        Raises NotFound (`session_not_found`, `background_not_found`), Conflict (`background_is_fixed`) when the agent
        cannot end it alone.
        """
        process = await self._process(session_id)
        if process is None or not _has(process, task_id):
            raise NotFound(
                f"nothing runs in the background of session {session_id} as {task_id}",
                code="background_not_found",
            )
        if (data := process.adapter.end_background(task_id)) is None:
            raise Conflict(
                f"the agent cannot end {task_id} alone; `stop` ends all that runs in the session",
                code="background_is_fixed",
            )
        process.runner.send(f"end-{uuid4()}", data)
        for _look in range(LOOKS):
            if process.exit is not None or not _has(process, task_id):
                break
            await asyncio.sleep(LOOK_AGAIN_S)
        return process.adapter.background()

    async def _process(self, session_id: SessionId) -> AgentProcess | None:
        await self._recovery.settled(session_id)
        if await sessions.find(self._db, session_id) is None:
            raise sessions.not_found(session_id)
        return self._pool.of(session_id)


def _has(process: AgentProcess, task_id: str) -> bool:
    return any(task.id == task_id for task in process.adapter.background())
