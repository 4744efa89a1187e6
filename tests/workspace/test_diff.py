"""Diffs of repositories in every state that git knows, and of contents that are hard to show."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentsrv.api.schemas.git import DiffFileView, DiffView
from agentsrv.errors import Forbidden, InvalidInput, NotFound, Unprocessable
from agentsrv.workspace.git.diff import answer
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.diff.contents import Unreadable, WorkingTree
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, commit_id, make_repository, run_git, write_files
from tests.workspace.patches import check_hunk

LOCAL = ("-c", "protocol.file.allow=always")


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repo", {"a": "one\ntwo\n", "b": "b\n", "dir/c": "c\n"})


def make_diff(root: Path, **options: Any) -> DiffView:
    request = msgspec.convert({"type": "diff", "path": str(root), **options}, DiffRequest)
    body = diff(Workspace(root.parent), request) + b',"timestamp":""}'
    found = msgspec.json.decode(body, type=DiffView)
    for file in found.files:
        for hunk in file.hunks:
            check_hunk(hunk)
    return found


def summary(found: DiffView) -> list[tuple[str, str | None]]:
    return [(file.status, file.new_path or file.old_path) for file in found.files]


def content(file: DiffFileView) -> list[str]:
    """The lines of a patch, with their signs."""
    signs = {"context": " ", "add": "+", "del": "-"}
    return [signs[line.type] + line.content for hunk in file.hunks for line in hunk.lines]


# States


def test_an_empty_repository(tmp_path: Path) -> None:
    """Before the first commit everything is added; the base may still be called HEAD."""
    root = make_repository(tmp_path / "empty")
    write_files(root, {"x": "x\n", "y": "y"})
    run_git(root, "add", "x")
    found = make_diff(root)

    assert [("added", "x"), ("added", "y")] == summary(found)
    assert (None, "HEAD") == (found.base_id, found.base)
    assert [("added", "x")] == summary(make_diff(root, staged=True, base="HEAD"))
    assert [] == summary(make_diff(root, head="HEAD"))


def test_a_detached_head(repo: Path) -> None:
    """HEAD is a commit like any other."""
    run_git(repo, "checkout", "--quiet", "--detach")
    write_files(repo, {"b": "B\n"})

    assert [("modified", "b")] == summary(make_diff(repo))


def test_a_merge_with_conflicts(repo: Path) -> None:
    """Files in conflict are compared as they lie there, with their markers, and flagged."""
    run_git(repo, "checkout", "--quiet", "-b", "other")
    write_files(repo, {"a": "one\nother\n"})
    commit(repo)
    run_git(repo, "checkout", "--quiet", "main")
    write_files(repo, {"a": "one\nmain\n"})
    commit(repo)
    run_git(repo, "merge", "other", check=False)
    [file] = make_diff(repo).files
    [staged] = make_diff(repo, staged=True).files

    assert (True, "modified") == (file.conflicted, file.status)
    assert [" one", "+<<<<<<< HEAD", " main", "+=======", "+other", "+>>>>>>> other"] == content(file)
    assert (True, []) == (staged.conflicted, staged.hunks)


def test_a_rebase_that_stopped(repo: Path) -> None:
    """In the middle of a rebase, too."""
    run_git(repo, "checkout", "--quiet", "-b", "other")
    write_files(repo, {"a": "1\n"})
    commit(repo)
    run_git(repo, "checkout", "--quiet", "main")
    write_files(repo, {"a": "2\n"})
    commit(repo)
    run_git(repo, "rebase", "other", check=False)

    assert [True] == [file.conflicted for file in make_diff(repo).files]


def test_a_linked_worktree(repo: Path) -> None:
    """It has its own HEAD, index and files; where it lies does not matter."""
    linked = repo.parent / "elsewhere" / "linked"
    run_git(repo, "worktree", "add", "--quiet", str(linked))
    write_files(linked, {"a": "changed\n"})
    request = DiffRequest(path="elsewhere/linked/dir")
    found = msgspec.json.decode(diff(Workspace(repo.parent), request) + b',"timestamp":""}', type=DiffView)

    assert [("modified", "a")] == summary(found)
    assert (str(linked), "elsewhere/linked") == (found.repo_path, found.relative_path)
    assert [] == summary(make_diff(repo))


def test_a_sparse_checkout(repo: Path) -> None:
    """What was not checked out is not deleted."""
    run_git(repo, "sparse-checkout", "set", "--no-cone", "a")
    write_files(repo, {"a": "changed\n"})

    assert not (repo / "b").exists()
    assert [("modified", "a")] == summary(make_diff(repo))


def test_a_shallow_clone(repo: Path) -> None:
    """History that is not there is not needed; asking for it is an error that says so."""
    commit(repo)
    run_git(repo.parent, "clone", "--quiet", "--depth=1", f"file://{repo}", "shallow")
    shallow = repo.parent / "shallow"
    write_files(shallow, {"b": "B\n"})

    assert [("modified", "b")] == summary(make_diff(shallow))
    with pytest.raises(InvalidInput, match="base"):
        make_diff(shallow, base="HEAD~1")


def test_a_partial_clone(repo: Path) -> None:
    """Contents that are not there are not fetched: the file is flagged, the others are shown."""
    run_git(repo, "config", "uploadpack.allowFilter", "true")
    clone = (
        *LOCAL,
        "clone",
        "--quiet",
        "--no-local",
        "--filter=blob:none",
        "--no-checkout",
        f"file://{repo}",
        "partial",
    )
    run_git(repo.parent, *clone)
    partial = repo.parent / "partial"
    run_git(partial, "read-tree", "HEAD")
    write_files(partial, {"new": "new\n"})

    assert [(file.new_path or file.old_path, file.unreadable) for file in make_diff(partial).files] == [
        ("a", True),
        ("b", True),
        ("dir/c", True),
        ("new", False),
    ]


def test_a_repository_of_somebody_else(repo: Path) -> None:
    """Containers mount what another user owns."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in (repo, *repo.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    write_files(repo, {"b": "B\n"})

    assert [("modified", "b")] == summary(make_diff(repo))


