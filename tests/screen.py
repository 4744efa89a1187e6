"""What a person would see of a program's output."""

from __future__ import annotations

import shutil
from typing import Any

import pyte
import pytest


class Emulator(pyte.Screen):
    """A screen of so many columns and rows, to be fed with bytes."""

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__(cols, rows)
        self._stream = pyte.ByteStream(self)

    def feed(self, output: bytes) -> None:
        self._stream.feed(output)

    def select_graphic_rendition(self, *attributes: int, **options: Any) -> None:
        """Ignores what pyte takes for a colour and fails at: vim's question after the keyboard (CSI ? 4 m)."""
        if not options.get("private"):
            super().select_graphic_rendition(*attributes)


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.fail(f"{program} is not installed; `python3 dev.py tools` does it")
