"""Single files: read, make, move, remove; and uploads, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from agentsrv.errors import (
    AgentsrvError,
    Conflict,
    Forbidden,
    InvalidInput,
    LimitReached,
    NotFound,
    PreconditionFailed,
    StorageFull,
    TooLarge,
)
from agentsrv.threads import MAX_WAITING, Pool
from agentsrv.workspace.files import entries
from agentsrv.workspace.files.upload import BLOCK_BYTES, Condition, Uploaded, Uploads, upload_paths
from agentsrv.workspace.paths import Workspace
from agentsrv.workspace.removal import ENTRIES_AT_ONCE

MIB = 1 << 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    return base


@pytest.fixture
def workspace(base: Path) -> Workspace:
    return Workspace(base, private=[base / "state"])


@pytest.fixture
def uploads(tmp_path: Path, workspace: Workspace, disk: Pool) -> Uploads:
    uploads = Uploads(tmp_path / "staged", workspace, disk, max_bytes=10 * MIB)
    uploads.prepare()
    return uploads


def tree(base: Path) -> dict[str, str | None]:
    """Every path below and what is in it; None for a directory."""
    return {
        str(path.relative_to(base)): None if path.is_dir() else path.read_text()
        for path in sorted(base.rglob("*"))
    }


def tag(workspace: Workspace, path: str) -> str:
    file = entries.open_file(workspace, path)
    file.close()
    return file.facts.etag


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def upload(uploads: Uploads, target: str, names: list[str], *, overwrite: bool = True) -> Uploaded:
    """Put a file with `new` in it at each name."""
    async with uploads.delivery() as delivery:
        for _ in names:
            await delivery.add(pieces(b"new"))
        return delivery.place_all(target, names, overwrite=overwrite)


def test_every_change_gives_another_tag(workspace: Workspace, base: Path) -> None:
    """Also one that comes right after, and leaves the length as it is."""
    (base / "a").write_text("0")
    tags = set()
    for number in range(20):
        tags.add(tag(workspace, "a"))
        (base / "a").write_text(str(number % 10))

    assert len(tags) == 20


def test_directories_are_made_once(workspace: Workspace, base: Path) -> None:
    """With `parents` also those above; what is there already is a conflict, and a failure leaves nothing."""
    assert "a" == entries.make_directory(workspace, "a", parents=False)
    assert "x/y/z" == entries.make_directory(workspace, "x/y/z", parents=True)
    for path, parents in [("a", False), ("x/y", True)]:
        with pytest.raises(Conflict, match="exists"):
            entries.make_directory(workspace, path, parents=parents)
    with pytest.raises(NotFound):
        entries.make_directory(workspace, "no/such", parents=False)
    with pytest.raises(InvalidInput):
        entries.make_directory(workspace, f"new/{'x' * 256}", parents=True)

    assert sorted(tree(base)) == ["a", "x", "x/y", "x/y/z"]


def test_only_what_was_named_is_removed(workspace: Workspace, base: Path) -> None:
    """A link goes, not what it leads to, also inside of a directory that is removed."""
    (base / "dir/sub").mkdir(parents=True)
    (base / "kept").write_text("kept")
    (base / "link").symlink_to("kept")
    (base / "dir/sub/link").symlink_to(base)
    with pytest.raises(Conflict, match="not empty"):
        [*entries.delete(workspace, "dir", recursive=False)]
    [*entries.delete(workspace, "link", recursive=True)]
    [*entries.delete(workspace, "dir", recursive=True)]
    with pytest.raises(NotFound):
        [*entries.delete(workspace, "link", recursive=False)]

    assert tree(base) == {"kept": "kept"}


def test_large_tree_is_removed_in_steps(workspace: Workspace, base: Path) -> None:
    """It is gone at once, and what it had goes piece by piece: between them the disk serves others."""
    (base / "dir/sub").mkdir(parents=True)
    for n in range(2 * ENTRIES_AT_ONCE):
        (base / f"dir/{n}").touch()
        (base / f"dir/sub/{n}").touch()
    deleting = entries.delete(workspace, "dir", recursive=True)
    assert next(deleting) == "dir"
    assert not (base / "dir").exists()
    sizes = [len([*base.rglob("*")]) for _ in deleting]

    assert sizes[-1] == 0
    assert max(before - after for before, after in pairwise(sizes)) <= ENTRIES_AT_ONCE + 1


@pytest.mark.parametrize(
    "path", ["", "state", "state/x", "holder", ".git", "repo/.git", "../base", "..", "link/.."]
)
def test_what_must_stay_stays(tmp_path: Path, path: str) -> None:
    """The workspace itself, the server's directories and what holds them, git's internals."""
    base = tmp_path / "base"
    (base / "holder/state").mkdir(parents=True)
    (base / "state").mkdir()
    (base / "repo/.git").mkdir(parents=True)
    (base / "link").symlink_to("holder")
    workspace = Workspace(base, private=[base / "state", base / "holder/state"])
    before = tree(base)
    with pytest.raises((Forbidden, InvalidInput)):
        [*entries.delete(workspace, path, recursive=True)]
    with pytest.raises((Forbidden, InvalidInput)):
        entries.move(workspace, path, "elsewhere", overwrite=False)

    assert tree(base) == before


def test_moving_replaces_nothing_unless_asked(workspace: Workspace, base: Path) -> None:
    """And never a full directory, nor goes a directory into itself."""
    for name in ("a", "b"):
        (base / name).write_text(name)
    (base / "full/x").mkdir(parents=True)
    (base / "other").mkdir()
    with pytest.raises(Conflict, match="exists"):
        entries.move(workspace, "a", "b", overwrite=False)
    with pytest.raises(Conflict, match="not empty"):
        entries.move(workspace, "other", "full", overwrite=True)
    with pytest.raises(InvalidInput):
        entries.move(workspace, "full", "full/x/y", overwrite=True)
    with pytest.raises(NotFound):
        entries.move(workspace, "missing", "b", overwrite=True)

    assert ("a", "b") == entries.move(workspace, "a", "b", overwrite=True)
    assert ("full", "other/full") == entries.move(workspace, "full", "other/full", overwrite=False)
    assert tree(base) == {"b": "a", "other": None, "other/full": None, "other/full/x": None}


def test_nothing_moves_in_or_out(workspace: Workspace, base: Path) -> None:
    """Both ends must lie in the workspace and be allowed."""
    (base / "a").write_text("a")
    for source, target in [
        ("a", "../a"),
        ("/etc/hostname", "b"),
        ("a", "state/a"),
        ("a", ".bashrc"),
        ("a", ".ssh/x"),
    ]:
        with pytest.raises(Forbidden):
            entries.move(workspace, source, target, overwrite=True)

    assert tree(base) == {"a": "a"}


@pytest.mark.parametrize("sizes", [[0], [1], [BLOCK_BYTES], [BLOCK_BYTES + 1], [700_000, 700_000, 5]])
async def test_a_file_arrives_as_it_was_sent(uploads: Uploads, base: Path, sizes: list[int]) -> None:
    """Whatever the pieces are."""
    sent = [os.urandom(size) for size in sizes]
    async with uploads.delivery() as delivery:
        staged = await delivery.add(pieces(*sent))
        written = delivery.place(staged, str(base / "new/file"))

    assert (base / "new/file").read_bytes() == b"".join(sent)
    assert (written.facts.size, written.is_new) == (sum(sizes), True)
    assert os.listdir(base.parent / "staged") == []


async def test_a_replaced_file_keeps_its_permissions(uploads: Uploads, base: Path) -> None:
    """But not those that give somebody else's rights."""
    (base / "script").write_text("old")
    (base / "script").chmod(0o4750)
    async with uploads.delivery() as delivery:
        written = delivery.place(await delivery.add(pieces(b"new")), str(base / "script"))

    assert not written.is_new
    assert stat.S_IMODE((base / "script").stat().st_mode) == 0o750