def test_unusual_flags_of_the_index(repo: Path) -> None:
    """Assume-unchanged and skip-worktree hide changes, intent-to-add shows a file as added: as in git."""
    run_git(repo, "update-index", "--assume-unchanged", "a")
    run_git(repo, "update-index", "--skip-worktree", "b")
    write_files(repo, {"a": "changed\n", "new": "n\n"})
    (repo / "b").unlink()
    run_git(repo, "add", "--intent-to-add", "new")

    assert [("added", "new")] == summary(make_diff(repo))
    assert [] == summary(make_diff(repo, staged=True))


def test_a_file_that_was_only_taken_out_of_the_index(repo: Path) -> None:
    """`git rm --cached` deletes nothing: the file is compared as it is."""
    run_git(repo, "rm", "--quiet", "--cached", "a", "b")
    write_files(repo, {"b": "B\n"})

    assert [("modified", "b")] == summary(make_diff(repo))
    assert [("deleted", "a"), ("deleted", "b")] == summary(make_diff(repo, staged=True))


def test_ignored_files_are_left_out(repo: Path) -> None:
    """`.gitignore` and `.git/info/exclude` count."""
    write_files(repo, {".gitignore": "*.log\n", "x.log": "", "x.tmp": "", "dir/y.log": ""})
    (repo / ".git/info/exclude").write_text("*.tmp\n")

    assert [("added", ".gitignore")] == summary(make_diff(repo))


def test_a_file_mode_is_a_change_unless_the_repository_says_otherwise(repo: Path) -> None:
    """`core.fileMode=false` is for file systems that have none."""
    (repo / "a").chmod(0o755)
    [file] = make_diff(repo).files
    run_git(repo, "config", "core.fileMode", "false")

    assert ("modified", "100644", "100755", []) == (file.status, file.old_mode, file.new_mode, file.hunks)
    assert [] == summary(make_diff(repo))


