"""The kernel keeps a process to the directories that it has named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentsrv.workspace.git.surroundings import Surroundings
from tests.workspace.git_kit import make_repository, run_git

SWAPPED = """\
import os, sys
sys.path[:] = {path!r}
from pathlib import Path
from agentsrv.errors import AgentsrvError
from agentsrv.linux import gain_no_privileges
from agentsrv.workspace.git import program, repositories
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.git.surroundings import Surroundings
from agentsrv.workspace.paths import Workspace
gain_no_privileges()
program.configure_libgit2()
if {is_confined} and not Surroundings(None, None).confine(Path({base!r})):
    sys.exit("no landlock")
# The moment before the agent swaps its objects for a link.
repositories._require_no_links_out = lambda *_: None
try:
    print(program.handle(Workspace(Path({base!r})), DiffRequest(path="repo")).decode())
except AgentsrvError as exc:
    print(exc.code)
"""

PROGRAM = """\
import ctypes, os, subprocess, sys
sys.path[:] = {path!r}
from agentsrv.workspace.git.landlock import restrict_writes
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
os.chdir({directory!r})
with open("outside/open", "w") as before:
    directory = os.open("inside", os.O_RDONLY)
    if not restrict_writes([directory]):
        sys.exit("no landlock")
    before.write("opened before")
ATTEMPTS = {{
    "write inside": lambda: open("inside/new", "w").close(),
    "rename inside": lambda: os.rename("inside/new", "inside/newer"),
    "link inside": lambda: os.symlink("/etc", "inside/link"),
    "remove inside": lambda: os.unlink("inside/newer"),
    "read": lambda: open("outside/file").close(),
    "write": lambda: open("outside/new", "w").close(),
    "through a link": lambda: open("inside/away/new", "w").close(),
    "append": lambda: open("outside/file", "a").close(),
    "truncate": lambda: os.truncate("outside/file", 0),
    "remove": lambda: os.unlink("outside/file"),
    "rename": lambda: os.rename("outside/file", "outside/other"),
    "make": lambda: os.mkdir("outside/directory"),
    "execute": lambda: subprocess.run(["/bin/true"], check=True),
}}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        print(name)
    except OSError:
        pass
"""


def test_only_named_directories_can_be_written_to(tmp_path: Path) -> None:
    """Reading goes on everywhere; making, changing, removing and running do not, also not through a link."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("content")
    (tmp_path / "inside/away").symlink_to(tmp_path / "outside")
    program = PROGRAM.format(path=sys.path, directory=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    if "no landlock" in done.stderr:
        pytest.skip("the kernel has no Landlock")

    assert done.stdout.splitlines() == [
        "write inside",
        "rename inside",
        "link inside",
        "remove inside",
        "read",
    ]
    assert (tmp_path / "outside/file").read_text() == "content"
    assert (tmp_path / "outside/open").read_text() == "opened before"


def swapped(base: Path, *, is_confined: bool) -> str:
    """What a worker that has looked at a repository before its objects became links shows of it."""
    code = SWAPPED.format(path=sys.path, base=str(base), is_confined=is_confined)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "no landlock" in done.stderr:
        pytest.skip("the kernel has no Landlock")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_objects_that_become_links_show_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Between looking at a repository and reading it, an agent may replace anything: the kernel refuses it."""
    secret = make_repository(tmp_path / "elsewhere", {"file": "the secret\n"})
    repo = make_repository(tmp_path / "base/repo", {"file": "the secret\n"})
    (repo / "file").write_text("changed\n")
    blob = run_git(repo, "rev-parse", "HEAD:file").decode().strip()
    shutil.rmtree(repo / ".git/objects" / blob[:2])
    (repo / ".git/objects" / blob[:2]).symlink_to(secret / ".git/objects" / blob[:2])

    assert "the secret" in swapped(tmp_path / "base", is_confined=False)
    assert "the secret" not in swapped(tmp_path / "base", is_confined=True)


def test_a_repository_is_read_as_ever(tmp_path: Path) -> None:
    """Confinement takes nothing away from what lies in the workspace, other repositories of it too."""
    repo = make_repository(tmp_path / "base/repo", {"file": "before\n"})
    (repo / "file").write_text("after\n")
    (repo / ".git/objects").rename(tmp_path / "base/objects")
    (repo / ".git/objects").symlink_to(tmp_path / "base/objects")

    assert swapped(tmp_path / "base", is_confined=True) == swapped(tmp_path / "base", is_confined=False)
    assert "before" in swapped(tmp_path / "base", is_confined=True)


def test_what_the_settings_name_may_be_read(tmp_path: Path) -> None:
    """Files of patterns and included settings, from `~` or beside them; what changes there is noticed."""
    (tmp_path / ".gitconfig").write_text("[include]\n path = more\n[core]\n excludesFile = ~/ignored\n")
    (tmp_path / "more").write_text(
        '[includeIf "gitdir:~/x/"]\n path = ~/x/config\n[core]\n attributesFile = /a\n'
    )
    surroundings = Surroundings(str(tmp_path), None)
    before = surroundings.have_changed
    (tmp_path / "x").mkdir()
    (tmp_path / "x/config").touch()

    named = {".gitconfig", "more", "ignored", "x/config"}
    assert {str(tmp_path / name) for name in named} | {"/a"} <= set(surroundings.files)
    assert (before, surroundings.have_changed) == (False, True)
