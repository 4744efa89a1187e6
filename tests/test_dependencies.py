"""What the project asks for, and what is pinned, is never a version with a hole that is known of."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOLES = tomllib.loads((ROOT / "requirements" / "known-holes.toml").read_text())
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def asked_for() -> list[Requirement]:
    """All that the package, its extras, its build and what is installed beside it depend on directly."""
    project = PROJECT["project"]
    extras = [need for needs in project["optional-dependencies"].values() for need in needs]
    beside = [
        line
        for path in (ROOT / "requirements").glob("*.in")
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    found = [
        Requirement(need)
        for need in (*project["dependencies"], *extras, *PROJECT["build-system"]["requires"], *beside)
    ]
    return [need for need in found if need.name != project["name"]]


def lowest(need: Requirement) -> Version | None:
    """The oldest version that a requirement takes; None when it takes any."""
    bounds = [Version(each.version) for each in need.specifier if each.operator in (">=", "==", "~=")]
    return max(bounds, default=None)


def fixed(name: str) -> Version:
    """The first version of a package without a hole that is known of."""
    return Version(HOLES.get(canonicalize_name(name), {"fixed": "0"})["fixed"])


def pins(lock: Path) -> list[tuple[str, Version]]:
    found = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^ ;\\]+)", lock.read_text(), re.MULTILINE)
    return [(name, Version(version)) for name, version in found]


@pytest.mark.parametrize("need", asked_for(), ids=str)
def test_no_version_with_a_known_hole_is_taken(need: Requirement) -> None:
    """Whoever installs us beside something older gets that something newer, or is told."""
    bound = lowest(need)

    assert bound is not None, f"{need.name} has no lower bound"
    assert bound >= fixed(need.name), HOLES[need.name]["source"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_version_with_a_known_hole_is_pinned(lock: Path) -> None:
    """Of what comes along with our dependencies, too."""
    pinned = pins(lock)

    assert pinned
    assert [(name, version) for name, version in pinned if version < fixed(name)] == []


def test_each_known_hole_has_a_source() -> None:
    """An advisory that can be looked up, of a package that is still used."""
    used = {canonicalize_name(name) for lock in LOCKS for name, _ in pins(lock)}

    assert HOLES.keys() <= used
    for name, hole in HOLES.items():
        assert re.match(r"(CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3})\b", hole["source"]), name