async def test_all_or_nothing(uploads: Uploads, base: Path) -> None:
    """When the last file cannot be put in place, the first ones are as they were, and no directory is left."""
    (base / "target").mkdir()
    (base / "target/old").write_text("old")
    (base / "target/blocked").mkdir()
    before = tree(base)
    with pytest.raises(Conflict):
        await upload(uploads, "target", ["old", "new", "a/b/c", "blocked"])

    assert tree(base) == before
    assert os.listdir(base.parent / "staged") == []


async def test_a_failure_before_the_end_leaves_nothing(uploads: Uploads, base: Path) -> None:
    """Too much, or a client that goes away: what had arrived is gone."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (2 * BLOCK_BYTES)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        async with uploads.delivery() as delivery:
            await delivery.add(broken())
    with pytest.raises(TooLarge):
        async with uploads.delivery() as delivery:
            await delivery.add(pieces(*[b"x" * MIB] * 11))
    with pytest.raises(TooLarge):
        async with uploads.delivery(expected_bytes=11 * MIB):
            pass

    assert (tree(base), os.listdir(base.parent / "staged")) == ({}, [])


async def test_what_exists_can_stay(uploads: Uploads, base: Path) -> None:
    """Without `overwrite` files that are there are skipped and counted."""
    (base / "a").write_text("old")
    uploaded = await upload(uploads, "", ["a", "b"], overwrite=False)

    assert tree(base) == {"a": "old", "b": "new"}
    assert ([file.path for file in uploaded.files], uploaded.skipped) == (["b"], 1)


async def test_only_the_file_that_was_read_is_replaced(
    workspace: Workspace, uploads: Uploads, base: Path
) -> None:
    """A tag that is not the file's any more, a file that should not exist and does: nothing is written."""
    (base / "a").write_text("1")
    old = tag(workspace, "a")
    (base / "a").write_text("2")
    for condition, path in [
        (Condition(tags=frozenset({old})), "a"),
        (Condition(is_new=True), "a"),
        (Condition(tags=frozenset({"*"})), "missing"),
    ]:
        async with uploads.delivery() as delivery:
            staged = await delivery.add(pieces(b"3"))
            with pytest.raises(PreconditionFailed):
                delivery.place(staged, str(base / path), condition)
    async with uploads.delivery() as delivery:
        condition = Condition(tags=frozenset({tag(workspace, "a")}))
        delivery.place(await delivery.add(pieces(b"3")), str(base / "a"), condition)

    assert tree(base) == {"a": "3"}