# Submodules


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a submodule `mod`."""
    library = make_repository(tmp_path / "library", {"s": "s\n"})
    root = make_repository(tmp_path / "project", {"f": "f\n"})
    run_git(root, *LOCAL, "submodule", "add", "--quiet", str(library), "mod")
    commit(root)
    return root


def test_a_submodule_at_another_commit(project: Path) -> None:
    """It looks as git shows it: one line with the commit."""
    old = run_git(project / "mod", "rev-parse", "HEAD").decode().strip()
    write_files(project / "mod", {"s": "changed\n"})
    dirty = make_diff(project)
    commit(project / "mod")
    new = commit_id(project / "mod")
    [file] = make_diff(project).files

    assert [[f"-Subproject commit {old}", f"+Subproject commit {old}-dirty"]] == [
        content(f) for f in dirty.files
    ]
    assert ("160000", "160000", 1, 1) == (file.old_mode, file.new_mode, file.additions, file.deletions)
    assert [f"-Subproject commit {old}", f"+Subproject commit {new}"] == content(file)


def test_a_submodule_that_is_not_there(project: Path) -> None:
    """An empty folder is one that was not initialised, which is no change; without the folder it is deleted."""
    shutil.rmtree(project / "mod")
    gone = summary(make_diff(project))
    (project / "mod").mkdir()

    assert [("deleted", "mod")] == gone
    assert [] == summary(make_diff(project))


def test_the_diff_of_a_submodule_itself(project: Path) -> None:
    """A submodule is a repository: its own changes are one path further."""
    write_files(project / "mod", {"s": "changed\n"})

    assert [("modified", "s")] == summary(make_diff(project / "mod"))


def test_a_repository_in_a_repository(repo: Path) -> None:
    """One that git does not know yet is what `git add` would make of it; without a commit it is nothing."""
    make_repository(repo / "inner", {"x": "x\n"})
    make_repository(repo / "empty")

    assert [("added", "inner", "160000")] == [
        (file.status, file.new_path, file.new_mode) for file in make_diff(repo).files
    ]


# Ends


def test_between_two_commits(repo: Path) -> None:
    """Names of branches, tags, short ids and what may follow them; the ids come with the answer."""
    first = run_git(repo, "rev-parse", "HEAD").decode().strip()
    write_files(repo, {"a": "changed\n"})
    commit(repo)
    second = commit_id(repo)
    run_git(repo, "tag", "-a", "v1", "-m", "tag")

    for base, head in (
        ("HEAD~1", "HEAD"),
        (first[:8], "v1"),
        ("main^", "main"),
        (first, "HEAD^0"),
        ("@~", "@"),
    ):
        found = make_diff(repo, base=base, head=head)
        assert [("modified", "a")] == summary(found)
        assert (base, head, first) == (found.base, found.head, found.base_id)
    assert second == make_diff(repo, base=first, head="HEAD").head_id


def test_from_where_two_branches_part(repo: Path) -> None:
    """`merge_base=true`: what one branch has changed, not what the other one has in the meantime."""
    run_git(repo, "checkout", "--quiet", "-b", "feature")
    write_files(repo, {"feature": "f\n"})
    commit(repo)
    run_git(repo, "checkout", "--quiet", "main")
    write_files(repo, {"main": "m\n"})
    commit(repo)

    both = make_diff(repo, base="feature", head="main")
    one = make_diff(repo, base="feature", head="main", merge_base=True)
    here = make_diff(repo, base="feature", merge_base=True)

    assert [("deleted", "feature"), ("added", "main")] == summary(both)
    assert [("added", "main")] == summary(one) == summary(here)


def test_branches_without_a_common_past(repo: Path) -> None:
    """There is no merge base: 400 that says so."""
    run_git(repo, "checkout", "--quiet", "--orphan", "other")
    commit(repo, "unrelated")

    with pytest.raises(InvalidInput, match="no commit in common"):
        make_diff(repo, base="main", merge_base=True)


# Contents


def test_lines_that_are_not_utf8_keep_their_bytes(repo: Path) -> None:
    """What cannot be shown is replaced, flagged, and there as base64; so is a name, as a URI."""
    name = os.fsencode(repo) + b"/caf\xe9"
    with open(name, "wb") as file:
        file.write(b"latin \xe9\nascii\n")
    [found] = make_diff(repo).files
    first, second = found.hunks[0].lines

    assert (True, "caf�", f"file://{repo}/caf%E9") == (found.invalid_utf8, found.new_path, found.new_uri)
    assert ("latin �", "bGF0aW4g6Q==") == (first.content, first.content_base64)
    assert ("ascii", msgspec.UNSET) == (second.content, second.content_base64)


def test_odd_but_valid_text(repo: Path) -> None:
    """Control characters, separators of lines that git does not know, quotes: exactly as they are."""
    lines = [
        '"\\',
        "\x7f",
        "\u2028",
        "a\rb",
        "\ttab",
        "\x1b[0m",
        "\\ No newline at end of file",
        "@@ -1 +1 @@",
        "",
    ]
    write_files(repo, {"odd": "\n".join(lines) + "\n"})

    assert ["+" + line for line in lines] == content(make_diff(repo).files[0])


def test_a_line_of_20_mb(repo: Path) -> None:
    """It is counted, and too long to be shown: the file says that it is cut, the others come whole."""
    write_files(repo, {"a": "x" * 20_000_000 + "\n", "b": "B\n"})
    large, small = make_diff(repo).files

    assert (True, [], 1, 2) == (large.truncated, large.hunks, large.additions, large.deletions)
    assert (False, ["-b", "+B"]) == (small.truncated, content(small))


def test_a_file_that_is_too_large_is_not_read(repo: Path) -> None:
    """Neither from disk nor from an object that is small only as long as it is packed; its beginning tells a lot."""
    write_files(repo, {"bomb": bytes(70_000_000)})
    commit(repo)
    write_files(repo, {"bomb": "small\n", "large": "", "text": "x" * 8000})
    os.truncate(repo / "large", 70_000_000)
    os.truncate(repo / "text", 70_000_000)

    assert [("bomb", True, False), ("large", False, True), ("text", True, False)] == [
        (file.new_path, file.truncated, file.binary) for file in make_diff(repo).files
    ]


def test_a_binary_file(repo: Path) -> None:
    """It has no lines."""
    write_files(repo, {"a": b"\x00\x01", "new.bin": b"\x00"})

    assert [(True, [], 0, 0)] * 2 == [
        (file.binary, file.hunks, file.additions, file.deletions) for file in make_diff(repo).files
    ]


def test_a_link_is_where_it_leads_and_is_never_followed(repo: Path) -> None:
    """Also when the directory above has become one."""
    (repo / "a").unlink()
    (repo / "a").symlink_to("/etc/passwd")
    shutil.rmtree(repo / "dir")
    (repo / "dir").symlink_to("/etc")
    link, folder_link, gone = make_diff(repo).files[0], make_diff(repo).files[1], make_diff(repo).files[2]

    assert ("typechange", "120000", ["-one", "-two", "+/etc/passwd"]) == (
        link.status,
        link.new_mode,
        content(link)[:3],
    )
    assert ("added", "120000", "dir") == (folder_link.status, folder_link.new_mode, folder_link.new_path)
    assert ("deleted", "dir/c") == (gone.status, gone.old_path)


def test_line_ends_follow_the_repository(repo: Path) -> None:
    """A file that only has other line ends on disk than in git has not changed."""
    write_files(repo, {".gitattributes": "* text=auto\n"})
    commit(repo)
    write_files(repo, {"a": "one\r\ntwo\r\n", "b": "B\r\n"})

    assert [("modified", "b", ["-b", "+B"])] == [
        (file.status, file.new_path, content(file)) for file in make_diff(repo).files
    ]


def test_a_pipe_or_a_socket_is_not_opened(repo: Path) -> None:
    """It would wait for ever; git does not know such things."""
    (repo / "a").unlink()
    os.mkfifo(repo / "a")
    os.mkfifo(repo / "new")

    assert [("deleted", "a")] == summary(make_diff(repo))


# Limits


def test_a_diff_over_the_limit_says_what_is_missing(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that do not fit come without hunks but with their counts, and the answer is flagged."""
    monkeypatch.setattr(answer, "MAX_BYTES", 1200)
    write_files(repo, {f"n{i}": "0123456789\n" * 10 for i in range(3)})
    found = make_diff(repo)

    assert [False, True, True] == [file.truncated for file in found.files]
    assert [10, 10, 10] == [file.additions for file in found.files]
    assert found.truncated


