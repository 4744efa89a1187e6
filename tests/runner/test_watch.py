"""Being woken when an agent writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentsrv.inotify import HEADER
from agentsrv.linux import file_system_type
from agentsrv.runner import watch
from agentsrv.runner.watch import FileWatcher
from tests.runner.conftest import TIMEOUT_S


@pytest.fixture(params=["inotify", "polling"])
async def watcher(request: pytest.FixtureRequest) -> AsyncIterator[FileWatcher]:
    watcher = FileWatcher(use_inotify=request.param == "inotify")
    yield watcher
    watcher.close()
    watcher.close()


class Bell:
    """Counts its rings and can be waited for."""

    def __init__(self) -> None:
        self.rings = 0
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self.rings += 1
        self._rung.set()

    async def wait(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await self._rung.wait()
        self._rung.clear()


def append(path: Path, data: bytes = b"x") -> None:
    with path.open("ab", buffering=0) as file:
        file.write(data)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.touch()
    return paths


async def test_write_rings_the_bell_of_its_file(watcher: FileWatcher, paths: list[Path]) -> None:
    """Each reader is woken for its own file, again and again."""
    bells = [Bell(), Bell()]
    for path, bell in zip(paths, bells, strict=True):
        watcher.watch(path, bell.ring)
    for _ in range(3):
        append(paths[0])
        await bells[0].wait()
    append(paths[1])
    await bells[1].wait()
    assert [bell.rings for bell in bells] == [3, 1]


async def test_many_writes_between_two_turns_of_the_loop_ring_once(
    watcher: FileWatcher, paths: list[Path]
) -> None:
    """A flooding agent does not flood its reader with wake-ups."""
    bell, other = Bell(), Bell()
    watcher.watch(paths[0], bell.ring)
    watcher.watch(paths[1], other.ring)
    for _ in range(1000):
        append(paths[0])
        append(paths[1])
    await bell.wait()
    await other.wait()
    assert bell.rings == 1


async def test_closed_watch_does_not_ring(watcher: FileWatcher, paths: list[Path]) -> None:
    """Also not for a write that came before the close and was not yet told."""
    closed, other = Bell(), Bell()
    watch = watcher.watch(paths[0], closed.ring)
    watcher.watch(paths[1], other.ring)
    append(paths[0])
    append(paths[1])
    watch.close()
    watch.close()
    await other.wait()
    assert closed.rings == 0


async def test_two_watches_of_one_file_are_independent(watcher: FileWatcher, paths: list[Path]) -> None:
    """The kernel knows one watch per file; closing one of ours keeps the other."""
    first, second = Bell(), Bell()
    watch = watcher.watch(paths[0], first.ring)
    watcher.watch(paths[0], second.ring)
    append(paths[0])
    await first.wait()
    await second.wait()
    watch.close()
    append(paths[0])
    await second.wait()
    assert (first.rings, second.rings) == (1, 2)


async def test_deleted_file_harms_nobody(watcher: FileWatcher, paths: list[Path]) -> None:
    """A spool may be pruned while it is watched."""
    other = Bell()
    watch = watcher.watch(paths[0], Bell().ring)
    watcher.watch(paths[1], other.ring)
    paths[0].unlink()
    append(paths[1])
    await other.wait()
    watch.close()
    assert other.rings == 1


async def test_missing_file_is_an_error(watcher: FileWatcher, tmp_path: Path) -> None:
    """A reader that waits for a file that is not there would wait for ever."""
    with pytest.raises(FileNotFoundError):
        watcher.watch(tmp_path / "none", Bell().ring)


async def test_lost_events_wake_everybody(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel's queue overflows nobody knows who was written to, so all look."""
    watcher = FileWatcher()
    bells = [Bell(), Bell()]
    for path, bell in zip(paths, bells, strict=True):
        watcher.watch(path, bell.ring)
    overflow = HEADER.pack(-1, 0x4000, 0, 0)
    monkeypatch.setattr(os, "read", lambda fd, size: overflow)
    append(paths[0])
    await bells[0].wait()
    await bells[1].wait()
    monkeypatch.undo()
    watcher.close()


async def test_network_file_systems_are_polled_as_well(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a write may pass the kernel that would tell of it."""
    monkeypatch.setattr(watch, "NETWORK_FILE_SYSTEMS", {file_system_type(paths[0])})
    watcher = FileWatcher()
    bell = Bell()
    watched = watcher.watch(paths[0], bell.ring)
    os.truncate(paths[0], 0)
    append(paths[0])
    await bell.wait()
    watched.close()
    assert watcher._polled == []
    watcher.close()
