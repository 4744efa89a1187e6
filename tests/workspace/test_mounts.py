"""Other file systems below the workspace: what does not answer stops nothing else, and nothing goes into them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentsrv.workspace.paths import real_path

ROOT = Path(__file__).parents[2]


def test_a_mount_that_does_not_answer_stops_nobody(tmp_path: Path) -> None:
    """What lies on it is refused in time; all else is listed, searched and refused as ever, and the end comes."""
    base = tmp_path / "base"
    for name in ("dead", "deep", "around/dead"):
        (base / name).mkdir(parents=True)
    (base / "deep/file").write_text("x")
    (tmp_path / "removal").mkdir()
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            *as_root,
            sys.executable,
            str(ROOT / "tests/workspace/dead_mount.py"),
            str(base),
        ],
        env={"PYTHONPATH": str(ROOT), "PATH": os.defpath},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)

    assert found["entries"] == {
        "around": False,
        "dead": True,
        "deep": False,
        "around/dead": False,
        "deep/file": False,
    }
    assert (found["search"], found["lines"]) == (["dead", "deep", "around/dead", "deep/file"], ["deep/file"])
    assert (found["hung"], found["seconds"] < 4, found["closing"] < 4) == (["no_answer"], True, True)
    # Who comes later is refused at once: no more threads are lost to it.
    assert (found["later"], found["later_seconds"] < 2) == (True, True)
    assert found["removed"] == "around"
    # A recursive delete is refused; and if a mount comes after that was looked at, what is on it stays.
    assert found["around mounts"] == ["in_use", "EBUSY", "bound", "elsewhere", "new"]


def test_a_path_leads_over_as_many_links_as_for_the_kernel(tmp_path: Path) -> None:
    """Forty; one more is refused, at once and however long the chain is."""
    target = tmp_path / "0"
    target.touch()
    for number in range(1, 3001):
        (tmp_path / str(number)).symlink_to(str(number - 1))

    assert real_path(tmp_path / "40") == str(target.resolve())
    for number in (41, 3000):
        with pytest.raises(OSError, match="symbolic links"):
            real_path(tmp_path / str(number))
