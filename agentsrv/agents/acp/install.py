"""Brings known agents from npm or PyPI into a directory of the server, as `locks/` has them: each file by its hash.

Nothing of this happens by itself: an operator asks for it. No package's own scripts are run.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from agentsrv.agents.acp.known import KnownAgent, Package
from agentsrv.errors import StartupError
from agentsrv.programs import child_environment

LOCKS = Path(__file__).with_name("locks")
ASK_TIMEOUT_S = 15
INSTALL_TIMEOUT_S = 1800
PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_CONFIG_FILE",
    "NPM_CONFIG_REGISTRY",
    "NPM_CONFIG_USERCONFIG",
)


def install(known: KnownAgent, home: Path, environment: Mapping[str, str], python: Path | None = None) -> str:
    """Put the agent into `home`, in the place of what was there. Returns the version; raises StartupError.

    `home/bin` is made last: without it there is nothing to be found.
    """
    if (package := known.package) is None:
        raise StartupError(f"{known.name} is an agent of your own; only known ones can be installed")
    if package.machine not in (None, platform.machine()):
        raise StartupError(
            f"{known.name} is pinned for {package.machine} alone; install it in its own way, and it is found on PATH"
        )
    for place in (home, home.parent):
        if place.is_symlink():
            raise StartupError(f"{place} is a link; remove it first")
    bring = _from_npm if package.source == "npm" else _from_pypi
    tool = _npm(environment) if package.source == "npm" else _python(package, environment, python)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o755, parents=True)
    programs = bring(tool, known, package, home, child_environment(environment, PASSED_ON))
    (home / "bin").symlink_to(programs, target_is_directory=True)
    return package.version


def _from_npm(npm: str, known: KnownAgent, package: Package, home: Path, environment: dict[str, str]) -> str:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(LOCKS / known.name / name, home / name)
    _run((npm, "ci", "--prefix", str(home), "--ignore-scripts", "--no-audit", "--no-fund"), environment)
    packages = home / "node_modules"
    if package.program is not None:
        _link(packages / ".bin" / known.command[0], packages / package.program)
    return "node_modules/.bin"


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _from_pypi(python: str, known: KnownAgent, _: Package, home: Path, environment: dict[str, str]) -> str:
    _run((python, "-m", "venv", str(home / "venv")), environment)
    pip = (str(home / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes")
    # Older versions of pip take a requirement with extras for one that is not pinned; the lock has all of them.
    wheels = ("--only-binary=:all:", "--no-deps", "--disable-pip-version-check")
    _run((*pip, *wheels, "--requirement", str(LOCKS / known.name / "requirements.txt")), environment)
    return "venv/bin"


def _npm(environment: Mapping[str, str]) -> str:
    if (npm := shutil.which("npm", path=environment.get("PATH"))) is None:
        raise StartupError("npm was not found; install Node 20 or newer, which brings it")
    return npm


def _python(package: Package, environment: Mapping[str, str], wanted: Path | None) -> str:
    """An interpreter that is new enough."""
    for python in [str(wanted)] if wanted else _pythons(environment):
        found = re.match(r"Python (\d+)\.(\d+)", _told((python, "--version")))
        if found and (int(found[1]), int(found[2])) >= package.python:
            return python
    least = ".".join(map(str, package.python))
    raise StartupError(f"it needs Python {least} or newer; name one with --python")


def _pythons(environment: Mapping[str, str]) -> Iterator[str]:
    yield sys.executable
    for minor in range(14, 11, -1):
        if (python := shutil.which(f"python3.{minor}", path=environment.get("PATH"))) is not None:
            yield python


def _told(command: tuple[str, ...]) -> str:
    """What a program prints; nothing where it does not run."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True, cwd="/"
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _run(command: tuple[str, ...], environment: dict[str, str]) -> None:
    """Run it to its end. Raises StartupError with its last words."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise StartupError(f"{command[0]} cannot be run: {exc}") from exc
    if done.returncode:
        raise StartupError(f"{Path(command[0]).name} failed: {done.stdout.strip()[-1000:]}")
