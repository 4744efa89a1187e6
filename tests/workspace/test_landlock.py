"""The kernel keeps a process to the directories that it has named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import ctypes, os, subprocess, sys
sys.path[:] = {path!r}
from agentsrv.workspace.landlock import restrict_writes
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
