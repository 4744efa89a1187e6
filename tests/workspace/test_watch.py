"""What changes while somebody watches."""

from __future__ import annotations

import io
import mmap
import os
import select
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from agentsrv.errors import NotFound, Unavailable
from agentsrv.workspace.files.archive import archive
from agentsrv.workspace.files.walk import Walk
from agentsrv.workspace.files.watch import (
    GATHER_S,
    MAX_PAUSE_S,
    MAX_SHARE,
    MAX_WATCHES,
    Changes,
    TreeWatch,
    pause_after,
)
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import make_repository

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


def test_holes_stay_holes(base: Path) -> None:
    """A file of a tebibyte with three bytes in it is packed at once, and its content is the same."""
    with open(base / "sparse", "wb") as file:
        file.write(b"a")
        file.seek(1 << 20)
        file.write(b"b")
        file.truncate(1 << 40)
    (base / "hole").touch()
    os.truncate(base / "hole", 1 << 30)
    (base / "after").write_text("x")
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive(walk(base), "top")))) as tar:
        sizes = {member.name: member.size for member in tar}
        file_in_it = tar.extractfile("top/sparse")
        assert file_in_it is not None
        assert (b"a", b"\0") == (file_in_it.read(1), file_in_it.read(1))
        file_in_it.seek(1 << 20)
        assert b"b\0" == file_in_it.read(2)

    assert sizes == {"top": 0, "top/sparse": 1 << 40, "top/hole": 1 << 30, "top/after": 1}


class Watched:
    """A watch, and a way to wait for what it tells."""

    def __init__(self, base: Path, root: str = ".") -> None:
        workspace = Workspace(base, private=[base / "state"])
        self.watch = TreeWatch(workspace, workspace.resolve(root), 100, self._walk)
        self._base = base
        self.walks: list[str] = []
        self.seen: list[tuple[str, str]] = []

    def _walk(self, path: str) -> Walk:
        self.walks.append(path)
        return walk(self._base, os.path.relpath(path, self._base), include_ignored=False)

    def until(self, *wanted: tuple[str, str]) -> list[tuple[str, str]]:
        """Everything told so far, once all of `wanted` was."""
        self.next_where(lambda _: set(wanted) <= set(self.seen))
        return self.seen

    def next_where(self, fits: Callable[[Changes], bool]) -> Changes:
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            select.select([self.watch.fileno()], [], [], 1)
            changes = self.watch.next()
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
    watched.watch.close()


def test_changes_are_told(watched: Watched, base: Path) -> None:
    """Added, modified, deleted, moved."""
    (base / "src/a").write_text("1")
    watched.until(("added", "src/a"))
    (base / "src/a").write_text("2")
    watched.until(("modified", "src/a"))
    (base / "src/a").rename(base / "b")
    watched.until(("deleted", "src/a"), ("added", "b"))


