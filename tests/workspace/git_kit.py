"""Real repositories for tests: a helper around the git program, and a generator of odd ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_ALLOW_PROTOCOL": "file",
    # A commit starts no other processes, and nothing waits for the disk.
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "maintenance.auto",
    "GIT_CONFIG_VALUE_0": "false",
    "GIT_CONFIG_KEY_1": "core.fsync",
    "GIT_CONFIG_VALUE_1": "none",
}


CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
"""


def run_git(
    directory: Path,
    *arguments: str | bytes,
    stdin: bytes = b"",
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run the git program with nobody's settings."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        input=stdin,
        capture_output=True,
        env={**ENVIRONMENT, **(environment or {})},
        timeout=60,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"git {arguments}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def make_repository(path: Path, files: dict[str, str | bytes] | None = None) -> Path:
    """A repository with one commit of `files`; without any: with no commit.

    It is what `git init` makes, without a process for it: hundreds are made.
    """
    git = path / ".git"
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "hooks", "info"):
        (git / name).mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "config").write_text(CONFIG)
    if files is not None:
        write_files(path, files)
        commit(path)
    return path


def write_files(path: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def commit(path: Path, message: str = "change") -> None:
    """Commit all that there is."""
    run_git(path, "add", "--all")
    run_git(path, "commit", "--quiet", "--allow-empty", "--message", message)


def commit_id(path: Path, revision: str = "HEAD") -> str:
    return run_git(path, "rev-parse", "--verify", revision).decode().strip()


NAMES = [
    b"a", b"b.txt", b"README", b"deep/er/file", b"deep/x", b"with space", b"tab\there", b'quo"te', b"back\\slash",
    b"new\nline", "ünïcode/日本".encode(), b"not-utf8-\xff\xfe", b"dir/\xe9t\xe9", b"-dash", b"--output=x",
    b"$(touch x)", b"a b/c d", b"\x01ctl", b"e\xcc\x81", b"\xc3\xa9", b".hidden", b"..dots", b"glob*", b"[x]",
]  # fmt: skip
WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "",
    "  ",
    "\t",
    "}",
    "}",
    "return x",
    "é",
    "日本語",
    "end\r",
    "-",
    "+",
    "@@ -1 +1 @@",
]


SUBMODULE = b"library"


