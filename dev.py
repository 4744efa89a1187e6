"""Everything a developer types, needing nothing but Python 3.11: `python3 dev.py run | test | lint | ...`.

The environment is `.venv`. It is installed from the hash-checked locks in requirements/, and again only when
a lock changed. The targets of the Makefile are aliases of these commands.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = str(BIN / "python")
LOCKS = ROOT / "requirements"

RUN = ("run", "agents")  # the server and the agents' programs
DEV = ("dev", "agents")  # these and the tools: a superset with the same versions

WEB_PAGE = ROOT / "tests" / "e2e" / "browser"
TOOLS = {
    "vim": ("vim",),
    "tmux": ("tmux",),
    "less": ("less",),
    "procps": ("top",),
    "ripgrep": ("rg",),
    "redis-server": ("redis-server",),
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "npm": ("npm",),
}
"""Debian's packages, and the programs that will do."""

PAUSES_S = (3, 10, 30)
"""Between attempts to download something."""


def run(*command: str) -> None:
    """Run a command; when it fails, so does this one."""
    if code := exit_code(*command):
        sys.exit(code)


def download(*command: str) -> None:
    """Run a command that needs the network, again when it fails; in the end as `run` does."""
    for pause_s in PAUSES_S:
        if not exit_code(*command):
            return
        print(f"{command[0]} failed; again in {pause_s} s", flush=True)
        time.sleep(pause_s)
    run(*command)


def exit_code(*command: str) -> int:
    """Run a command with the environment's programs first in PATH."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


def install(locks: tuple[str, ...]) -> None:
    """Make `.venv` hold exactly what `locks` pin, and this checkout in editable form."""
    files = [LOCKS / f"{name}.txt" for name in locks]
    pinned = [path.read_bytes() for path in (*files, ROOT / "pyproject.toml")]
    digest = hashlib.sha256(b"\0".join([sys.version.encode(), *pinned])).hexdigest()
    stamp = VENV / f".installed-{locks[0]}"
    if stamp.exists() and stamp.read_text() == digest and Path(PYTHON).exists():
        return
    print(f"Installing {', '.join(path.name for path in files)} of requirements/ into .venv ...", flush=True)
    create_environment()
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    download(*pip, "--require-hashes", *(word for path in files for word in ("-r", str(path))))
    run(*pip, "--no-build-isolation", "--editable", ".")
    stamp.write_text(digest)


def create_environment() -> None:
    """An empty `.venv`, unless there is one of this very Python."""
    described = VENV / "pyvenv.cfg"
    version = f"version = {'.'.join(map(str, sys.version_info[:3]))}\n"
    if described.exists() and version in described.read_text() and Path(PYTHON).exists():
        return
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", str(VENV))


def serve(arguments: list[str]) -> None:
    """Start the server on this machine; with no API key yet, make one and keep it in .env."""
    install(RUN)
    os.chdir(ROOT)
    os.execv(BIN / "agentsrv", ["agentsrv", "serve", "--init", *arguments])


def lint(arguments: list[str]) -> None:
    """Style, types and layers."""
    install(DEV)
    run("ruff", "check", *arguments)
    run("ruff", "format", "--check")
    run("mypy")
    run("lint-imports")


def reformat(arguments: list[str]) -> None:
    install(DEV)
    run("ruff", "check", "--fix-only", "--quiet", *arguments)
    run("ruff", "format", *arguments)


def test(arguments: list[str]) -> None:
    """Everything that must hold before a change is merged: lint, then all tests.

    With arguments only pytest runs, with these arguments.
    """
    install(DEV)
    if not arguments:
        arguments = [] if install_tools() else ["-m", "not tools"]
        lint([])
    run("pytest", *arguments)


def install_tools() -> bool:
    """What tests run besides Python: the programs that people use in a terminal, a browser, xterm.js for its page.

    System packages are installed only where that surprises nobody: as root, and on a CI machine. Elsewhere the
    few tests that need them are left out, and a line says so; False then.
    """
    missing = [name for name, programs in TOOLS.items() if not any(map(shutil.which, programs))]
    if missing:
        as_root = () if os.geteuid() == 0 else ("sudo", "-n")
        if (as_root and not os.environ.get("CI")) or shutil.which("apt-get") is None:
            print(f"Some tests are left out; install {' '.join(missing)} to run them.", flush=True)
            return False
        print(f"Installing {' '.join(missing)} ...", flush=True)
        apt_get = (*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq")
        apt_get += ("-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=5")
        download(*apt_get, "update")
        download(*apt_get, "install", "-y", "--no-install-recommends", *missing)
    lock = WEB_PAGE / "package-lock.json"
    installed = WEB_PAGE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        download("npm", "ci", "--prefix", str(WEB_PAGE), "--ignore-scripts", "--no-audit", "--no-fund")
    return True


def bench(arguments: list[str]) -> None:
    install(DEV)
    run(PYTHON, "-m", "bench", *arguments)


def lock(arguments: list[str]) -> None:
    """Write requirements/*.txt anew from pyproject.toml (`--upgrade` for newer versions)."""
    install(DEV)
    compiler = "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header"
    options = (*compiler.split(), "--no-annotate", *arguments)
    wanted = (*options, "pyproject.toml", "requirements/build.in", "--output-file")
    run(*wanted, "requirements/run.txt")
    run(*wanted, "requirements/dev.txt", "--extra", "dev", "--constraint", "requirements/run.txt")
    # The agents' programs stand alone in their wheels; what their libraries depend on is not wanted.
    run(*options, "--no-deps", "requirements/agents.in", "--output-file", "requirements/agents.txt")


def tools(_arguments: list[str]) -> None:
    """Install what tests run besides Python; `test` without arguments does it by itself."""
    install_tools()


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": serve,
    "test": test,
    "lint": lint,
    "format": reformat,
    "bench": bench,
    "lock": lock,
    "tools": tools,
}


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"agentsrv needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    name, *arguments = sys.argv[1:] or ["help"]
    if name not in COMMANDS:
        sys.exit(f"usage: python3 dev.py {' | '.join(COMMANDS)}")
    COMMANDS[name](arguments)


if __name__ == "__main__":
    main()
