"""What a turn has changed: snapshots of working trees, and diffs from and to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentsrv.api.schemas.git import DiffView
from agentsrv.errors import NotFound
from agentsrv.workspace.git import snapshot_writer
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import DiffRequest, DropSnapshots, TakeSnapshot
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, make_repository, raw_changes, run_git, write_files
from tests.workspace.test_diff_equals_git import described, index_with_all, numbers, seeds, start

REFERENCE = "refs/agentsrv/snapshots/s"


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.fixture(autouse=True)
def unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may write only to one repository for the rest of its life; this process has to live on."""
    monkeypatch.setattr(snapshot_writer, "restrict_writes", lambda directories: True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repo", {"a": "a\n", "b": "b\n", ".gitignore": "*.log\n"})


def take(root: Path, turn: str = "t", moment: str = "start", session: str = "s") -> None:
    request = {"path": str(root), "session_id": session, "turn_id": turn, "moment": moment}
    snapshot_writer.take(
        Workspace(root.parent), msgspec.convert({"type": "take_snapshot", **request}, TakeSnapshot)
    )


def compare(root: Path, **options: Any) -> DiffView:
    request = msgspec.convert({"type": "diff", "path": str(root), **options}, DiffRequest)
    return msgspec.json.decode(diff(Workspace(root.parent), request) + b',"timestamp":""}', type=DiffView)


def changed(root: Path, **options: Any) -> list[tuple[str, str | None]]:
    return [(file.status, file.new_path or file.old_path) for file in compare(root, **options).files]


def snapshots(root: Path) -> list[tuple[str, str]]:
    """The ids of trees, and the names without the time, the oldest first."""
    lines = run_git(root, "ls-tree", REFERENCE).decode().splitlines()
    return [(line.split()[2], line.partition("-")[2]) for line in lines]


@pytest.mark.parametrize("first", numbers(20, 100))
def test_a_snapshot_is_the_tree_that_git_would_make(tmp_path: Path, first: int) -> None:
    """Of everything: what is staged, changed, untracked, renamed; and nothing of the user's own is touched."""
    for seed in seeds(first):
        root = tmp_path / f"r{seed}"
        generator = start(root, seed)
        generator.change(4)
        run_git(root, "add", "--all")
        generator.change(6)
        status, index = run_git(root, "status", "--porcelain=v2"), (root / ".git/index").read_bytes()
        take(root)
        assert index == (root / ".git/index").read_bytes()
        assert status == run_git(root, "status", "--porcelain=v2")
        tree = run_git(root, "write-tree", environment=index_with_all(root)).decode().strip()
        assert [(tree, "t-start")] == snapshots(root)

        generator.change(5)
        expected = raw_changes(root, "--cached", tree, environment=index_with_all(root))
        assert expected == described(compare(root, base="turn:t"))
        take(root, moment="end")
        assert expected == described(compare(root, base="turn:t", head="turn:t"))


def test_one_turn_is_told_apart_from_those_before_and_after(root: Path) -> None:
    """Each has what it has changed, also of files that were untracked before; the session has all."""
    write_files(root, {"user": "1\n", "untouched": "u\n"})
    for turn, files in (("t1", {"a": "A\n", "user": "2\n"}), ("t2", {"b": "B\n", "new": "n\n"})):
        take(root, turn)
        write_files(root, dict(files))
        take(root, turn, "end")
    write_files(root, {"later": "l\n"})

    assert changed(root, base="turn:t1", head="turn:t1") == [("modified", "a"), ("modified", "user")]
    assert changed(root, base="turn:t2", head="turn:t2") == [("modified", "b"), ("added", "new")]
    assert changed(root, base="turn:t2") == [("modified", "b"), ("added", "later"), ("added", "new")]
    assert [path for _, path in changed(root, base="session:s")] == ["a", "b", "later", "new", "user"]
    assert [path for _, path in changed(root, base="session:s", head="turn:t1")] == ["a", "user"]


def test_commits_of_a_turn_are_its_changes_too(root: Path) -> None:
    """An agent that commits its work, or changes to another branch, has changed it all the same."""
    take(root)
    write_files(root, {"a": "A\n", "new": "n\n"})
    commit(root)
    run_git(root, "checkout", "--quiet", "-b", "other")

    assert changed(root) == []
    assert changed(root, base="turn:t") == [("modified", "a"), ("added", "new")]
    assert changed(root, base="turn:t", head="HEAD") == [("modified", "a"), ("added", "new")]
    assert changed(root, base="turn:t", staged=True) == [("modified", "a"), ("added", "new")]


def test_a_turn_that_runs_is_compared_as_it_is(root: Path) -> None:
    """Its end is the working tree until it has one."""
    take(root)
    write_files(root, {"a": "A\n"})
    found = compare(root, base="turn:t", head="turn:t")

    assert ["a"] == [file.new_path for file in found.files]
    assert (snapshots(root)[0][0], None) == (found.base_id, found.head_id)


def test_what_became_ignored_has_not_gone(root: Path) -> None:
    """A file that was untracked, and that git does not show any more, is still compared."""
    write_files(root, {"notes": "1\n", "kept": "1\n"})
    take(root)
    write_files(root, {".gitignore": "notes\nkept\n", "notes": "2\n"})
    expected = [("modified", ".gitignore"), ("modified", "notes")]

    assert expected == changed(root, base="turn:t")
    take(root, moment="end")
    assert expected == changed(root, base="turn:t", head="turn:t")


def test_large_files_are_compared_by_size_and_time(root: Path) -> None:
    """They are not kept, and told when they were touched."""
    for name in ("same", "touched", "text"):
        write_files(root, {name: (b"x\n" if name == "text" else b"\0") * (5 * 1024 * 1024)})
    take(root)
    assert changed(root, base="turn:t") == []
    size = sum(file.stat().st_size for file in (root / ".git/objects").rglob("*") if file.is_file())
    assert size < 100_000
    os.utime(root / "touched", ns=(1, 1))
    (root / "text").unlink()
    take(root, moment="end")

    for head in (None, "turn:t"):
        found = compare(root, base="turn:t", head=head)
        assert [("deleted", "text"), ("modified", "touched")] == [
            (file.status, file.new_path or file.old_path) for file in found.files
        ]
        assert [True, True] == [file.truncated for file in found.files]


def test_a_conflict_is_kept_as_it_lies_there(root: Path) -> None:
    """With its markers; the merge goes on afterwards."""
    run_git(root, "checkout", "--quiet", "-b", "other")
    write_files(root, {"a": "other\n"})
    commit(root)
    run_git(root, "checkout", "--quiet", "main")
    write_files(root, {"a": "main\n"})
    commit(root)
    run_git(root, "merge", "other", check=False)
    status = run_git(root, "status", "--porcelain=v2")
    take(root)
    take(root, moment="end")

    assert [] == compare(root, base="turn:t", head="turn:t").files
    assert status == run_git(root, "status", "--porcelain=v2")
    assert b"<<<<<<<" in run_git(root, "cat-file", "blob", f"{snapshots(root)[0][0]}:a")


def test_a_worktree_has_snapshots_of_its_own(root: Path) -> None:
    """They are in the repository that it belongs to, and gone with the session."""
    run_git(root, "worktree", "add", "--quiet", str(root.parent / "linked"))
    linked = root.parent / "linked"
    take(linked)
    write_files(linked, {"a": "A\n"})

    assert [("modified", "a")] == changed(linked, base="turn:t")
    snapshot_writer.drop(Workspace(root.parent), DropSnapshots(path=str(linked), session_id="s"))
    assert b"" == run_git(root, "for-each-ref", "refs/agentsrv")


def test_where_there_can_be_none_the_reason_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that nobody knows, and one with more than can be kept."""
    with pytest.raises(NotFound, match="there is no snapshot of turn:x here"):
        changed(root, base="turn:x")
    monkeypatch.setattr(snapshot_writer, "MAX_FILES", 1)
    write_files(root, {"x": "x\n", "y": "y\n"})
    take(root)
    with pytest.raises(NotFound, match="no snapshot could be taken of turn:t: more than 1 files"):
        changed(root, base="turn:t")


def test_old_snapshots_go_and_the_first_one_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many are kept as the newest turns have, and the beginning of the session."""
    monkeypatch.setattr(snapshot_writer, "KEPT_TURNS", 2)
    for turn in range(5):
        take(root, f"t{turn}")
        take(root, f"t{turn}", "end")
    assert ["t0-start", "t3-start", "t3-end", "t4-start", "t4-end"] == [name for _, name in snapshots(root)]
    monkeypatch.setattr(snapshot_writer, "KEPT_S", -1)
    take(root, session="other")
    assert b"" == run_git(root, "for-each-ref", "refs/agentsrv/snapshots")


def test_history_does_not_show_them(root: Path) -> None:
    """Nor do a clone and a push take them along; `git gc` keeps them."""
    write_files(root, {"a": "A\n"})
    take(root)
    run_git(root, "gc", "--quiet", "--prune=now")

    assert 1 == len(run_git(root, "log", "--all", "--oneline").splitlines())
    assert [("modified", "a")] == changed(root, base="HEAD", head="session:s")
    run_git(root.parent, "clone", "--quiet", str(root), "clone")
    assert b"" == run_git(root.parent / "clone", "for-each-ref", "refs/agentsrv")
    run_git(root, "fsck", "--strict")
