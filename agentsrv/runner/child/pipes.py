"""The pipes of an agent: messages go into its stdin, and the end of its stderr is kept."""

from __future__ import annotations

import os
import select
from collections import deque

from agentsrv.runner.child.frames import ID_LENGTH, REPLY
from agentsrv.runner.child.loop import Loop

STDERR_KEPT_BYTES = 16 * 1024
PIPE_BYTES = 64 * 1024
LAST_READS = 16
"""Reads of stderr after the end: a whole pipe, even an enlarged one; not more, a survivor may write on."""
IDS_KEPT = 128 * 1024
REPLY_IDS_KEPT = 16 * 1024


class TakenIds:
    """Which messages were taken. Of each id eight bytes: chance does not make two of them the same.

    Those of replies have a room of their own. There is one for nearly every line of some agents, and they are sent
    again only for lines that the server had not noted; a prompt's id must not be forgotten over them.
    """

    def __init__(self) -> None:
        self._replies: dict[int, None] = {}
        self._others: dict[int, None] = {}

    def take(self, message_id: bytes) -> bool:
        """True the first time."""
        is_reply = message_id.startswith(REPLY)
        taken, kept = (self._replies, REPLY_IDS_KEPT) if is_reply else (self._others, IDS_KEPT)
        key = hash(message_id)
        if key in taken:
            return False
        taken[key] = None
        if len(taken) > kept:
            del taken[next(iter(taken))]
        return True


class Stdin:
    """Writes as much as the agent takes, and waits for room only while something is left. Never blocks."""

    def __init__(self, loop: Loop) -> None:
        self.agents_end, self._fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._loop = loop
        self._waiting: deque[memoryview] = deque()
        self._taken = TakenIds()

    def take(self, message: bytes) -> None:
        """Queue the body of a MESSAGE, unless its id was taken before, or the agent has closed its stdin."""
        start = ID_LENGTH.size + ID_LENGTH.unpack_from(message)[0]
        if self._fd >= 0 and self._taken.take(message[ID_LENGTH.size : start]):
            self.write(memoryview(message)[start:])

    def write(self, data: memoryview) -> None:
        self._waiting.append(data)
        self._write_on()

    def _write_on(self) -> None:
        try:
            while self._waiting:
                written = os.write(self._fd, self._waiting[0])
                self._waiting[0] = self._waiting[0][written:]
                if not self._waiting[0]:
                    self._waiting.popleft()
        except BlockingIOError:
            self._loop.watch(self._fd, self._write_on, select.EPOLLOUT)
            return
        except OSError:  # The agent has closed its stdin.
            self._waiting.clear()
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
        else:
            self._loop.forget(self._fd)


class Stderr:
    """Drains it, so that it never stops the agent."""

    def __init__(self, loop: Loop) -> None:
        self._fd, self.agents_end = os.pipe()
        os.set_blocking(self._fd, False)
        self._loop = loop
        self.tail = b""
        """The last STDERR_KEPT_BYTES of it."""

    def watch(self) -> None:
        self._loop.watch(self._fd, self._read)

    def drain(self) -> None:
        """Read what the dead have left."""
        for _ in range(LAST_READS):
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, PIPE_BYTES)
        except BlockingIOError:
            return
        if data:
            self.tail = (self.tail + data)[-STDERR_KEPT_BYTES:]
        else:
            self._loop.forget(self._fd)
