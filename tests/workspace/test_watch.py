"""What changes while somebody watches."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentsrv.errors import NotFound
from agentsrv.workspace.archive import archive
from agentsrv.workspace.paths import Workspace
from agentsrv.workspace.walk import Walk
from agentsrv.workspace.watch import Changes, TreeWatch

TIMEOUT_S = 60.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    return base


def walk(base: Path, root: str = ".", *, include_ignored: bool = True) -> Walk:
    workspace = Workspace(base, private=[base / "state"])
    return Walk(
        workspace=workspace,
        root=workspace.resolve(root),
        max_depth=100,
        include_ignored=include_ignored,
        deadline=time.monotonic() + TIMEOUT_S,
    )


def packed(walk: Walk) -> dict[str, bytes | None]:
    """Path -> content; None for a directory."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive(walk, "top")))) as tar:
        return {member.name: file.read() if (file := tar.extractfile(member)) else None for member in tar}


def test_an_archive_is_the_directory(base: Path) -> None:
    """Contents, empty directories, links as links, any name; nothing of the server's, nothing special."""
    (base / "sub/empty").mkdir(parents=True)
    (base / "state").mkdir()
    (base / "state/secret").write_text("secret")
    (base / "large").write_bytes(bytes(range(256)) * 5000)
    (base / "sub" / ("long-" * 50)).write_text("x")
    Path(os.fsdecode(os.fsencode(base) + b"/\xff")).write_text("odd")
    os.mkfifo(base / "pipe")

    assert packed(walk(base)) == {
        "top": None,
        "top/large": bytes(range(256)) * 5000,
        "top/\udcff": b"odd",
        "top/sub": None,
        "top/sub/" + "long-" * 50: b"x",
        "top/sub/empty": None,
    }


def test_an_archive_keeps_links_and_modes(base: Path) -> None:
    """A link out of the workspace is a link in the archive: nothing of its target."""
    (base / "out").symlink_to("/etc/passwd")
    (base / "run").write_text("#!/bin/sh\n")
    (base / "run").chmod(0o755)
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive(walk(base), "top")))) as tar:
        members = {member.name: member for member in tar}

    assert (members["top/out"].linkname, members["top/out"].size) == ("/etc/passwd", 0)
    assert (members["top/run"].mode, members["top/run"].uid) == (0o755, 0)


def test_a_file_that_shrinks_meanwhile_does_no_harm(base: Path) -> None:
    """The archive is whole; what is missing is zeros."""
    (base / "a").write_bytes(os.urandom(3_000_000))
    (base / "b").write_text("b")
    pieces = archive(walk(base), "top")
    first = next(pieces)
    os.truncate(base / "a", 0)
    with tarfile.open(fileobj=io.BytesIO(first + b"".join(pieces))) as tar:
        sizes = {member.name: member.size for member in tar}

    assert sizes == {"top": 0, "top/a": 3_000_000, "top/b": 1}


class Watched:
    """A watch, and a way to wait for what it tells."""

    def __init__(self, base: Path, root: str = ".") -> None:
        workspace = Workspace(base, private=[base / "state"])
        self.watch = TreeWatch(workspace, workspace.resolve(root), self._walk)
        self._base = base
        self.seen: list[tuple[str, str]] = []

    def _walk(self, path: str) -> Walk:
        return walk(self._base, os.path.relpath(path, self._base), include_ignored=False)

    def until(self, *wanted: tuple[str, str]) -> list[tuple[str, str]]:
        """Everything told so far, once all of `wanted` was."""
        self.next_where(lambda _: set(wanted) <= set(self.seen))
        return self.seen

    def next_where(self, fits: Callable[[Changes], bool]) -> Changes:
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            changes = self.watch.next()
            assert changes is not None
            self.seen += [(change.change, change.path) for change in changes.changes]
            if fits(changes):
                return changes
        raise AssertionError(f"not told: {self.seen}")


@pytest.fixture
def watched(base: Path) -> Iterator[Watched]:
    for name in ("src", "node_modules", "state", "repo/.git/refs"):
        (base / name).mkdir(parents=True)
    (base / "repo/.git/HEAD").write_text("ref: refs/heads/main\n")
    (base / "out").symlink_to(base.parent)
    watched = Watched(base)
    watched.watch.start()
    yield watched
    watched.watch.stop()
    watched.watch.close()