def test_what_is_written_through_a_mapping_is_told(watched: Watched, base: Path) -> None:
    """As linkers and databases write."""
    (base / "mapped").write_bytes(b"a" * 5000)
    watched.until(("added", "mapped"))
    with open(base / "mapped", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 98
    watched.until(("modified", "mapped"))


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
    watched.until(("modified", "repo/.git"))
    (base / "later/.git").mkdir(parents=True)
    (base / "later/.git/HEAD").write_text("ref: refs/heads/main\n")
    watched.until(("added", "later"))
    (base / "end").touch()

    assert {path for _, path in watched.until(("added", "end"))} >= {"repo/.git", "later", "end"}


def test_too_much_is_told_as_such(watched: Watched, base: Path) -> None:
    """The client looks again."""
    watched.watch.max_changes = 3
    for number in range(10):
        (base / f"src/{number}").touch()
    watched.next_where(lambda changes: changes.is_overflow)
    (base / "src/ok").touch()
    watched.until(("added", "src/ok"))


def test_each_new_directory_is_gone_through_once_by_each_watch(base: Path) -> None:
    """Forty new ones cost forty looks, with two watches twice as many: nothing known is gone through again."""
    (base / "known").mkdir()
    all_watched = [Watched(base) for _ in range(2)]
    for watched in all_watched:
        watched.watch.start()
    for number in range(40):
        (base / f"new-{number}").mkdir()
    for watched in all_watched:
        watched.walks.clear()
        watched.until(*(("added", f"new-{number}") for number in range(40)))
        watched.watch.close()
        assert sorted(watched.walks) == sorted(str(base / f"new-{number}") for number in range(40))


@pytest.mark.parametrize("watches", [1, MAX_WATCHES])
@pytest.mark.parametrize("used_s", [0.0001, 0.001, 0.01, 0.1])
def test_all_watches_together_have_their_share_of_a_processor(watches: int, used_s: float) -> None:
    """However long one look takes, and however many there are: they look less often, up to a limit."""
    pause_s = pause_after(used_s, watches)

    assert GATHER_S <= pause_s <= MAX_PAUSE_S
    assert watches * used_s / (used_s + pause_s) <= MAX_SHARE


def test_a_large_tree_is_watched_in_part(base: Path) -> None:
    """So many directories and no more; it says so."""
    for number in range(5):
        (base / str(number)).mkdir()
    watched = Watched(base)
    watched.watch.max_directories = 3
    watched.watch.start()
    watched.watch.close()

    assert (len(watched.watch.directories()), watched.watch.is_partial) == (3, True)


def test_a_new_directory_beyond_the_limit_is_told(watched: Watched, base: Path) -> None:
    """Not watching it without a word would be a loss: look again, and know that not all is watched."""
    watched.watch.max_directories = len(watched.watch.directories())
    (base / "new").mkdir()
    watched.next_where(lambda changes: changes.is_overflow)

    assert watched.watch.is_partial


@pytest.mark.parametrize(("limit", "told"), [(0, "unavailable"), (4, "part"), (7, "later"), (1000, "whole")])
def test_the_kernels_limit_is_told(base: Path, limit: int, told: str) -> None:
    """`max_user_watches` is reached: at the start, in the middle of it, or with a directory that is new."""
    for number in range(5):
        (base / str(number)).mkdir()
    limited = 'echo "$1" > /proc/sys/user/max_inotify_watches && exec "$2" -c "$3" "$4"'
    program = (
        "import sys; from pathlib import Path; from tests.workspace.test_watch import at_the_limit\n"
        "print(at_the_limit(Path(sys.argv[1])))"
    )
    words = ["sh", "-c", limited, "sh", str(limit), sys.executable, program, str(base)]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *words], capture_output=True, check=True, timeout=60
    )

    assert done.stdout.decode().strip() == told


def at_the_limit(base: Path) -> str:
    """What a watch says of its beginning, and when three directories more have come."""
    watched = Watched(base)
    try:
        watched.watch.start()
    except Unavailable:
        return "unavailable"
    if watched.watch.is_partial:
        return "part"
    for number in range(3):
        (base / f"new-{number}").mkdir()
    changes = watched.watch.next()
    watched.watch.close()
    if changes.is_overflow and watched.watch.is_partial:
        return "later"
    return "whole" if len(changes.changes) == 3 else "lost"


def test_one_entry_for_a_path_by_what_is_there_now(watched: Watched, base: Path) -> None:
    """However often it went and came; what has come and gone may have been seen in between."""
    (base / "src/file").touch()
    (base / "src/x").mkdir()
    watched.until(("added", "src/x"), ("added", "src/file"))
    (base / "src/x").rmdir()
    (base / "src/x").mkdir()
    (base / "src/y").mkdir()
    (base / "src/y").rmdir()
    (base / "src/z").touch()
    (base / "src/z").replace(base / "src/file")
    told = watched.next_where(lambda changes: bool(changes.changes))

    assert [
        ("modified", "src/file"),
        ("modified", "src/x"),
        ("deleted", "src/y"),
        ("deleted", "src/z"),
    ] == [(change.change, change.path) for change in told.changes]


