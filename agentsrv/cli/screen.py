"""A terminal in which lines are printed for good, and at most ten of them are still drawn again."""

from __future__ import annotations

import asyncio
import codecs
import os
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.box import ASCII as ASCII_BOX
from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from agentsrv.cli.output import Output

MAX_LIVE_LINES = 10
BOX_LINES = 7
"""Of a question, within its frame."""


class Screen:
    """`print` is for good; `draw` replaces what was drawn before.

    On a plain terminal only what is new of a question is printed, and nothing of the rest.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self.console = output.console
        self.is_plain = output.is_plain
        self._box = ASCII_BOX if output.is_ascii else ROUNDED
        self._live = Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._asked: list[str] = []
        self._told: list[str] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """While this is open, what is drawn stands below what is printed; afterwards it is gone."""
        if self.is_plain:
            yield
            return
        with self._live:
            try:
                yield
            finally:
                self._live.update(Text(""), refresh=True)

    def print(self, lines: list[Text]) -> None:
        if lines and self._asked:
            self._write("\n")
            self._asked = []
        self._output.print(*lines)

    def draw(self, tail: list[Text], question: list[Text], foot: Text) -> None:
        """The last lines of `tail`, a question in its box, and a line below."""
        if self.is_plain:
            self._ask_plainly(question)
            return
        if not question:
            self._told = []
        rows = self._rows(question)
        if len(rows) > max(1, min(BOX_LINES, self.console.height - 4)):
            self._tell(question[:-1])
            rows = self._rows(question[-1:])
        parts: list[RenderableType] = []
        if rows:
            parts.append(Panel(Text("\n").join(rows), box=self._box, style="yellow", width=self.width))
        parts.append(self._cropped(foot, 1))
        used = (len(rows) + 2 if rows else 0) + 1
        room = min(MAX_LIVE_LINES, self.console.height - 1) - used
        parts.insert(0, self._cropped(Text("\n").join(tail), max(0, room)))
        self._live.update(Group(*[part for part in parts if part != Text("")]), refresh=True)

    @property
    def width(self) -> int:
        return max(20, self.console.width - 1)

    def _tell(self, lines: list[Text]) -> None:
        """Print what is too long for the box, once for a question: nothing of what is asked is cut off."""
        told = [line.plain for line in lines]
        if told != self._told:
            self._told = told
            self.print(lines)

    def _rows(self, lines: list[Text]) -> list[Text]:
        """As they stand in the box: it would cut off what is wider."""
        return list(Text("\n").join(lines).wrap(self.console, self.width - 4)) if lines else []

    def _cropped(self, text: Text, rows: int) -> Text:
        wrapped = list(text.wrap(self.console, self.width)) if text.plain else []
        return Text("\n").join(wrapped[-rows:]) if rows else Text("")

    def _ask_plainly(self, question: list[Text]) -> None:
        """Print what is new, and what is typed as it is typed."""
        lines, before = [line.plain for line in question], self._asked
        if lines == before:
            return
        is_known = bool(lines and before) and lines[:-1] == before[:-1]
        if is_known and lines[-1].startswith(before[-1]):
            self._write(lines[-1].removeprefix(before[-1]))
        else:
            self._write("\n" if before else "")
            self._output.print(*([] if is_known else question[:-1]))
            self._write(lines[-1] if lines else "")
        self._asked = lines

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()


@contextmanager
def keyboard(descriptor: int | None, on_key: Callable[[str], None]) -> Iterator[None]:
    """Each key as it is typed; the end of the keyboard is Ctrl-D. Ctrl-C stays a signal. Nothing without a keyboard."""
    if descriptor is None:
        yield
        return
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read() -> None:
        with suppress(BlockingIOError):
            try:
                data = os.read(descriptor, 4096)
            except OSError:
                data = b""
            if not data:
                loop.remove_reader(descriptor)
            for key in keys_of(decoder.decode(data) if data else "\x04"):
                on_key(key)

    mode = termios.tcgetattr(descriptor)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def keys_of(typed: str) -> Iterator[str]:
    """Single characters. A sequence, as arrow keys send them, is none of ours: it is dropped whole."""
    at = 0
    while at < len(typed):
        if typed.startswith("\x1b[", at) or typed.startswith("\x1bO", at):
            at += 2
            while at < len(typed) and not "@" <= typed[at] <= "~":
                at += 1
        else:
            yield typed[at]
        at += 1
