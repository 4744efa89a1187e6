"""Directories of the server's own."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path

import pytest

from agentsrv.errors import StartupError
from agentsrv.owned import Room, only_server, prepare

NAME = re.compile("[0-9a-f]{4}")
FILES = re.compile("out|meta")


@pytest.fixture
def room(tmp_path: Path) -> Room:
    room = Room(tmp_path / "room", NAME, FILES)
    room.prepare()
    return room


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody's data, named as ours is: what a link may lead to."""
    for name in ("abcd", "data"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        (tmp_path / "elsewhere" / name / "out").write_text("precious")
    return tmp_path / "elsewhere"


def tree(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def test_a_directory_of_ours_is_private_also_when_it_was_not(tmp_path: Path) -> None:
    """Whoever has made it, and with whatever rights: nobody else gets in."""
    (tmp_path / "state").mkdir(mode=0o777)
    (tmp_path / "state").chmod(0o777)
    for name in ("state", "new/one"):
        prepare(tmp_path / name)

    assert [0o700, 0o700] == [(tmp_path / name).stat().st_mode & 0o777 for name in ("state", "new/one")]


def test_a_link_in_place_of_a_room_is_refused_and_harms_nothing(tmp_path: Path, elsewhere: Path) -> None:
    """An agent has put it there, or an operator: the server says so, and what it leads to stays as it is."""
    before = tree(elsewhere)
    (tmp_path / "room").symlink_to(elsewhere)
    room = Room(tmp_path / "room", NAME, FILES)
    room.remove("abcd")
    for use in (room.prepare, room.members):
        with pytest.raises(StartupError, match="room is a link"):
            use()

    assert before == tree(elsewhere)


def test_a_link_in_place_of_a_member_is_none_of_ours(room: Room, elsewhere: Path) -> None:
    """It is neither taken over nor removed, and what it leads to stays."""
    before = tree(elsewhere)
    (room.path / "abcd").symlink_to(elsewhere / "abcd")
    room.remove("abcd")

    assert ([], before) == (room.members(), tree(elsewhere))
    assert (room.path / "abcd").is_symlink()


def test_links_in_a_member_are_removed_and_not_followed(room: Room, elsewhere: Path) -> None:
    """A spool that is a link is gone; the file that it leads to is not."""
    before = tree(elsewhere)
    (room.path / "abcd").mkdir()
    (room.path / "abcd" / "out").symlink_to(elsewhere / "abcd" / "out")
    (room.path / "abcd" / "meta").symlink_to(elsewhere)
    room.remove("abcd")

    assert ([], before) == (tree(room.path), tree(elsewhere))


def test_what_is_not_ours_stays(room: Room) -> None:
    """Names of other forms, files of other names, directories within: not one is removed."""
    for path in ("other/out", "abcd/out", "abcd/thesis.txt", "abcd/meta/out"):
        (room.path / path).parent.mkdir(parents=True, exist_ok=True)
        (room.path / path).touch()
    for name in ("other", "abcd", "../room", "none"):
        room.remove(name)

    assert tree(room.path) == ["abcd", "abcd/meta", "abcd/meta/out", "abcd/thesis.txt", "other", "other/out"]
    assert [room.path / "abcd"] == room.members()


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_what_is_no_directory_is_moved_aside_and_said_once(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe in place of a directory neither hangs nor ends the start."""
    path = tmp_path / "uploads"
    os.mkfifo(path) if kind == "fifo" else path.write_text("mine")
    for _ in range(2):
        prepare(path)

    assert path.is_dir()
    assert len(list(tmp_path.glob("uploads.*"))) == 1
    assert [
        record.levelno
        for record in caplog.records
        if "moved" in record.message or "was not" in record.message
    ] == [logging.WARNING]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could put anything in place of what the server keeps there."""
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 12345, 12345)
    with pytest.raises(StartupError, match="belongs to user 12345 and must be that of user 0"):
        prepare(tmp_path / "state")


async def test_the_next_server_waits_for_the_one_that_leaves(tmp_path: Path) -> None:
    """A quick restart or a reload is no error: the old server has its grace to leave."""
    order = []

    async def serve_next() -> None:
        async with only_server(tmp_path / "state", 60.0):
            order.append("second")

    async with asyncio.TaskGroup() as tasks, only_server(tmp_path / "state", 0.0):
        tasks.create_task(serve_next())
        await asyncio.sleep(0)
        order.append("first")

    assert ["first", "second"] == order


async def test_a_server_that_stays_is_told_of(tmp_path: Path) -> None:
    """Two servers never share a state directory."""
    async with only_server(tmp_path / "state", 1.0):
        with pytest.raises(StartupError, match="another server uses"):
            async with only_server(tmp_path / "state", 0.0):
                pass


async def test_no_process_left_is_not_another_server(tmp_path: Path) -> None:
    """What goes wrong while the lock is held is told as what it is."""
    with pytest.raises(BlockingIOError, match="no more processes"):
        async with only_server(tmp_path / "state", 0.0):
            raise BlockingIOError("no more processes")
