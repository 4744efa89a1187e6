"""Waits for descriptors, signals and moments, in one thread: what a runner needs of an event loop."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterable

SIGNAL_BYTES = 4096


class Loop:
    """Calls a handler for each descriptor that is ready."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Again is fine: nothing changes then."""
        if fd not in self._handlers:
            self._handlers[fd] = handler
            self._poll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Before `fd` is closed. Again is fine."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def catch(self, signals: Iterable[signal.Signals], handler: Callable[[bytes], None]) -> None:
        """From now on `signals` are bytes on a pipe that is watched; the handler gets their numbers."""
        wake, wake_end = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for each in signals:
            signal.signal(each, lambda *_: None)
        self.watch(wake, lambda: handler(os.read(wake, SIGNAL_BYTES)))

    def turn(self, due_at: float) -> float:
        """Wait until something is ready, or `due_at` (monotonic; `math.inf`: never), and handle it; the time then."""
        timeout = None if due_at == math.inf else max(0.0, due_at - time.monotonic())
        for fd, _ in self._poll.poll(timeout):
            if handler := self._handlers.get(fd):
                handler()
        return time.monotonic()
