"""What a session has committed goes into another branch: as git would merge it, all of it or nothing."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from agentsrv.errors import AgentsrvError
from agentsrv.workspace.git import merging
from agentsrv.workspace.git import shelf as shelf_module
from agentsrv.workspace.git import worktrees as worktrees_module
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import MakeWorktree, MergedWorktree, MergeHow, MergeWorktree
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, commit_id, make_repository, run_git, write_files


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.fixture(autouse=True)
def unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process keeps its own right to write."""
    for module in (merging, shelf_module):
        monkeypatch.setattr(module, "restrict_writes", lambda directories: True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_repository(tmp_path / "repo", {"a": "1\n2\n3\n4\n5\n", "b": "b\n", ".gitignore": "*.log\n"})
    run_git(root, "config", "user.name", "Grace")
    run_git(root, "config", "user.email", "grace@example.org")
    return root


@pytest.fixture
def linked(root: Path) -> Path:
    """The worktree of a session."""
    made = worktrees_module.make(Workspace(root.parent), MakeWorktree(cwd=str(root), session_id="s"))
    return Path(made.path)


def merge(linked: Path, how: MergeHow = "merge", into: str | None = None) -> MergedWorktree:
    base = linked.parents[2]
    return merging.merge(Workspace(base), MergeWorktree(path=str(linked), how=how, into=into))


def refused(linked: Path, how: MergeHow = "merge", into: str | None = None) -> AgentsrvError:
    with pytest.raises(AgentsrvError) as caught:
        merge(linked, how, into)
    return caught.value


def state(root: Path) -> tuple[bytes, ...]:
    return (
        run_git(root, "rev-parse", "main"),
        run_git(root, "status", "--porcelain=v2", "--ignored"),
        run_git(root, "diff", "HEAD"),
    )


def subjects(root: Path, revision: str = "main") -> list[str]:
    return run_git(root, "log", "--format=%an %s", revision).decode().splitlines()


def test_what_is_only_ahead_is_taken_as_it_is(root: Path, linked: Path) -> None:
    """A fast-forward; the main working tree follows, with what its user has changed elsewhere."""
    write_files(linked, {"a": "A\n", "new/x": "x\n"})
    commit(linked)
    tip = commit_id(linked)
    write_files(root, {"b": "mine\n", "untracked": "u\n"})
    done = merge(linked)

    assert (done.commit, done.into, done.branch, done.is_fast_forward) == (tip, "main", "session/s", True)
    assert run_git(root, "status", "--porcelain") == b" M b\n?? untracked\n"
    assert (root / "new/x").read_text() == "x\n"
    assert merge(linked).commit == merge(linked).before == tip


@pytest.mark.parametrize(
    ("how", "log"),
    [
        ("merge", ["Grace Merge branch 'session/s' into main", "Ada theirs", "Ada ours", "Ada change"]),
        ("squash", ["Grace Squash branch 'session/s' into main", "Ada ours", "Ada change"]),
        ("rebase", ["Ada theirs", "Ada ours", "Ada change"]),
    ],
)
def test_both_have_gone_on(root: Path, linked: Path, how: MergeHow, log: list[str]) -> None:
    """Each way gives the same files and its own history; the session's branch stays as it is."""
    write_files(root, {"b": "ours\n"})
    commit(root, "ours")
    write_files(linked, {"a": "1\n2\n3\n4\nfive\n"})
    commit(linked, "theirs")
    tip = commit_id(linked)
    done = merge(linked, how)

    assert sorted(log) == sorted(subjects(root))
    assert (root / "a").read_text() == "1\n2\n3\n4\nfive\n"
    assert run_git(root, "status", "--porcelain") == b""
    assert (done.is_fast_forward, run_git(root, "rev-parse", "session/s").decode().strip()) == (False, tip)


@pytest.mark.parametrize("how", ["merge", "squash", "rebase"])
def test_conflicts_are_named_and_nothing_is_half_done(root: Path, linked: Path, how: MergeHow) -> None:
    """Content, and a file that one has deleted; the branches and files are as before."""
    write_files(root, {"a": "ours\n", "b": "ours\n"})
    commit(root, "ours")
    write_files(linked, {"a": "theirs\n", "fine": "f\n"})
    (linked / "b").unlink()
    commit(linked, "theirs")
    before = state(root)
    error = refused(linked, how)

    assert (error.code, [problem.path for problem in error.problems]) == ("merge_conflicts", ["a", "b"])
    assert before == state(root)


def test_what_would_be_overwritten_blocks_it(root: Path, linked: Path) -> None:
    """A changed, staged, untracked or ignored file in the main working tree, and a merge that is not finished."""
    write_files(linked, {"a": "theirs\n", "new": "n\n", "x.log": "l\n"})
    run_git(linked, "add", "--force", "x.log")
    commit(linked)
    for name in ("a", "new", "x.log"):
        write_files(root, {name: "mine\n"})
        before = state(root)
        assert refused(linked).code == "merge_blocked"
        assert before == state(root)
        run_git(root, "checkout", "--quiet", "--force", "main")
        run_git(root, "clean", "-qfdx")
    (root / ".git/MERGE_HEAD").write_bytes(run_git(root, "rev-parse", "HEAD"))
    assert refused(linked).code == "merge_blocked"


def test_what_is_not_committed_is_not_left_behind(root: Path, linked: Path) -> None:
    """It would look merged and not be."""
    write_files(linked, {"a": "theirs\n"})
    commit(linked)
    write_files(linked, {"forgotten": "f\n"})

    assert refused(linked).code == "worktree_has_changes"


def test_another_branch_than_the_one_that_is_checked_out(root: Path, linked: Path) -> None:
    """Only the branch moves. One that somebody else works on, and one that there is not, are refused."""
    run_git(root, "branch", "release")
    write_files(linked, {"a": "theirs\n"})
    commit(linked)
    tip = commit_id(linked)
    before = state(root)

    assert (
        merge(linked, into="release").commit == tip == run_git(root, "rev-parse", "release").decode().strip()
    )
    assert before == state(root)
    run_git(root, "worktree", "add", "--quiet", str(root.parent / "other"), "-b", "other")
    assert refused(linked, into="other").code == "merge_blocked"
    assert refused(linked, into="none").code == "unknown_revision"
    run_git(root, "checkout", "--quiet", "--detach")
    assert refused(linked).code == "unknown_revision"


def test_nothing_of_the_repository_is_run(root: Path, linked: Path) -> None:
    """No hook, no merge driver, no filter, no monitor."""
    canary = root.parent / "canary"
    for name in ("post-merge", "post-checkout", "pre-commit", "post-rewrite", "reference-transaction"):
        hook = root / ".git/hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {canary}\n")
        hook.chmod(0o755)
    for setting in ("merge.evil.driver", "filter.evil.clean", "filter.evil.smudge", "core.fsmonitor"):
        run_git(root, "config", setting, f"touch {canary}")
    (root / ".git/info/attributes").write_text("* merge=evil filter=evil\n")
    (linked / "a").write_text("theirs\n")
    (root / "a").write_text("1\n2\n3\n4\n5\nours\n")
    (root / "b").write_text("ours\n")
    for tree in (root, linked):
        plumb = ("-c", "core.fsmonitor=", "-c", "core.hooksPath=/none", "-c", "filter.evil.clean=cat")
        run_git(tree, *plumb, "commit", "--quiet", "--all", "--message", "x")
    canary.unlink(missing_ok=True)

    assert refused(linked).code == "merge_conflicts"
    assert not canary.exists()