def test_too_many_files(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones come, in order, and the answer is flagged."""
    monkeypatch.setattr(answer, "MAX_FILES", 2)
    write_files(repo, {f"n{i}": "" for i in range(5)})
    found = make_diff(repo)

    assert ([("added", "n0"), ("added", "n1")], True) == (summary(found), found.truncated)


def test_a_diff_that_takes_too_long(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not looked at in time is listed without lines."""
    monkeypatch.setattr(answer, "MAX_SECONDS", -1.0)
    write_files(repo, {"a": "changed\n"})

    assert [("a", True, [])] == [
        (file.new_path, file.truncated, file.hunks) for file in make_diff(repo).files
    ]


# Broken ones


def damage(repo: Path, kind: str) -> None:
    git = repo / ".git"
    match kind:
        case "no HEAD":
            (git / "HEAD").unlink()
        case "garbage HEAD":
            (git / "HEAD").write_text("garbage\n")
        case "empty index":
            (git / "index").write_bytes(b"")
        case "short index":
            (git / "index").write_bytes((git / "index").read_bytes()[:60])
        case "packed-refs":
            shutil.rmtree(git / "refs/heads")
            (git / "refs/heads").mkdir()
            (git / "packed-refs").write_bytes(b"\xff garbage \n")
        case "config":
            (git / "config").write_text("[core\n")
        case "no objects":
            shutil.rmtree(git / "objects")
        case "index is a pipe":
            (git / "index").unlink()
            os.mkfifo(git / "index")
        case "HEAD is a directory":
            (git / "HEAD").unlink()
            (git / "HEAD").mkdir()
        case "gitdir file":
            shutil.rmtree(git)
            git.write_text("gitdir: nowhere\n")
        case "sha256":
            run_git(repo, "config", "core.repositoryformatversion", "1")
            run_git(repo, "config", "extensions.objectFormat", "sha256")
        case "empty objects":
            for path in (git / "objects").rglob("*"):
                if path.is_file():
                    path.chmod(0o600)
                    path.write_bytes(b"")
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "no HEAD", "garbage HEAD", "short index", "packed-refs", "config", "no objects", "index is a pipe",
        "HEAD is a directory", "gitdir file", "sha256", "empty objects",
    ],
)  # fmt: skip
def test_a_damaged_repository(repo: Path, kind: str) -> None:
    """An error that says so, at once, and quotes nothing of what libgit2 read."""
    write_files(repo, {"a": "changed\n"})
    damage(repo, kind)
    with pytest.raises((Unprocessable, InvalidInput)) as caught:
        make_diff(repo)

    assert caught.value.code in ("repository_unreadable", "unknown_revision")


