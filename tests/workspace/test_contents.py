"""Files on disk as git would store them: large ones, those of Git LFS, and those in other encodings."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path

import pytest

from agentsrv.errors import Unprocessable
from agentsrv.workspace.git import worktrees
from agentsrv.workspace.git.diff import changes
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import DiffRequest, MakeWorktree
from agentsrv.workspace.git.repositories import describe
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, make_repository, run_git, write_files


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


def changed(root: Path) -> dict[str, bool]:
    """Path -> is it binary."""
    answer = json.loads(diff(Workspace(root.parent), DiffRequest(path=str(root))) + b"}")
    return {file["newPath"] or file["oldPath"]: file["binary"] for file in answer["files"]}


def test_a_file_of_git_lfs_is_compared_with_its_pointer(tmp_path: Path) -> None:
    """By size and hash: a clone with its contents in place is as it was, and a changed one is not."""
    content = os.urandom(100_000)
    digest = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 100000\n"
    files: dict[str, str | bytes] = dict.fromkeys(("a.bin", "b.bin", "c.bin"), pointer)
    root = make_repository(
        tmp_path / "repo", {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", **files}
    )
    (root / "a.bin").write_bytes(content)
    (root / "b.bin").write_bytes(content[:-1] + b"x")

    assert {"b.bin": False} == changed(root)


@pytest.mark.parametrize("encoding", ["SHIFT-JIS", "GBK", "EUC-KR", "Big5", "KOI8-R", "UTF-16LE"])
def test_a_touched_file_in_another_encoding_is_as_it_was(tmp_path: Path, encoding: str) -> None:
    """`working-tree-encoding` names any that iconv and Python know; a backslash is a yen sign to iconv in some."""
    text = {"KOI8-R": "привет\n", "EUC-KR": "한국\n"}.get(encoding, "一二三\n")
    text += "".join(map(chr, range(32, 127))) + "\n"
    root = make_repository(tmp_path / "repo", {".gitattributes": f"*.txt working-tree-encoding={encoding}\n"})
    write_files(root, {"a.txt": text.encode(encoding)})
    commit(root)
    os.utime(root / "a.txt", (1, 1))

    assert {} == changed(root)


def test_many_large_binaries_are_not_read_whole(tmp_path: Path) -> None:
    """Their beginning says what they are; with a file that went there is no search through all of them either."""
    root = make_repository(tmp_path / "repo", {"gone": os.urandom(5000), "kept": "k"})
    (root / "gone").unlink()
    for number in range(60):
        with open(root / f"binary{number}", "wb") as file:
            file.write(b"\0" + os.urandom(100))
            file.truncate(30_000_000 + number)
    began = time.monotonic()
    found = changed(root)

    assert (60, True) == (sum(found.values()) - found["gone"], found["gone"])
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("limit", [changes.MAX_CHANGES, 5_000])
def test_new_files_do_not_hide_what_is_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """However many there are, and whatever they are called: what git tracks comes, also beyond every limit."""
    monkeypatch.setattr(changes, "MAX_CHANGES", limit)
    root = make_repository(tmp_path / "repo", {"zz": "z\n", "gone": "g\n", "moved": "m\n" * 9, "mode": "m\n"})
    write_files(root, {"zz": "changed\n"})
    (root / "mode").chmod(0o755)
    (root / "gone").unlink()
    (root / "build").mkdir()
    for name in range(12_000):
        os.mknod(root / f"build/{name}")
    answer = json.loads(diff(Workspace(root.parent), DiffRequest(path=str(root), summary=True)) + b"}")
    found = [(file["status"], file["oldPath"]) for file in answer["files"]]

    assert answer["truncated"]
    assert {("modified", "zz"), ("deleted", "gone"), ("modified", "mode")} <= set(found)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["init", "-q", "--object-format=sha256"], "SHA-256"),
        (["sparse-checkout", "set", "--sparse-index", "d"], "sparse index"),
        (["update-index", "--split-index"], "split index"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, arguments: list[str], kind: str) -> None:
    """Which kind it is, and what to do; not that it is damaged."""
    root = tmp_path / "repo"
    if arguments[0] == "init":
        root.mkdir()
    else:
        make_repository(root, {"d/a": "a", "e/b": "b", "f": "f"})
    run_git(root, *arguments)

    with pytest.raises(Unprocessable, match=kind):
        changed(root)
    assert kind in (describe(Workspace(tmp_path), root).problem or "")


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ("[extensions]\n\trefStorage = reftable\n", "reftable references.*git refs migrate"),
        ('[Extensions] RefStorage="reftable"\n', "reftable references"),
        ("[extensions]\n\tcompatObjectFormat = sha1\n", "the extension compatObjectFormat"),
        ("[extensions]\n\tworktreeConfig = true\n\tfuture\n", "the extension future"),
        ("[core]\n\trepositoryformatversion = 2\n", "the format 2"),
    ],
)
def test_what_a_newer_git_has_made_is_named(tmp_path: Path, settings: str, kind: str) -> None:
    """References in tables, as `git init --ref-format=reftable` leaves a repository, and what nobody knows yet."""
    root = make_repository(tmp_path / "repo", {"a": "a"})
    config = root / ".git/config"
    config.write_text(config.read_text().replace("version = 0", "version = 1") + settings)
    if "reftable" in settings:
        (root / ".git/HEAD").write_text("ref: refs/heads/.invalid\n")
        (root / ".git/refs/heads/main").unlink()
        (root / ".git/refs/heads").rmdir()
        (root / ".git/refs/heads").write_text("this repository uses the reftable format\n")
        (root / ".git/reftable").mkdir()
        (root / ".git/reftable/tables.list").write_text("0x000000000001-0x000000000001-1a2b3c4d.ref\n")

    with pytest.raises(Unprocessable, match=kind) as caught:
        changed(root)
    assert "damaged" not in caught.value.message
    assert re.search(kind, describe(Workspace(tmp_path), root).problem or "")
    with pytest.raises(Unprocessable, match=kind):
        worktrees.make(Workspace(tmp_path), MakeWorktree(cwd=str(root), session_id="s"))