@pytest.mark.parametrize("seed", range(3))
def test_a_merge_is_the_one_that_git_makes(tmp_path: Path, seed: int) -> None:
    """Files edited, added and deleted on both sides: the same tree, or the same files in conflict."""
    random = Random(seed)
    names = [f"f{number}" for number in range(4)]
    for step in range(12):
        base = tmp_path / f"{step}"
        root = make_repository(base / "repo", {name: "".join(f"{n}\n" for n in range(12)) for name in names})
        made = worktrees_module.make(Workspace(base), MakeWorktree(cwd=str(root), session_id="s"))
        linked = Path(made.path)
        for tree in (root, linked):
            change(random, tree, names)
            commit(tree)
        output = run_git(
            root, "merge-tree", "--write-tree", "--name-only", "-z", "main", "session/s", check=False
        )
        tree_id, *rest = output.decode().split("\0")
        conflicts = rest[: rest.index("")] if "" in rest else []
        if conflicts:
            assert sorted(set(conflicts)) == [problem.path for problem in refused(linked).problems]
        else:
            done = merge(linked)
            assert tree_id == run_git(root, "rev-parse", f"{done.commit}^{{tree}}").decode().strip()
            assert run_git(root, "status", "--porcelain") == b""


def change(random: Random, tree: Path, names: list[str]) -> None:
    for _ in range(random.randint(1, 3)):
        name = random.choice(names)
        match random.randrange(5):
            case 0:
                (tree / name).unlink(missing_ok=True)
            case 1:
                (tree / f"new{random.randrange(3)}").write_text(f"{random.randrange(2)}\n")
            case _:
                if not (tree / name).exists():
                    continue
                lines = (tree / name).read_text().splitlines()
                lines[random.randrange(12) % max(len(lines), 1)] = f"edit {random.randrange(3)}"
                (tree / name).write_text("\n".join(lines) + "\n")