def test_a_damaged_file_does_not_hide_the_others(repo: Path) -> None:
    """One object is missing: its file is flagged."""
    blob = run_git(repo, "rev-parse", "HEAD:a").decode().strip()
    (repo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    write_files(repo, {"a": "changed\n", "b": "B\n"})

    assert [("a", True), ("b", False)] == [(file.new_path, file.unreadable) for file in make_diff(repo).files]


def test_a_lock_that_was_left_over(repo: Path) -> None:
    """Reading needs no lock."""
    (repo / ".git/index.lock").write_text("")
    write_files(repo, {"b": "B\n"})

    assert [("modified", "b")] == summary(make_diff(repo))


# What is no repository, or not all in the workspace


def test_a_bare_repository(tmp_path: Path) -> None:
    """It has nothing to compare; nor is a folder that looks like one taken for a repository."""
    run_git(tmp_path, "init", "--quiet", "--bare", "bare")
    (tmp_path / "bare/.git").symlink_to(".")
    plain = make_repository(tmp_path / "plain", {"a": "a\n"})
    run_git(plain, "config", "core.bare", "true")

    for path in ("bare", "bare/refs", "plain"):
        with pytest.raises((NotFound, Unprocessable)):
            make_diff(tmp_path / path)


def test_a_repository_above_the_workspace_is_not_looked_for(repo: Path) -> None:
    """The search for `.git` ends at the base."""
    with pytest.raises(NotFound) as caught:
        diff(Workspace(repo / "dir"), DiffRequest(path=""))

    assert caught.value.code == "not_a_repository"


def redirect(repo: Path, outside: Path, kind: str) -> None:
    git = repo / ".git"
    match kind:
        case "gitdir file":
            shutil.rmtree(git)
            git.write_text(f"gitdir: {outside}/.git\n")
        case "gitdir link":
            shutil.rmtree(git)
            git.symlink_to(outside / ".git")
        case "commondir":
            (git / "commondir").write_text(f"{outside}/.git\n")
        case "objects link":
            shutil.rmtree(git / "objects")
            (git / "objects").symlink_to(outside / ".git/objects")
        case "alternates":
            (git / "objects/info/alternates").write_text(f"{outside}/.git/objects\n")
        case "chain of alternates":
            make_repository(repo.parent / "middle")
            (repo.parent / "middle/.git/objects/info/alternates").write_text(f"{outside}/.git/objects\n")
            (git / "objects/info/alternates").write_text("../../../middle/.git/objects\n")
        case "worktree":
            run_git(repo, "config", "core.worktree", str(outside))
        case "root as worktree":
            run_git(repo, "config", "core.worktree", "/")
        case "worktree config":
            run_git(repo, "config", "extensions.worktreeConfig", "true")
            (git / "config.worktree").write_text(f"[core]\n\tworktree = {outside}\n")
        case "index link":
            (git / "index").unlink()
            (git / "index").symlink_to(outside / ".git/index")
        case "config link":
            (git / "config").unlink()
            (git / "config").symlink_to(outside / ".git/config")
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "gitdir file", "gitdir link", "commondir", "objects link", "alternates", "chain of alternates", "worktree",
        "root as worktree", "worktree config", "index link", "config link",
    ],
)  # fmt: skip
def test_no_part_of_a_repository_may_lie_outside(tmp_path: Path, kind: str) -> None:
    """Whatever way a repository points out of the workspace, it is refused, and nothing of there is shown."""
    repo = make_repository(tmp_path / "base/repo", {"a": "a\n"})
    outside = make_repository(tmp_path / "outside", {"secret": "secret\n"})
    redirect(repo, outside, kind)
    with pytest.raises(Forbidden) as caught:
        make_diff(repo)

    assert "outside_workspace" == caught.value.code


