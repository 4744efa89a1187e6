"""The fixtures of tests/workspace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsrv.workspace.disk import Disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.close()
