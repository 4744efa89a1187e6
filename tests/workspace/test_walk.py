"""Listing: what is there, in which order, how far, and what git has to do with it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from agentsrv.workspace.files.checkouts import checkout_around
from agentsrv.workspace.files.walk import DETAILED, Entry, Listing, Walk, wire_time
from agentsrv.workspace.paths import Workspace


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    return base


def make(base: Path, *paths: str) -> None:
    """Files, and directories where a path ends in `/`."""
    for path in paths:
        target = base / path
        (target if path.endswith("/") else target.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            target.write_text(path)


def walk(
    base: Path, *, max_depth: int = 10, include_ignored: bool = False, private: tuple[Path, ...] = ()
) -> Walk:
    workspace = Workspace(base, private=private[:1], private_files=private[1:])
    return Walk(
        workspace=workspace,
        root=str(workspace.base),
        max_depth=max_depth,
        include_ignored=include_ignored,
        deadline=time.monotonic() + 60,
    )


def listing(walk: Walk, *, include_files: bool = True, limit: int = 10_000) -> Listing:
    checkout = checkout_around(walk.workspace, walk.root)
    return Listing(walk, checkout, include_files=include_files, limit=limit)


def entries(listing: Listing) -> list[Entry]:
    return [entry for batch in listing for entry in batch]


def paths(listing: Listing) -> list[str]:
    return [entry.path for entry in entries(listing)]


def test_nearest_first_folders_first_by_name(base: Path) -> None:
    """A level comes before the next one; in a directory folders, then links, then files."""
    make(base, "b/y/deep", "b/x", "a/z", "c", "A")
    (base / "link").symlink_to("a")

    assert ["a", "b", "link", "A", "c", "a/z", "b/y", "b/x", "b/y/deep"] == paths(listing(walk(base)))


@pytest.mark.parametrize(("depth", "count"), [(1, 1), (2, 2), (3, 3), (20, 4)])
def test_depth_counts_levels(base: Path, depth: int, count: int) -> None:
    """One level is what stands in the directory itself."""
    make(base, "1/2/3/4")

    assert count == len(entries(listing(walk(base, max_depth=depth))))


@pytest.mark.parametrize("limit", [1, 3, 4, 5])
def test_a_limit_keeps_what_is_nearest(base: Path, limit: int) -> None:
    """And says that there is more, exactly when there is."""
    make(base, "a/1", "a/2", "b/")
    found = listing(walk(base), limit=limit)

    assert ["a", "b", "a/1", "a/2"][:limit] == paths(found)
    assert (found.count, found.is_truncated) == (min(limit, 4), limit < 4)


def test_only_directories_unless_asked(base: Path) -> None:
    """Without files, links to directories are shown and other links are not."""
    make(base, "a/file", "file")
    (base / "to-directory").symlink_to("a")
    (base / "to-file").symlink_to("file")

    assert ["a", "to-directory"] == paths(listing(walk(base), include_files=False))


def test_ignored_folders_are_shown_and_not_entered(base: Path) -> None:
    """`.git` is not even shown; with `include_ignored` everything is."""
    make(base, "node_modules/x/y", ".git/HEAD", "src/__pycache__/a.pyc")
    found = entries(listing(walk(base)))

    assert [("node_modules", True), ("src", UNSET), ("src/__pycache__", True)] == [
        (entry.path, entry.ignored) for entry in found
    ]
    assert len(entries(listing(walk(base, include_ignored=True)))) == 8


def test_the_servers_own_files_are_not_listed(base: Path) -> None:
    """Neither its directories nor its database with what belongs to it."""
    make(base, "state/x", "data/agent.db", "data/agent.db-wal", "data/other")
    found = listing(walk(base, private=(base / "state", base / "data/agent.db")))

    assert ["data", "data/other"] == paths(found)


def test_links_are_shown_and_never_entered(base: Path) -> None:
    """What they lead to is told when it lies in the workspace; loops and links out do no harm."""
    make(base, "a/file")
    for name, target in {
        "in": "a",
        "file": "a/file",
        "out": "/etc",
        "loop": "loop",
        "gone": "missing",
    }.items():
        (base / name).symlink_to(target)
    found = {
        entry.path: entry.target_type for entry in entries(listing(walk(base))) if entry.type == "symlink"
    }

    assert found == {"in": "directory", "file": "file", "out": UNSET, "loop": UNSET, "gone": UNSET}


def test_a_chain_of_links_leads_nowhere(base: Path) -> None:
    """Thousands of links, each leading to the next, are listed as any other and cost no more."""
    for number in range(2000):
        (base / f"{number:04}").symlink_to(f"{number + 1:04}")
    make(base, "2000")
    found = entries(listing(walk(base)))

    assert ("0000", UNSET) == (found[0].name, found[0].target_type)
    assert ("1999", "file") == (found[-2].name, found[-2].target_type)


def test_special_files_are_told_apart(base: Path) -> None:
    """A pipe is neither a file nor a directory."""
    os.mkfifo(base / "pipe")

    assert [("pipe", "other")] == [(entry.name, entry.type) for entry in entries(listing(walk(base)))]


def test_names_that_are_not_utf8_are_there(base: Path) -> None:
    """They can be encoded, and carry a URI that names them exactly."""
    make(base, "ok/")
    os.mkdir(os.fsencode(base) + b"/caf\xe9")
    (Path(os.fsdecode(os.fsencode(base) + b"/caf\xe9")) / "in").touch()
    found = entries(listing(walk(base)))

    assert ["caf\ufffd", "ok", "caf\ufffd/in"] == [entry.path for entry in found]
    assert [f"file://{base}/caf%E9", UNSET, f"file://{base}/caf%E9/in"] == [entry.uri for entry in found]
    assert msgspec.json.encode(found)


def test_size_and_time_of_the_nearest(base: Path) -> None:
    """The first entries have them, a very large listing does not for all."""
    make(base, "file")
    os.utime(base / "file", ns=(0, 1_700_000_000_123_456_789))
    for number in range(DETAILED):
        (base / f"n{number:05}").touch()
    found = entries(listing(walk(base)))

    assert (found[0].size, found[0].modified_at) == (4, "2023-11-14T22:13:20.123Z")
    assert [UNSET] == [entry.size for entry in found[DETAILED:]]


@pytest.mark.parametrize("seconds", [0, -1, -(2**62), 2**62, 253402300799])
def test_any_time_can_be_shown(seconds: int) -> None:
    """A file may claim a time that no calendar has."""
    assert len(wire_time(seconds * 10**9)) == len("2023-11-14T22:13:20.123Z")


def test_checkouts_are_recognised(base: Path) -> None:
    """Each entry knows the checkout that it is or lies in; an empty `.git` makes none."""
    make(base, "repo/.git/HEAD", "repo/src/a", "repo/sub/inner/b", "fake/.git/", "linked/x")
    (base / "repo/sub/.git").write_text("gitdir: ../.git/modules/sub\n")
    (base / "linked/.git").write_text("gitdir: /elsewhere/.git/worktrees/linked\n")
    found = {entry.path: entry.git_root for entry in entries(listing(walk(base)))}

    assert found == {
        "fake": None,
        "linked": "linked",
        "linked/x": "linked",
        "repo": "repo",
        "repo/src": "repo",
        "repo/src/a": "repo",
        "repo/sub": "repo/sub",
        "repo/sub/inner": "repo/sub",
        "repo/sub/inner/b": "repo/sub",
    }


def test_the_workspace_may_be_a_checkout(base: Path) -> None:
    """Its root is called `/`."""
    make(base, ".git/HEAD", "a")

    assert [("a", True, "/")] == [(e.path, e.in_git_repo, e.git_root) for e in entries(listing(walk(base)))]


def test_what_may_not_be_read_is_marked(unprivileged: Path) -> None:
    """The rest of the listing is not affected."""
    make(unprivileged, "closed/a", "open/b")
    (unprivileged / "closed").chmod(0)
    found = entries(listing(walk(unprivileged)))
    (unprivileged / "closed").chmod(0o700)

    assert [("closed", True), ("open", UNSET), ("open/b", UNSET)] == [(e.path, e.denied) for e in found]


def test_a_walk_ends_in_time(base: Path) -> None:
    """When the time is over, what was found so far is the answer, and it says so."""
    make(base, "a/b")
    late = walk(base)
    late.deadline = time.monotonic() - 1
    found = listing(late)

    assert (paths(found), found.is_truncated) == ([], True)


def test_a_large_tree_is_complete(base: Path) -> None:
    """Every file once, whatever the batches are."""
    wanted = {f"{d}/{n}" for d in range(30) for n in range(150)}
    make(base, *wanted)
    found = paths(listing(walk(base)))

    assert len(found) == len(set(found)) == 30 + len(wanted)
    assert wanted < set(found)
