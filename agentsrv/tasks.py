"""The only place that starts asyncio tasks: each has a name and an owner, and none fails unheard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

CANCEL_AGAIN_S = 3.0
"""A task may miss that it is cancelled, in `asyncio.wait_for` of Python 3.11, which libraries use. Longer than anybody
needs to clear up.
"""


class Vitals:
    """Knows whether all that the server cannot do without still runs; `on_failure` is called when it does not."""

    def __init__(
        self,
        on_failure: Callable[[], None] = lambda: None,
        on_superseded: Callable[[], None] = lambda: None,
    ) -> None:
        self.failed: str | None = None
        """The task that has failed first."""
        self._on_failure = on_failure
        self._on_superseded = on_superseded

    def fail(self, name: str) -> None:
        log.critical("the server cannot go on without task %s", name)
        if self.failed is None:
            self.failed = name
            self._on_failure()

    def supersede(self, reason: str) -> None:
        """Another server has taken this one's place: it must end at once, and write nothing any more."""
        log.critical("the server is superseded: %s", reason)
        self._on_superseded()
        self.fail("superseded")


class Tasks:
    """The tasks of one owner. A failure is logged with its traceback; `close` cancels and awaits the rest."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    def start(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._owner}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def spawn(self, coro: Coroutine[Any, Any, Any], *, name: str) -> None:
        """Start a task that nobody waits for."""
        self.start(coro, name=name)  # type: ignore[unused-awaitable]  # its owner is this object

    def spawn_vital(self, coro: Coroutine[Any, Any, Any], vitals: Vitals, *, name: str) -> None:
        """Start a task that may return, but must not fail, nor be cancelled by anything but `close`."""

        def ended(task: asyncio.Task[Any]) -> None:
            if not self._is_closing and (task.cancelled() or task.exception() is not None):
                vitals.fail(task.get_name())

        self.start(coro, name=name).add_done_callback(ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)

    async def join(self, timeout_s: float) -> bool:
        """Wait until every task has ended; False when some still run after `timeout_s`."""
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not pending

    async def close(self) -> None:
        """Cancel what still runs and wait for it. Closing twice is fine."""
        self._is_closing = True
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