def test_changes_are_told(watched: Watched, base: Path) -> None:
    """Added, modified, deleted, moved."""
    (base / "src/a").write_text("1")
    watched.until(("added", "src/a"))
    (base / "src/a").write_text("2")
    watched.until(("modified", "src/a"))
    (base / "src/a").rename(base / "b")
    watched.until(("deleted", "src/a"), ("added", "b"))


def test_new_directories_are_watched_too(watched: Watched, base: Path) -> None:
    """Also what was put into them before anybody could watch, and what comes later."""
    (base / "new/deep").mkdir(parents=True)
    (base / "new/deep/a").touch()
    watched.until(("added", "new"), ("added", "new/deep"), ("added", "new/deep/a"))
    (base / "new/deep/b").touch()
    watched.until(("added", "new/deep/b"))
    shutil.rmtree(base / "new")
    watched.until(("deleted", "new"))
    (base / "new").mkdir()
    (base / "new/again").touch()
    watched.until(("added", "new/again"))


def test_what_is_not_watched(watched: Watched, base: Path) -> None:
    """Ignored folders, the server's own, and what lies behind links."""
    (base / "node_modules/x").touch()
    (base / "state/x").touch()
    (base.parent / "behind-the-link").touch()
    (base / ".venv").mkdir()
    (base / ".venv/x").touch()
    (base / "last").touch()

    assert {("added", "last"), ("added", ".venv")} == set(
        watched.until(("added", "last"), ("added", ".venv"))
    )


def test_commits_are_told_as_one_path(watched: Watched, base: Path) -> None:
    """Of all that happens in `.git`, what means another branch, commit or index."""
    (base / "repo/.git/index.lock").touch()
    (base / "repo/.git/index.lock").rename(base / "repo/.git/index")
    watched.until(("added", "repo/.git"))
    (base / "later/.git").mkdir(parents=True)
    (base / "later/.git/HEAD").write_text("ref: refs/heads/main\n")
    watched.until(("added", "later"))
    (base / "end").touch()

    assert {path for _, path in watched.until(("added", "end"))} >= {"repo/.git", "later", "end"}


def test_too_much_is_told_as_such(watched: Watched, base: Path) -> None:
    """The client looks again; so too for names that cannot be told."""
    watched.watch.max_changes = 3
    for number in range(10):
        (base / f"src/{number}").touch()
    watched.next_where(lambda changes: changes.is_overflow)
    Path(os.fsdecode(os.fsencode(base) + b"/src/\xff")).touch()
    watched.next_where(lambda changes: changes.is_overflow)
    (base / "src/ok").touch()
    watched.until(("added", "src/ok"))


def test_a_large_tree_is_watched_in_part(base: Path) -> None:
    """So many directories and no more; it says so."""
    for number in range(5):
        (base / str(number)).mkdir()
    watched = Watched(base)
    watched.watch.max_directories = 3
    watched.watch.start()
    watched.watch.close()

    assert (len(watched.watch.directories), watched.watch.is_partial) == (3, True)


@pytest.mark.parametrize("pointer", [b"gitdir: a\0b", b"gitdir: links/0"])
def test_a_git_file_that_leads_nowhere_is_no_matter(base: Path, pointer: bytes) -> None:
    """A NUL in it, a chain of links without end: the rest is watched all the same."""
    (base / "links").mkdir()
    for number in range(2000):
        (base / f"links/{number}").symlink_to(str(number + 1))
    (base / ".git").write_bytes(pointer)
    watched = Watched(base)
    watched.watch.start()
    (base / "a").touch()
    watched.until(("added", "a"))
    watched.watch.close()


def test_the_root_goes_away(watched: Watched, base: Path) -> None:
    """Then there is nothing to watch any more."""
    shutil.rmtree(base)
    watched.next_where(lambda changes: changes.is_root_gone)
    with pytest.raises(NotFound), Workspace(base.parent).open_directory(str(base)):
        pass