class Generator:
    """Changes a working tree at random, the same way for the same seed."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = Random(seed)
        self.root = os.fsencode(root)

    def populate(self, count: int) -> None:
        for _ in range(count):
            self.write(self.random.choice(NAMES) + self.random.choice([b"", b".1", b".2"]))

    def change(self, count: int) -> None:
        steps = [
            self.edit, self.edit, self.edit, self.edit, self.remove, self.rename, self.rename, self.rename_and_edit,
            self.add, self.toggle_mode, self.replace_by_link, self.replace_by_directory, self.copy, self.copy,
            self.rewrite, self.edit_bytes, self.move_submodule,
        ]  # fmt: skip
        for _ in range(count):
            self.random.choice(steps)()

    def add_submodule(self) -> None:
        make_repository(Path(os.fsdecode(self.root), os.fsdecode(SUBMODULE)), {"inside": "first\n"})

    def move_submodule(self) -> None:
        """To another commit; or away."""
        path = Path(os.fsdecode(self.root), os.fsdecode(SUBMODULE))
        if path.exists():
            if self.random.random() < 0.2:
                shutil.rmtree(path)
            else:
                commit(path, f"change {self.random.random()}")

    def files(self) -> list[bytes]:
        found = []
        for directory, folders, names in os.walk(self.root):
            folders[:] = sorted(set(folders) - {b".git", SUBMODULE})
            found += [os.path.relpath(os.path.join(directory, name), self.root) for name in names]
        return sorted(name for name in found if name not in (b".gitattributes", b".gitmodules"))

    def content(self) -> bytes:
        random = self.random
        kind = random.random()
        if kind < 0.05:
            return b""
        if kind < 0.12:
            return random.randbytes(random.randint(1, 300)) + b"\0" + random.randbytes(50)
        if kind < 0.18:
            return b"latin \xe9\xff\n" * random.randint(1, 20)
        lines = [self.line() for _ in range(random.randint(1, 60))]
        ending = random.choice(["\n", "\n", "\n", "\r\n"])
        return (ending.join(lines) + random.choice([ending, ending, ""])).encode()

    def line(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(0, 6)))

    def write(self, name: bytes, content: bytes | None = None) -> None:
        path = os.path.join(self.root, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.islink(path):
                os.unlink(path)
            with open(path, "wb") as file:
                file.write(self.content() if content is None else content)
        except OSError:  # A file where a directory should be, or the other way round.
            return
        if self.random.random() < 0.1:
            os.chmod(path, 0o755)

    def pick(self) -> bytes | None:
        names = self.files()
        return self.random.choice(names) if names else None

    def read(self, name: bytes) -> bytes:
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()

    def is_file(self, name: bytes | None) -> bool:
        if name is None:
            return False
        path = os.path.join(self.root, name)
        return os.path.isfile(path) and not os.path.islink(path)

    def edited(self, content: bytes, changes: int) -> bytes:
        lines = content.split(b"\n")
        for _ in range(changes):
            index = self.random.randrange(len(lines))
            step = self.random.random()
            if step < 0.4:
                lines[index] = self.line().encode()
            elif step < 0.7:
                lines.insert(index, self.line().encode())
            elif len(lines) > 1:
                del lines[index]
        return b"\n".join(lines)

    def edit(self) -> None:
        name = self.pick()
        if name is not None and self.is_file(name):
            self.write(name, self.edited(self.read(name), self.random.randint(1, 4)))

    def edit_bytes(self) -> None:
        name = self.pick()
        if name is not None and self.is_file(name):
            content = bytearray(self.read(name))
            if content:
                content[self.random.randrange(len(content))] = self.random.randrange(256)
            self.write(name, bytes(content))

    def rewrite(self) -> None:
        name = self.pick()
        if name is not None and self.is_file(name):
            self.write(name)

    def remove(self) -> None:
        if (name := self.pick()) is not None:
            os.unlink(os.path.join(self.root, name))

    def add(self) -> None:
        self.write(self.random.choice(NAMES) + b".new%d" % self.random.randrange(3))

    def rename(self, changes: int = 0) -> None:
        name = self.pick()
        if name is None or not self.is_file(name):
            return
        content = self.read(name)
        mode = os.stat(os.path.join(self.root, name)).st_mode
        os.unlink(os.path.join(self.root, name))
        target = self.random.choice(NAMES) + b".moved%d" % self.random.randrange(3)
        if self.random.random() < 0.3:
            target = b"moved%d/" % self.random.randrange(3) + os.path.basename(name)
        self.write(target, self.edited(content, changes) if changes else content)
        if self.is_file(target):
            os.chmod(os.path.join(self.root, target), mode)

    def rename_and_edit(self) -> None:
        self.rename(changes=self.random.randint(1, 3))

    def copy(self) -> None:
        """Mostly of a file that is changed itself: git takes only these for the origins of copies."""
        name = self.pick()
        if name is not None and self.is_file(name):
            content = self.read(name)
            self.write(self.random.choice(NAMES) + b".copy", self.edited(content, self.random.randint(0, 2)))
            if self.random.random() < 0.8:
                self.write(name, self.edited(content, 1))

    def toggle_mode(self) -> None:
        name = self.pick()
        if name is not None and self.is_file(name):
            path = os.path.join(self.root, name)
            os.chmod(path, os.stat(path).st_mode ^ 0o111)

    def replace_by_link(self) -> None:
        # libgit2 looks for the attributes of a link where the link leads.
        if (name := self.pick()) is not None and not name.endswith((b".1", b".2")):
            path = os.path.join(self.root, name)
            os.unlink(path)
            os.symlink(self.random.choice([b"a", b"/etc/passwd", b"nowhere", b"\xff\n"]), path)

    def replace_by_directory(self) -> None:
        if (name := self.pick()) is not None:
            os.unlink(os.path.join(self.root, name))
            self.write(name + b"/inside")


@dataclass(frozen=True, slots=True)
class RawChange:
    """A line of `git diff --raw --numstat`. The ids are those of what was and is, zeros for a working tree."""

    status: str
    old_mode: str | None
    new_mode: str | None
    old_path: bytes | None
    new_path: bytes | None
    similarity: int | None
    additions: int | None
    deletions: int | None
    old_id: str = field(default="", compare=False)
    new_id: str = field(default="", compare=False)

    @property
    def is_known(self) -> bool:
        return self.new_mode is None or bool(self.new_id.strip("0"))


RAW = ("diff", "--raw", "--abbrev=40", "--numstat", "-M90%", "-z", "--no-ext-diff", "--no-textconv")
Entry = tuple[str, str, str, bytes, bytes, int | None, str, str]


def raw_changes(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> list[RawChange]:
    """What `git diff` says, in its own order; unmerged paths only as what they are in the working tree."""
    fields = run_git(root, *RAW, *arguments, environment=environment).split(b"\0")
    raw: list[Entry] = []
    stats: list[tuple[int | None, int | None, bytes, bytes]] = []
    index = 0
    while index < len(fields) - 1:
        part = fields[index]
        if part.startswith(b":"):
            old_mode, new_mode, *ids, status = part[1:].decode().split(" ")
            is_pair = status[0] in "RC"
            names = fields[index + 1 : index + 2 + is_pair]
            if status != "U":
                score = int(status[1:]) if is_pair else None
                raw.append((status[0], old_mode, new_mode, names[0], names[-1], score, ids[0], ids[1]))
            index += 1 + len(names)
        else:
            added, deleted, path = part.split(b"\t", 2)
            counts = (None, None) if added == b"-" else (int(added), int(deleted))
            if path:
                stats.append((*counts, path, path))
                index += 1
            else:
                stats.append((*counts, fields[index + 1], fields[index + 2]))
                index += 3
    by_path = {new: (additions, deletions) for additions, deletions, _, new in stats}
    return [_raw_change(entry, by_path) for entry in raw]


STATUS = {"M": "modified", "A": "added", "D": "deleted", "R": "renamed", "C": "copied", "T": "typechange"}


def _raw_change(entry: Entry, counts: dict[bytes, tuple[int | None, int | None]]) -> RawChange:
    letter, old_mode, new_mode, old_path, new_path, similarity, old_id, new_id = entry
    return RawChange(
        STATUS[letter],
        None if letter == "A" else old_mode,
        None if letter == "D" else new_mode,
        None if letter == "A" else old_path,
        None if letter == "D" else new_path,
        similarity,
        *counts[new_path],
        old_id,
        new_id,
    )


class Blobs:
    """Contents that a repository has, by one process for all of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._git = subprocess.Popen(
            ["git", "cat-file", "--batch"],
            cwd=root,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        self._git.communicate(timeout=60)

    def sides(self, change: RawChange) -> tuple[bytes, bytes]:
        """What a file was and what it is; empty where there is none."""
        return self._read(change.old_mode, change.old_id), self._read(change.new_mode, change.new_id)

    def _read(self, mode: str | None, blob_id: str) -> bytes:
        if mode is None:
            return b""
        if mode == "160000":
            return b"Subproject commit %b\n" % blob_id.encode()
        assert self._git.stdin is not None
        assert self._git.stdout is not None
        self._git.stdin.write(b"%b\n" % blob_id.encode())
        self._git.stdin.flush()
        size = int(self._git.stdout.readline().split()[2])
        return self._git.stdout.read(size + 1)[:-1]


def copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
