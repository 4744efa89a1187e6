"""Where a command writes: stdout has the result, stderr everything else."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.text import Text

from agentsrv.cli.safe import visible

LESS = {"LESS": "FRX"}
"""What `less` needs, as git has it: colours are let through, and what fits on the screen stays there."""


class Paper(Console):
    """Nothing in a text is taken for markup. Rich itself heeds NO_COLOR, FORCE_COLOR and TERM."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    def on_broken_pipe(self) -> None:
        """Rich would end the program as failed."""
        raise


class Output:
    """`format` is `text`, `json` (one object at the end) or `jsonl` (objects as they come)."""

    def __init__(self, arguments: Namespace) -> None:
        self.format = "jsonl" if getattr(arguments, "jsonl", False) else "text"
        if getattr(arguments, "json", False):
            self.format = "json"
        self.is_plain = arguments.plain or os.environ.get("TERM") == "dumb"
        """Lines only: nothing is drawn again, for screen readers and simple terminals."""
        self.is_ascii = not speaks_utf8(os.environ, sys.stdout.encoding)
        self.is_terminal = sys.stdout.isatty()
        self.keyboard = _keyboard() if self.is_terminal and self.format == "text" else None
        """The descriptor on which whoever sits here types; None when nobody does."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            is_limited = self.is_ascii and self.is_terminal
            sys.stdout.reconfigure(encoding="ascii" if is_limited else None, errors="backslashreplace")
        colors: Any = None if self.is_plain else "auto"
        self.console = Paper(color_system=colors)
        self._errors = Paper(color_system=colors, stderr=True)

    @property
    def is_interactive(self) -> bool:
        return self.keyboard is not None

    def write(self, text: str) -> None:
        """A part of the result, exactly."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def write_bytes(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def object(self, value: Any) -> None:
        """A part of the result, as a line of JSON; in ASCII, which no terminal obeys."""
        self.objects([value])

    def objects(self, values: Iterable[Any]) -> None:
        """A line for each. What is there is written at once, so that a reader who takes but the first has it all."""
        self.write("".join(f"{json.dumps(value)}\n" for value in values))

    def print(self, *lines: Text | str) -> None:
        """Lines of the result, for people; at once, too."""
        if lines:
            self.console.print(
                Text("\n").join(Text(line) if isinstance(line, str) else line for line in lines)
            )

    def page(self, text: str) -> None:
        """Safe text for a terminal, in a pager where there is one. Ctrl-C is a key of the pager."""
        pager = [] if self.is_plain else pager_of(os.environ)
        if not pager:
            self.write(text)
            return
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
        data = text.encode("utf-8", "replace")
        subprocess.run(pager, input=data, env={**LESS, **os.environ}, check=False)

    def say(self, text: str) -> None:
        """Something for people that is not the result. It may hold what others wrote."""
        with suppress(BrokenPipeError):
            self._errors.print(Text(visible(text)))

    def error(self, message: str, fields: Mapping[str, Any]) -> None:
        """Why it did not work: a line, or an object where objects are wanted."""
        if self.format == "text":
            self.say(f"agentsrv: {message}")
        else:
            with suppress(BrokenPipeError):
                sys.stderr.write(json.dumps({"error": message, **fields}) + "\n")


def pager_of(environment: Mapping[str, str]) -> list[str]:
    """Its command; nothing where none is wanted, or there."""
    words = shlex.split(environment.get("PAGER", "less"))
    return words if words and shutil.which(words[0]) else []


def _keyboard() -> int | None:
    """stdin, or what it was before something was piped into it."""
    if sys.stdin.isatty():
        return sys.stdin.fileno()
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None


def speaks_utf8(environment: Mapping[str, str], encoding: str) -> bool:
    """May the terminal be sent more than ASCII? Python's own encoding does not tell: it overrides a C locale."""
    lang, ctype = environment.get("LANG", ""), environment.get("LC_CTYPE", "")
    is_coerced = ctype == "C.UTF-8" and lang in ("C", "POSIX")
    locale = environment.get("LC_ALL") or ("" if is_coerced else ctype) or lang
    says_utf8 = "utf8" in locale.lower().replace("-", "") or not locale
    return says_utf8 and "utf8" in encoding.lower().replace("-", "")