def test_a_forged_index_leads_nowhere(tmp_path: Path) -> None:
    """A path with `..` in an index makes it a damaged one."""
    repo = make_repository(tmp_path / "base/repo", {"xx/secret": "a\n"})
    (tmp_path / "base/secret").write_text("secret\n")
    index = repo / ".git/index"
    forged = index.read_bytes()[:-20].replace(b"xx/secret", b"../secret")
    index.write_bytes(forged + hashlib.sha1(forged).digest())

    with pytest.raises(Unprocessable):
        make_diff(repo)


@pytest.mark.parametrize(
    "path", [b"../secret", b"link/secret", b"dir/../../secret", b"/etc/passwd", b".git/config", b"..", b""]
)
def test_a_working_tree_is_never_left(tmp_path: Path, path: bytes) -> None:
    """Neither upwards nor through a link, whatever path libgit2 might hand out."""
    (tmp_path / "secret").write_text("secret\n")
    root = make_repository(tmp_path / "root", {"dir/a": "a\n", "b": "b\n"})
    (root / "link").symlink_to("..")
    tree = WorkingTree(str(root))
    try:
        with pytest.raises(Unreadable):
            tree.read(path, 0o100644)
        assert (None, b"b\n", b"a\n") == (
            tree.mode(path),
            tree.read(b"b", 0o100644),
            tree.read(b"dir/a", 0o100644),
        )
    finally:
        tree.close()
