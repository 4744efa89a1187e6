"""The fixtures of tests/workspace."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agentsrv.threads import Pool


@pytest.fixture
async def disk() -> AsyncIterator[Pool]:
    disk = Pool("disk", 4)
    yield disk
    await disk.close()


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory of a user without rights, and the test as this user: root may read everything."""
    directory = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    yield directory
    os.seteuid(user)
    shutil.rmtree(directory)


@pytest.fixture
def deepen(tmp_path: Path) -> Iterator[Callable[[Path, int], None]]:
    """Makes so many directories, one in the other. They are taken away whatever happens: Python's own way cannot."""

    def deepen(path: Path, levels: int) -> None:
        directory = os.open(path, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=directory)
            inner = os.open("d", os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = inner
        os.close(directory)

    yield deepen
    subprocess.run(["rm", "-rf", "--", str(tmp_path)], check=True)
