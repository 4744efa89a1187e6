"""Notices clients that are gone, or take nothing."""

from __future__ import annotations

import asyncio

from aiohttp import web

from agentsrv.api.frames import PING
from agentsrv.api.keys import CONFIG


class Heartbeat:
    """Cuts off a client that takes nothing of what waits for it, or is silent and does not answer a ping.

    One timer for a socket; a time-out for each message would cost as much as the message.
    """

    def __init__(self, request: web.Request) -> None:
        config = request.app[CONFIG]
        self._request = request
        self._silence_s = config.keepalive_s
        self._patience_s = config.stall_timeout_s
        self._step_s = min(self._silence_s, self._patience_s) / 3
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._progress_at = self._loop.time()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def heard(self) -> None:
        self._heard_at = self._loop.time()

    def __enter__(self) -> None:
        self._beat()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return
        now = self._loop.time()
        waiting = transport.get_write_buffer_size()
        if not waiting or waiting != self._waiting_bytes:
            self._waiting_bytes, self._progress_at = waiting, now
        silent_s = now - self._heard_at
        if max(now - self._progress_at, silent_s - self._silence_s) >= self._patience_s:
            transport.abort()
            return
        if silent_s >= self._silence_s and not waiting:
            # A whole frame, as aiohttp's writer writes only whole ones. A timer cannot await its `ping`.
            transport.write(PING)
        self._timer = self._loop.call_later(self._step_s, self._beat)
