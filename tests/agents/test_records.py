"""Directories in which agents keep what they remember."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsrv.agents.records import check_records

MOUNTS = """\
21 1 0:1 / / rw - overlay overlay rw
22 21 0:2 / /tmp rw,nosuid - tmpfs tmpfs rw
23 21 8:1 /data {volume} rw - ext4 /dev/sda1 rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS.format(volume=tmp_path.resolve() / "volume"))
    return file


def test_directory_on_a_volume_lasts(tmp_path: Path, mounts: Path) -> None:
    """Also when it is made only later."""
    assert check_records("x", tmp_path / "volume" / "not" / "yet", mounts=mounts).is_well


def test_directory_that_goes_with_its_container_is_told(tmp_path: Path, mounts: Path) -> None:
    """Agents would forget with the next image: it is said where the directory lies, and what to do."""
    check = check_records("x", tmp_path / "elsewhere", mounts=mounts)

    assert not check.is_well
    assert "lies in" in check.detail
    assert "volume" in check.advice


def test_place_that_is_no_directory_is_wrong(tmp_path: Path, mounts: Path) -> None:
    """Nothing could be written there."""
    (tmp_path / "file").touch()

    assert check_records("x", tmp_path / "file" / "sub", mounts=mounts).is_needed


def test_system_that_tells_nothing_is_trusted(tmp_path: Path) -> None:
    """Not every system has a list of mounts."""
    assert check_records("x", tmp_path, mounts=tmp_path / "none").is_well
