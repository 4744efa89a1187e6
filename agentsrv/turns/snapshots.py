"""What the files of a session's repository were when each of its turns began and ended, so that a diff can tell.

Taken in another process (`workspace/git/snapshot_writer.py`). A turn never fails for the want of one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from agentsrv.errors import AgentsrvError, NotFound
from agentsrv.model import Session, Turn
from agentsrv.turns.stages import Plan, Stage
from agentsrv.workspace.finder import PathFinder
from agentsrv.workspace.git.protocol import DropSnapshots, Request, TakeSnapshot
from agentsrv.workspace.git.workers import GitWorkers

log = logging.getLogger(__name__)

TIMEOUT_S = 6.0
"""A prompt waits no longer for its snapshot, and an end no longer for its own."""


class SnapshotStage(Stage):
    """The first one is taken while the agent starts. `writers` is None where no snapshots are wanted."""

    def __init__(self, paths: PathFinder, writers: GitWorkers | None) -> None:
        self._paths = paths
        self._writers = writers

    async def make_ready(self, plan: Plan) -> None:
        if plan.prompt is not None:
            await self._take(plan.session, plan.turn, "start")

    async def finish(self, session: Session, turn: Turn) -> None:
        await self._take(session, turn, "end")

    async def undo(self, plan: Plan) -> None:
        await self._ask(
            plan.session.cwd,
            DropSnapshots(path=plan.session.cwd, session_id=plan.session.id, turn_id=plan.turn.id),
        )

    async def forget(self, session: Session) -> None:
        """Those of a session that is deleted; its worktree may be gone already."""
        for path in filter(None, dict.fromkeys((session.origin_cwd, session.cwd))):
            await self._ask(path, DropSnapshots(path=path, session_id=session.id))

    async def _take(self, session: Session, turn: Turn, moment: Literal["start", "end"]) -> None:
        request = TakeSnapshot(path=session.cwd, session_id=session.id, turn_id=turn.id, moment=moment)
        await self._ask(session.cwd, request)

    async def _ask(self, directory: str, request: Request) -> None:
        try:
            # Most directories are in no repository, which costs nothing to see.
            if self._writers is not None and await self._paths.is_below_git(directory):
                async with asyncio.timeout(TIMEOUT_S):
                    await self._writers.ask(request)
        except NotFound:
            return
        except TimeoutError:
            log.warning("no snapshot of %s: it took more than %g s", directory, TIMEOUT_S)
        except AgentsrvError as exc:
            log.warning("no snapshot of %s: %s", directory, exc)