async def test_of_two_writers_with_one_tag_one_wins(
    workspace: Workspace, uploads: Uploads, disk: Pool, base: Path
) -> None:
    """However close together they come."""
    for number in range(30):
        (base / "a").write_text(str(number))
        condition = Condition(tags=frozenset({tag(workspace, "a")}))

        async def write(text: str, condition: Condition = condition) -> str:
            async with uploads.delivery() as delivery:
                staged = await delivery.add(pieces(text.encode()))
                await disk.run(delivery.place, staged, str(base / "a"), condition)
                return text

        results = await asyncio.gather(write("left"), write("right"), return_exceptions=True)
        winners = [result for result in results if isinstance(result, str)]

        assert [PreconditionFailed] == [
            type(result) for result in results if isinstance(result, AgentsrvError)
        ]
        assert winners == [(base / "a").read_text()]


@pytest.mark.parametrize(
    "path",
    ["link-out/x", "state/x", "../x", ".git/config", "sub/.git/hooks/x", ".ssh/authorized_keys", ".bashrc"],
)
async def test_no_upload_leads_astray(uploads: Uploads, base: Path, path: str) -> None:
    """By a link, by `..`, into git or the server's own files."""
    (base / "link-out").symlink_to("/tmp")
    before = tree(base)
    with pytest.raises(Forbidden):
        await upload(uploads, "", [path])

    assert tree(base) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../b", "/a", "a/", "a\0b", "x" * 256, "é" * 128, "a/" * 2100 + "b"]
)
def test_names_that_cannot_be_used(name: str) -> None:
    """All are told at once."""
    with pytest.raises(InvalidInput) as caught:
        upload_paths(["fine", name, name + "\0"], "relativePaths")

    assert [problem.path for problem in caught.value.problems[:2]] == ["relativePaths.1", "relativePaths.2"]