class Follower:
    """Somebody who looks once and then believes what is told, about names and contents."""

    def __init__(self, watched: Watched, base: Path) -> None:
        self._watched = watched
        self._base = base
        self.known = self.present()

    def present(self) -> dict[str, str]:
        """Path -> content; that of a directory is empty."""
        paths = {str(path.relative_to(self._base)) for path in self._base.rglob("*")}
        return {
            path: self._content(path)
            for path in paths
            if path.split("/")[0] not in ("node_modules", "state", "repo")
        }

    def _content(self, path: str) -> str:
        try:
            return (self._base / path).read_text(errors="replace")
        except OSError:
            return ""

    def hear(self) -> None:
        changes = self._watched.watch.next()
        if changes.is_overflow:
            self.known = self.present()
        for change in changes.changes:
            if change.change == "deleted":
                gone = [p for p in self.known if f"{p}/".startswith(f"{change.path}/")]
                self.known = {p: content for p, content in self.known.items() if p not in gone}
            elif not change.path.startswith("repo"):
                self.known[change.path] = self._content(change.path)


def stir(base: Path, random: Random) -> None:
    """One change somewhere."""
    places = [base, *(path for path in base.rglob("d*") if path.is_dir())]
    place = random.choice(places)
    name = random.choice("abc")
    match random.randrange(8):
        case 0 | 1:
            (place / f"d{name}/dd").mkdir(parents=True, exist_ok=True)
            (place / f"d{name}/dd/{name}").touch()
        case 2:
            (place / name).write_text(f"{random.random()}")
        case 3 if place != base:
            shutil.rmtree(place)
        case 4 if place != base:
            place.rename(base / f"d{random.randrange(10**9)}")
        case 5 | 6:
            if files := [path for path in base.rglob("[abc]") if path.is_file()]:
                random.choice(files).write_text(f"{random.random()}")
        case _:
            (place / f"{name}.tmp").write_text(f"{random.random()}")
            (place / f"{name}.tmp").replace(place / name)


@pytest.mark.parametrize("seed", range(20))
def test_who_believes_what_is_told_knows_what_is_there(watched: Watched, base: Path, seed: int) -> None:
    """Whatever is made, written, moved and removed, and whenever it is told: nothing is missed."""
    random, follower = Random(seed), Follower(watched, base)
    for _ in range(60):
        stir(base, random)
        if random.random() < 0.4:
            follower.hear()
    follower.hear()

    assert follower.present() == follower.known


@pytest.mark.parametrize("seed", range(3))
def test_what_changes_while_it_is_told_is_told(watched: Watched, base: Path, seed: int) -> None:
    """Somebody works without a pause, and new directories come between writes to files that were there."""
    follower = Follower(watched, base)
    program = (
        "import sys; from pathlib import Path; from random import Random\n"
        "from tests.workspace.test_watch import stir\n"
        "random = Random(int(sys.argv[2]))\n"
        "for _ in range(150): stir(Path(sys.argv[1]), random)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(base), str(seed)]) as work:
        while work.poll() is None:
            follower.hear()
    follower.hear()

    assert work.returncode == 0
    assert follower.present() == follower.known


def test_a_clone_is_told_whole(watched: Watched, base: Path) -> None:
    """Git makes hundreds of files in a moment, in directories that nobody watches yet."""
    origin = make_repository(base.parent / "origin", {f"d{n % 20}/f{n}": "x" for n in range(200)})
    follower = Follower(watched, base)
    with subprocess.Popen(["git", "clone", "-q", str(origin), str(base / "clone")]) as clone:
        while clone.poll() is None:
            follower.hear()
    follower.hear()

    assert {f"clone/d{n % 20}/f{n}" for n in range(200)} <= follower.known.keys()


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
