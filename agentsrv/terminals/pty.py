"""The server's end of a pseudo-terminal, on the event loop: non-blocking both ways, without a task or thread."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable

from agentsrv.terminals.ring import Ring

READ_BYTES = 4096
"""The kernel hands out no more of a PTY at once."""
DRAIN_BYTES = 64 * 1024
"""Read at one wake-up at most: then others have their turn. No more than a viewer takes at once."""
INPUT_LIMIT_BYTES = 64 * 1024
"""So much input may wait for a program that does not read, before its senders have to wait, too."""
LAST_READS = 3
"""Each of DRAIN_BYTES. More than the kernel keeps; not without end, a survivor may write on."""
LOOK_AGAIN_S = 0.2
NUDGE_S = 0.2
"""Long enough for a program to look at the size in between."""

SIZE = struct.Struct("4H")


class Pty:
    """Reads the output into `ring` and tells `on_output` how much it was; writes input as far as it is taken."""

    def __init__(self, master: int, ring: Ring, on_output: Callable[[int], None]) -> None:
        self._master = master
        self._ring = ring
        self._on_output = on_output
        self._loop = asyncio.get_running_loop()
        self._input = bytearray()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_reading = False
        self._rest: asyncio.TimerHandle | None = None
        self._nudge: asyncio.TimerHandle | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Columns, rows."""
        rows, cols, _, _ = SIZE.unpack(fcntl.ioctl(self._master, termios.TIOCGWINSZ, bytes(SIZE.size)))
        return cols, rows

    def resize(self, cols: int, rows: int) -> None:
        """The kernel tells the program (SIGWINCH) when this changes anything."""
        if self._nudge is not None:
            self._nudge.cancel()
            self._nudge = None
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, SIZE.pack(rows, cols, 0, 0))

    def redraw(self) -> None:
        """Have the program in the foreground draw its screen again: one row less, and after a moment back.

        Many do nothing when they are told of a size that they have.
        """
        cols, rows = self.size
        if self._nudge is None and rows > 1:
            self.resize(cols, rows - 1)
            self._nudge = self._loop.call_later(NUDGE_S, self._end_nudge)

    def _end_nudge(self) -> None:
        cols, rows = self.size
        self._nudge = None
        self.resize(cols, rows + 1)

    # ---- output

    def resume(self) -> None:
        """Read. Doing so already is fine; a rest comes first."""
        if self._master >= 0 and not self._is_reading and self._rest is None:
            self._is_reading = True
            self._loop.add_reader(self._master, self._on_readable)

    def pause(self) -> None:
        """Do not read: when the kernel's buffer is full, the program has to wait."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._master)

    def rest(self, seconds: float) -> None:
        """Do not read for so long, whatever `resume` is asked for meanwhile."""
        self.pause()
        if self._rest is None:
            self._rest = self._loop.call_later(seconds, self._end_rest)

    def drain(self) -> None:
        """Take what the kernel still has of a dead program's output."""
        for _ in range(LAST_READS):
            if self._master < 0 or not self._read():
                return

    def _on_readable(self) -> None:
        if size := self._read():
            self._on_output(size)

    def _read(self) -> int:
        """Read what is there, up to DRAIN_BYTES; how much it was."""
        begin = self._ring.end
        try:
            while self._ring.end - begin <= DRAIN_BYTES - READ_BYTES:
                self._ring.advance(os.readv(self._master, [self._ring.room(READ_BYTES)]))
        except BlockingIOError:
            pass
        except OSError as exc:
            # EIO: no process has the terminal open. The end, as a rule, but one may open /dev/tty again.
            if exc.errno != errno.EIO:
                raise
            self.rest(LOOK_AGAIN_S)
        self._ring.keep()
        return self._ring.end - begin

    def _end_rest(self) -> None:
        self._rest = None
        self.resume()

    # ---- input

    def write(self, data: bytes) -> None:
        """Give `data` to the program, behind what waits already; never blocks. See `wait_for_room`."""
        if self._master < 0:
            return
        if not self._input:
            data = data[self._write(data) :]
        if data:
            self._input += data
            self._loop.add_writer(self._master, self._on_writable)
            if len(self._input) > INPUT_LIMIT_BYTES:
                self._has_room.clear()

    async def wait_for_room(self) -> None:
        """Return when less than INPUT_LIMIT_BYTES waits, or nothing will be taken any more."""
        await self._has_room.wait()

    def _on_writable(self) -> None:
        del self._input[: self._write(self._input)]
        if not self._input:
            self._loop.remove_writer(self._master)
        if len(self._input) <= INPUT_LIMIT_BYTES:
            self._has_room.set()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._master, data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # Nobody is there to read it: the shell's exit is the news.

    def close(self) -> None:
        """Give up the master. Closing twice is fine."""
        if self._master < 0:
            return
        self.pause()
        if self._rest is not None:
            self._rest.cancel()
        if self._nudge is not None:
            self._end_nudge()
        self._loop.remove_writer(self._master)
        os.close(self._master)
        self._master = -1
        self._has_room.set()