def test_names_of_all_kinds_can_be_used() -> None:
    """Exactly as they are; only empty steps are left out."""
    names = ["a\nb", "😀", "e\u0301", "\u00e9", "-rf", "a b", "x" * 255, "a//./b", "back\\slash", "..."]

    assert upload_paths(names, "relativePaths") == [name.replace("//./", "/") for name in names]
    with pytest.raises(InvalidInput, match="2 times"):
        upload_paths(["a", "./a"], "relativePaths")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


async def test_an_upload_that_is_aborted_while_too_much_waits_leaves_nothing(
    tmp_path: Path, base: Path, disk: Pool, uploads: Uploads
) -> None:
    """When nothing more may be begun, what was staged and put in place goes away all the same."""
    gate, busy = threading.Event(), list[asyncio.Future[bool]]()

    async def abort() -> None:
        async with uploads.delivery() as delivery:
            delivery.place(await delivery.add(pieces(b"x")), str(base / "placed"))
            busy.extend(asyncio.ensure_future(disk.run(gate.wait)) for _ in range(MAX_WAITING))  # noqa: TID251
            await asyncio.sleep(0)
            with pytest.raises(LimitReached):
                await disk.run(int)
            asyncio.get_running_loop().call_later(0.05, gate.set)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await abort()
    await asyncio.gather(*busy)

    assert [os.listdir(tmp_path / "staged"), os.listdir(base)] == [[], []]


async def test_a_disk_that_fills_in_the_middle(
    base: Path, workspace: Workspace, disk: Pool, small_disk: Path
) -> None:
    """The client is told, and nothing is left, neither in the workspace nor on the full disk."""
    uploads = Uploads(small_disk / "staged", workspace, disk, max_bytes=100 * MIB)
    uploads.prepare()
    with pytest.raises(StorageFull):
        async with uploads.delivery() as delivery:
            await delivery.add(pieces(*[b"x" * MIB] * 6))
    with pytest.raises(StorageFull, match="room"):
        async with uploads.delivery(expected_bytes=50 * MIB):
            pass

    assert (tree(base), os.listdir(small_disk / "staged")) == ({}, [])


async def test_a_target_on_another_disk(
    base: Path, workspace: Workspace, disk: Pool, small_disk: Path
) -> None:
    """Files come there too, whole, and without a trace of how."""
    uploads = Uploads(small_disk / "staged", workspace, disk, max_bytes=100 * MIB)
    uploads.prepare()
    (base / "old").write_text("old")
    await upload(uploads, "", ["old", "a/new"])

    assert tree(base) == {"a": None, "a/new": "new", "old": "new"}


def test_an_earlier_servers_leftovers_are_swept(uploads: Uploads, base: Path) -> None:
    """What a killed server had taken in is gone at the next start."""
    (base.parent / "staged/0123456789abcdef").mkdir()
    (base.parent / "staged/0123456789abcdef/0123456789abcdef").write_text("x")
    uploads.prepare()

    assert os.listdir(base.parent / "staged") == []


def test_a_tree_of_any_depth_goes_as_a_whole(
    workspace: Workspace, base: Path, deepen: Callable[[Path, int], None]
) -> None:
    """Three thousand levels, a directory without the right to write, a link: gone, and nothing else with it."""
    (base / "kept").mkdir()
    (base / "kept/file").write_text("x")
    (base / "deep").mkdir()
    deepen(base / "deep", 3000)
    (base / "deep/d/link").symlink_to(base / "kept")
    (base / "deep/d/d").chmod(0o500)
    [*entries.delete(workspace, "deep", recursive=True)]

    assert tree(base) == {"kept": None, "kept/file": "x"}


def test_a_tree_goes_in_steps_and_out_of_sight_with_the_first(workspace: Workspace, base: Path) -> None:
    """A large one holds up nothing, and nobody sees a part of it."""
    for number in range(3000):
        (base / f"many/{number % 3}").mkdir(parents=True, exist_ok=True)
        (base / f"many/{number % 3}/{number}").touch()
    steps = entries.delete(workspace, "many", recursive=True)
    next(steps)
    assert not (base / "many").exists()

    assert len([*steps]) > 5
    assert tree(base) == {}
