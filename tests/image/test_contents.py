"""What is in the image, and what it says about itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.conftest import ContainerMaker
from tests.image.container import Image
from tests.kit import ROOT

PROGRAMS = {
    "bwrap": "--version", "claude": "--version", "codex": "--version", "curl": "--version", "fd": "--version",
    "gh": "--version", "git": "--version", "node": "--version", "npm": "--version", "npx": "--version", "perl": "-v",
    "python3": "--version", "rg": "--version", "ssh": "-V", "vi": "--version",
}  # fmt: skip
UNCHECKED = (1).to_bytes(4, "little")
"""Flags of bytecode that is not compared with its source (PEP 552)."""
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")


def test_programs_for_agents(make_container: ContainerMaker) -> None:
    """An agent can run what agents use, and cannot become somebody else."""
    container = make_container()
    container.start_healthy()
    codes = {
        name: container.run(name, word, user="agent").returncode
        for name, word in {**PROGRAMS, "sudo": "true", "su": "true"}.items()
    }

    assert codes == {**dict.fromkeys(PROGRAMS, 0), "sudo": 127, "su": 1}


def test_what_the_image_says(image: Image, make_container: ContainerMaker) -> None:
    """Labels, ports, volume, and a health check that finds the server where PORT has it."""
    labels = {name.removeprefix("org.opencontainers.image.") for name in image.config["Labels"]}
    container = make_container(PORT="8080")
    container.start_healthy()
    [how, *command] = image.config["Healthcheck"]["Test"]

    assert labels >= {"title", "description", "version", "revision", "source", "base.name"}
    assert image.config["ExposedPorts"].keys() == {"22/tcp", "3000/tcp"}
    assert image.config["Volumes"].keys() == {"/home/appuser"}
    assert (how, container.run("env", "PORT=8080", *command).returncode) == ("CMD", 0)
    assert container.run("env", "PORT=3000", *command).returncode != 0


def test_a_volume_hides_nothing(image: Image) -> None:
    """What is mounted at /home/appuser stands in the way of no file that is needed."""
    assert list((image.files / "home/appuser").iterdir()) == []


def test_no_code_runs_when_python_starts(image: Image) -> None:
    """By a `.pth` file two releases of LiteLLM stole credentials; there is none in the image."""
    assert [path for top in ("opt", "usr") for path in (image.files / top).rglob("*.pth")] == []


def test_python_compiles_nothing_at_a_start(image: Image) -> None:
    """Bytecode counts whatever times an image's layers have kept: half of a start was compiling the same again."""
    compiled = list((image.files / "opt").rglob("*.pyc"))

    assert compiled
    assert [path for path in compiled if path.read_bytes()[4:8] != UNCHECKED] == []


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("lock", ["run", "agents", "node", "llm"])
def test_wheels_of_both_platforms(lock: str, platform: str, tmp_path: Path) -> None:
    """Each version that is pinned has wheels for amd64 and arm64; locks have the hashes of all that it has."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--python-version=3.13", f"--python-platform={platform}"]
    command += [f"--target={tmp_path}", "--requirement", f"requirements/{lock}.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stderr
