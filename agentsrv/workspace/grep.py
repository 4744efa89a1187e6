"""Finding text in files: with ripgrep where it is installed, else by ourselves. Both find the same.

Always literal text: a pattern could be made to take for ever. What is not text (a NUL near its beginning) and
what is larger than `MAX_FILE_BYTES` is left out.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agentsrv.workspace.disk import Disk
from agentsrv.workspace.paths import Workspace, displayed, file_uri, is_text
from agentsrv.workspace.walk import IGNORED, Directory, Walk

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_SHOWN = 500
"""Characters of a line that are shown, around the match."""

PROBE_BYTES = 8192


class LineMatch(Struct, rename="camel"):
    """One line with the text in it; `column` counts characters from 1, in the line, not in `text`."""

    path: str
    line: int
    column: int
    text: str
    uri: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class GrepResult:
    matches: list[LineMatch]
    is_truncated: bool
