"""A shell of a server, shown in the terminal that this is started from."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType

from agentsrv.client import AgentsrvError, APIStatusError, AsyncAgentsrv
from agentsrv.tasks import Tasks

KEYBOARD, SCREEN = 0, 1
READ_BYTES = 4096
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Between attempts to come back; the last one again and again."""
FINAL = frozenset({400, 401, 403, 404})
"""Statuses that will not change by asking again."""

SWITCHED_OFF = (1, 5, 6, 9, 45, 66, 69, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004)
"""Private modes that programs switch on: keys, reverse, origin, margins, mouse, focus, bracketed paste."""
NO_KEYBOARD = b"\x1b[<99u\x1b[>4m"
"""Kitty's protocol, of which each screen has its own, and xterm's."""

LEAVE = (
    NO_KEYBOARD
    + b"\x1b[?47l\x1b[?1047l\x1b[?1049l\x1b[!p"
    + NO_KEYBOARD
    + b"".join(b"\x1b[?%dl" % mode for mode in SWITCHED_OFF)
    + b"\x1b[?7h\x1b[?25h\x1b[4l\x1b[20l\x1b>\x1b(B\x0f\x1b[0 q\x1b[0m"
    + b"\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\\x1b]8;;\x1b\\"
)
"""Switches off what the programs over there may have switched on here, colours and a link that is open too."""

CLEAR = LEAVE + b"\x1b[H\x1b[2J"
"""Before the server shows the screen anew: what is on it may be from before the connection was lost."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which shell, and where a new one begins."""

    terminal_id: str
    cwd: str | None = None
    is_read_only: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """Why it is over: the exit code for our own process, and what to say."""

    code: int
    message: str


async def show_shell(client: AsyncAgentsrv, target: Target, *, detach_key: int) -> Left:
    """Show `target` until its shell ends, or the key with this code is typed. Needs a terminal on stdin.

    Raises what the server says against it, in a terminal as it was.
    """
    with raw_mode():
        left = await Attachment(client, target, detach_key).run()
        write_all(LEAVE + b"\r\n")
    if isinstance(left, AgentsrvError):
        raise left
    return left


@contextmanager
def raw_mode() -> Iterator[None]:
    """Every key reaches us, Ctrl-C too, and nothing is echoed; as before at the end, whatever happens."""
    before = termios.tcgetattr(KEYBOARD)
    tty.setraw(KEYBOARD)
    try:
        yield
    finally:
        termios.tcsetattr(KEYBOARD, termios.TCSADRAIN, before)


class Attachment:
    """Reads the keyboard all the time, and shows the terminal over one connection after another."""

    def __init__(self, client: AsyncAgentsrv, target: Target, detach_key: int) -> None:
        self._client = client
        self._target = target
        self._detach_key = detach_key
        self._ws: ClientWebSocketResponse | None = None
        self._has_resized = asyncio.Event()
        self._tasks = Tasks("attach")

    async def run(self) -> Left | AgentsrvError:
        loop = asyncio.get_running_loop()
        leave = asyncio.Event()
        loop.add_signal_handler(signal.SIGWINCH, self._has_resized.set)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, leave.set)
        try:
            ends = [
                self._tasks.start(self._type(), name="keyboard"),
                self._tasks.start(self._show(), name="screen"),
                self._tasks.start(self._leave_on(leave), name="signals"),
            ]
            self._tasks.spawn(self._follow_size(), name="size")
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            await self._tasks.close()

    # ---- keyboard and window

    async def _type(self) -> Left:
        """Send what is typed; without a connection it is dropped, but for the key that leaves."""
        while True:
            typed = await read_keyboard()
            before, key, _ = typed.partition(bytes([self._detach_key]))
            if before and self._ws is not None:
                await self._send(before)
            if key or not typed:
                return self._detached()

    async def _leave_on(self, leave: asyncio.Event) -> Left:
        await leave.wait()
        return self._detached()

    def _detached(self) -> Left:
        return Left(0, f"detached; come back with: agentsrv attach --terminal {self._target.terminal_id}")

    async def _follow_size(self) -> None:
        while True:
            await self._has_resized.wait()
            self._has_resized.clear()
            cols, rows = window_size()
            await self._send(json.dumps({"type": "resize", "cols": cols, "rows": rows}))

    async def _send(self, what: bytes | str) -> None:
        if self._ws is None:
            return
        try:
            await (self._ws.send_bytes(what) if isinstance(what, bytes) else self._ws.send_str(what))
        except ConnectionError:
            self._ws = None  # The screen notices, too, and comes back.

    # ---- screen

    async def _show(self) -> Left | AgentsrvError:
        """Connect, again when the connection is lost, until there is a reason not to."""
        attempt, has_been_there = 0, False
        while True:
            found = await self._connect()
            if isinstance(found, ClientWebSocketResponse):
                if has_been_there:
                    write_all(CLEAR)
                attempt, has_been_there = 0, True
                if (left := await self._receive(found)) is not None:
                    return left
                write_all(b"\r\n[the connection is lost; trying to come back]\r\n")
            elif not has_been_there or (isinstance(found, APIStatusError) and found.status in FINAL):
                return found
            await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1

    async def _connect(self) -> ClientWebSocketResponse | AgentsrvError:
        """A socket, or why there is none."""
        target = self._target
        try:
            return await self._client.terminals.connect(
                target.terminal_id, cwd=target.cwd, read_only=target.is_read_only
            )
        except AgentsrvError as error:
            return error

    async def _receive(self, ws: ClientWebSocketResponse) -> Left | None:
        """Show what comes until the shell ends; None when the connection does."""
        self._ws = ws
        self._has_resized.set()
        try:
            async for message in ws:
                if message.type is WSMsgType.BINARY:
                    write_all(message.data)
                elif (
                    message.type is WSMsgType.TEXT and (left := ending(json.loads(message.data))) is not None
                ):
                    return left
            return None
        finally:
            self._ws = None
            await ws.close()


async def read_keyboard() -> bytes:
    """The next keys; empty when our own terminal is gone.

    The descriptor stays blocking: it is the same as that of the shell which started us.
    """
    loop = asyncio.get_running_loop()
    has_keys = asyncio.Event()

    def on_keys() -> None:
        loop.remove_reader(KEYBOARD)
        has_keys.set()

    loop.add_reader(KEYBOARD, on_keys)
    try:
        await has_keys.wait()
        return os.read(KEYBOARD, READ_BYTES)
    except OSError:
        return b""
    finally:
        loop.remove_reader(KEYBOARD)


def ending(message: dict[str, Any]) -> Left | None:
    """The end of the shell, as our own exit code."""
    if message["type"] != "close":
        return None
    if message["signal"] is not None:
        number = getattr(signal, message["signal"], 0)
        return Left(128 + number, f"the terminal was ended by {message['signal']}")
    if message["exitCode"] is None:
        return Left(1, f"the terminal is gone: {message['reason']}")
    return Left(message["exitCode"], "")


def window_size() -> tuple[int, int]:
    """Columns and rows of our own terminal, as far as a terminal over there may have them."""
    answer = fcntl.ioctl(SCREEN, termios.TIOCGWINSZ, bytes(8))
    rows, cols, _, _ = struct.unpack("4H", answer)
    return min(max(cols, 1), 1000), min(max(rows, 1), 1000)


def write_all(data: bytes) -> None:
    """Blocks while our own terminal does not take it, and so, in the end, the program over there."""
    while data:
        data = data[os.write(SCREEN, data) :]
