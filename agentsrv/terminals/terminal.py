"""One shell, its PTY and ring, and who looks at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator

from msgspec import Struct

from agentsrv.errors import LimitReached
from agentsrv.model import Millis, TerminalId
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.records import AgentExit
from agentsrv.terminals.pty import Pty
from agentsrv.terminals.replay import RESET, shown_again
from agentsrv.terminals.ring import Ring
from agentsrv.threads import Pool

CHUNK_BYTES = 64 * 1024
"""What a viewer is handed at once, at most."""
LAG_LIMIT_BYTES = 96 * 1024
"""When every viewer is so far behind, the terminal is not read. Well below what a ring keeps."""
MAX_VIEWERS = 32
END_GRACE_S = 2.0
ATTENTION_S = 1.0
FLOOD_BYTES = 16 * 1024
"""More than this at one wake-up is nothing that a person reads."""
REST_S = 0.002


class TerminalInfo(Struct, frozen=True):
    """What a terminal is from its beginning to its end; kept in its directory."""

    id: TerminalId
    deployment_id: str
    shell: str
    cwd: str
    created_at: Millis


class Attention:
    """Where somebody typed last. A flood in another terminal leaves the processors to it now and then.

    Otherwise the program that prints and the server that reads would use them up, and each step of an echo
    would wait for its turn.
    """

    def __init__(self) -> None:
        self._terminal: Terminal | None = None
        self._until = 0.0

    def attract(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._until = time.monotonic() + ATTENTION_S

    def is_elsewhere(self, terminal: Terminal) -> bool:
        return self._terminal is not terminal and time.monotonic() < self._until


class Terminal:
    """Reads the shell's output as fast as the fastest viewer takes it, or freely when nobody looks.

    It begins with its first viewer or with `begin`. `on_idle` is called when nobody has looked for `linger_s`,
    `on_end` once, when the shell and all that it started are gone.
    """

    def __init__(
        self,
        info: TerminalInfo,
        handle: RunnerHandle,
        ring: Ring,
        *,
        attention: Attention,
        folding: Pool,
        linger_s: float,
        on_idle: Callable[[Terminal], None],
        on_end: Callable[[Terminal], None],
    ) -> None:
        self.info = info
        self.handle = handle
        self.ring = ring
        self.pty = Pty(handle.take_pty(), ring, self._on_output)
        self.viewers: set[Viewer] = set()
        self.ended: AgentExit | None = None
        self.folding = folding
        self._attention = attention
        self._linger_s = linger_s
        self._on_idle = on_idle
        self._on_end = on_end
        self._idle_timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._size = self.pty.size

    @property
    def size(self) -> tuple[int, int]:
        """Columns, rows."""
        return self._size

    def begin(self) -> None:
        """Read from now on, and notice the end. Again is fine."""
        if not self._has_begun:
            self._has_begun = True
            self.pty.resume()
            self.handle.exited.add_done_callback(self._on_exit)
            self._await_viewers()

    def attach(self, *, may_write: bool) -> Viewer:
        """A new viewer; who gets it must close it. Raises LimitReached."""
        if len(self.viewers) >= MAX_VIEWERS:
            raise LimitReached(f"terminal {self.info.id} has {MAX_VIEWERS} sockets; close one of them")
        self.begin()
        self._stop_waiting()
        viewer = Viewer(self, may_write=may_write)
        self.viewers.add(viewer)
        return viewer

    async def end(self) -> None:
        """Hang up and send TERM to all that runs there, KILL after the grace; return when all are gone."""
        self.pty.drain()
        self.pty.close()
        await self.handle.kill(END_GRACE_S)

    def leave_running(self) -> None:
        """The server goes: give the terminal up to its runner. The viewers must be gone."""
        self._stop_waiting()
        self.pty.close()
        self.ring.close()
        self.handle.detach()

    # ---- for viewers

    def write(self, data: bytes) -> None:
        self._attention.attract(self)
        self.pty.write(data)

    def left(self, viewer: Viewer) -> None:
        self.viewers.discard(viewer)
        if self.ended is None:
            self.fit()
            self.progressed()
        if not self.viewers:
            self._await_viewers()

    def progressed(self) -> None:
        """A viewer has taken something: there may be a reason again to read."""
        if not self._is_ahead():
            self.pty.resume()

    def resize(self, cols: int, rows: int) -> None:
        """The windows of the viewers who cannot say it have this size."""
        for viewer in self.viewers:
            if viewer.is_mute:
                viewer.resize(cols, rows)

    def fit(self) -> bool:
        """Make the terminal as large as the smallest viewer who may write; was it another size?"""
        sizes = [viewer.size for viewer in self.viewers if viewer.size is not None]
        if not sizes or self.ended is not None:
            return False
        size = min(cols for cols, _ in sizes), min(rows for _, rows in sizes)
        is_new, self._size = size != self._size, size
        if is_new:
            self.pty.resize(*size)
        return is_new

    # ---- what happens

    def _on_output(self, size: int) -> None:
        for viewer in self.viewers:
            viewer.wake()
        if self._is_ahead():
            self.pty.pause()
        elif size > FLOOD_BYTES and self._attention.is_elsewhere(self):
            self.pty.rest(REST_S)

    def _is_ahead(self) -> bool:
        """Does every viewer lag too far behind? Who only watches holds up nobody."""
        lags = [self.ring.end - viewer.position for viewer in self.viewers if viewer.may_write]
        return bool(lags) and min(lags) > LAG_LIMIT_BYTES

    def _on_exit(self, exited: asyncio.Future[AgentExit]) -> None:
        self.pty.drain()
        self.pty.close()
        self.ended = exited.result()
        for viewer in self.viewers:
            viewer.wake()
        self._on_end(self)
        if not self.viewers:
            self._await_viewers()

    def _await_viewers(self) -> None:
        """Nobody looks: begin to count, or be done when the shell has ended."""
        self._stop_waiting()
        if self.ended is not None:
            self.ring.close()
        else:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._linger_s, self._on_idle, self)

    def _stop_waiting(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


class Viewer:
    """One socket's position in a terminal's output, and what it may do there.

    `position` is behind what has been sent. A viewer costs no buffer: it is served out of the ring. Who falls
    so far behind the others that the ring has moved on gets the screen anew, as if just come.
    """

    def __init__(self, terminal: Terminal, *, may_write: bool) -> None:
        self.terminal = terminal
        self.may_write = may_write
        self.size: tuple[int, int] | None = None
        self.is_mute = False
        """Can its socket not tell the size of its window?"""
        self.position = terminal.ring.end
        self._is_dismissed = False
        self._begins_with = terminal.ring.snapshot()
        self._is_shown = self._is_full_screen = self._is_same_size = False
        self._news = asyncio.Event()

    async def output(self) -> AsyncGenerator[bytes, None]:
        """What the terminal has shown, then what it shows, in chunks; to its end, or until dismissed.

        Asking for the next chunk says that the last one was sent.
        """
        ring = self.terminal.ring
        for chunk in cut(await self._show(self._begins_with)):
            yield chunk
        self._begins_with = b"", b""
        self._redraw(is_shown=True)
        while not self._is_dismissed:
            if self.position < ring.start:
                snapshot, self.position = ring.snapshot(), ring.end
                for chunk in cut(RESET + await self._show(snapshot)):
                    yield chunk
            elif self.position < ring.end:
                chunk = ring.read(self.position, CHUNK_BYTES)
                yield chunk
                self.position += len(chunk)
                self.terminal.progressed()
            elif self.terminal.ended is not None:
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def _show(self, snapshot: tuple[bytes, bytes]) -> bytes:
        """What a ring had, as it may be shown again. Hostile output takes a while: beside the loop."""
        replay, self._is_full_screen = await self.terminal.folding.run(shown_again, *snapshot)
        return replay

    def _redraw(self, *, is_shown: bool = False) -> None:
        """Have a full-screen program draw anew, once what there was is shown and the size is known to be as before."""
        self._is_shown |= is_shown
        if self._is_shown and self._is_same_size and self._is_full_screen:
            self._is_same_size = False
            self.terminal.pty.redraw()

    def wake(self) -> None:
        self._news.set()

    def dismiss(self) -> None:
        """End the output here and now; the ring has the rest, for who comes back."""
        self._is_dismissed = True
        self.wake()

    def write(self, data: bytes) -> None:
        """Type. Nothing happens to who only watches."""
        if self.may_write:
            self.terminal.write(data)

    async def wait_for_room(self) -> None:
        """Return when the program has taken so much of the input that more may be given."""
        await self.terminal.pty.wait_for_room()

    def resize(self, cols: int, rows: int) -> None:
        """This viewer's window has this size. A full-screen program shows itself anew to who has just come."""
        if not self.may_write or self.terminal.ended is not None:
            return
        is_first, self.size = self.size is None, (cols, rows)
        if not self.terminal.fit() and is_first:
            self._is_same_size = True
            self._redraw()

    async def end(self) -> None:
        """End the terminal for everybody. Nothing happens to who only watches."""
        if self.may_write:
            await self.terminal.end()

    def close(self) -> None:
        """Leave. Again is fine."""
        if self in self.terminal.viewers:
            self.terminal.left(self)


def cut(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
