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
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests import debian_python

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = str(BIN / "python")
LOCKS = ROOT / "requirements"
ACP_LOCKS = ROOT / "agentsrv" / "agents" / "acp" / "locks"

RUN = ("run", "agents")  # the server and the agents' programs
DEV = ("dev", "agents")  # these and the tools: a superset with the same versions

CONSOLE = ROOT / "console"
NODE_PROJECTS = (ROOT / "tests" / "e2e" / "browser", ROOT / "tests" / "e2e" / "openapi", CONSOLE)
TOOLS = {
    "vim": ("vim",),
    "tmux": ("tmux",),
    "less": ("less",),
    "procps": ("top",),
    "curl": ("curl",),
    "ripgrep": ("rg",),
    "redis-server": ("redis-server",),
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "npm": ("npm",),
    "zsh": ("zsh",),
    "fish": ("fish",),
    "nginx-light": ("nginx",),
    "haproxy": ("haproxy",),
    "caddy": ("caddy",),
}
"""Debian's packages, and the programs that will do."""

ACP_AGENTS = ("goose", "gemini", "opencode")
ACP_AGENTS_AT_NIGHT = ("qwen", "copilot", "kimi", "pi")
"""Agents that tests drive, besides those of requirements/agents.txt, and vibe, which needs a newer Python."""

NEWER_PYTHON = VENV / "acp" / "python"

WITHOUT_SERVERS = (
    "tests/test_house.py", "tests/test_dependencies.py", "tests/test_docs.py", "tests/agents", "tests/projections",
)  # fmt: skip
"""Tests of what needs no process of its own."""

NOT_FOR_THE_HELPER = (
    "azure-storage-blob", "granian", "hf-xet", "polars", "polars-runtime-32", "pyroscope-io", "rq",
)  # fmt: skip
"""What LiteLLM's proxy imports only for what nobody asks it for here: a third of its size."""

TYPES = "mypy"

SCRIPTS = ("entrypoint.sh", "image/git-credential-github-token")

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
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode


def environment() -> dict[str, str]:
    """This one's, with the programs of `.venv` first in PATH. What Python compiles it keeps: four processes import
    the tests.
    """
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PATH": path}


def side_by_side(*jobs: Callable[[], object]) -> None:
    """Do all of these, as many at once as there are cores. When one fails, so does this, once the others have ended."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for job in [threads.submit(job) for job in jobs]:
            job.result()


@contextmanager
def beside(*command: str) -> Iterator[None]:
    """Run a command while something else is done. What it says comes last; when it fails, so does this one."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=said, stderr=said)
        try:
            yield
        finally:
            code = process.wait()
            said.seek(0)
            print(f"{command[0]}:", said.read(), end="", flush=True)
    if code:
        sys.exit(code)


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
    side_by_side(*(partial(download, *pip, "--require-hashes", "-r", str(path)) for path in files))
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
    """Style, layers and types."""
    install(DEV)
    look_over(arguments)
    run(TYPES)


def look_over(arguments: list[str]) -> None:
    """All of lint that takes no time."""
    run("ruff", "check", *arguments)
    run("ruff", "format", "--check")
    run("lint-imports")
    run("shellcheck", *SCRIPTS)
    run("hadolint", "Dockerfile")
    run("zizmor", "--offline", "--quiet", "--no-progress", ".github")


def reformat(arguments: list[str]) -> None:
    install(DEV)
    run("ruff", "check", "--fix-only", "--quiet", *arguments)
    run("ruff", "format", *arguments)


def check(_arguments: list[str]) -> None:
    """What a minute tells: style, types, layers, and the tests that start no server."""
    install(DEV)
    look_over([])
    with beside(TYPES):
        run("pytest", "--numprocesses=2", *WITHOUT_SERVERS)


def test(arguments: list[str]) -> None:
    """Everything that must hold before a change is merged: lint, then all tests.

    With arguments only pytest runs, with these arguments.
    """
    install(DEV)
    if arguments:
        run("pytest", *arguments)
        return
    chosen = () if install_tools() else ("-m", "not tools and not nightly")
    look_over([])
    with beside(TYPES):
        # Side by side, and more than there are cores: tests wait, too.
        run("pytest", f"--numprocesses={2 * (os.cpu_count() or 1)}", "--dist=worksteal", *chosen)


def install_tools() -> bool:
    """What tests run besides Python: programs that people use in a terminal, a browser, proxies, libraries of npm.

    System packages are installed only where that surprises nobody: as root, and on a CI machine. Elsewhere the
    few tests that need them are left out, and a line says so; False then.
    """
    if not install_system_packages():
        return False
    side_by_side(
        *(partial(install_acp_agent, name) for name in ACP_AGENTS),
        install_vibe,
        *(partial(install_node_packages, directory) for directory in NODE_PROJECTS),
    )
    return True


def install_system_packages() -> bool:
    """Debian's packages that are missing; False: they may not be installed here."""
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"
    missing = [
        name
        for name, programs in TOOLS.items()
        if not any(shutil.which(program, path=path) for program in programs)
    ]
    if not missing:
        return True
    as_root = () if os.geteuid() == 0 else ("sudo", "-n")
    if (as_root and not os.environ.get("CI")) or shutil.which("apt-get") is None:
        print(f"Some tests are left out; install {' '.join(missing)} to run them.", flush=True)
        return False
    print(f"Installing {' '.join(missing)} ...", flush=True)
    apt_get = (*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq")
    apt_get += ("-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=5")
    download(*apt_get, "update")
    download(*apt_get, "install", "-y", "--no-install-recommends", *missing)
    return True


def install_acp_agent(name: str, *options: str) -> None:
    """An agent that tests drive, unless it is there already as its lock has it."""
    home = VENV / "acp" / "agents" / name
    locked_at = max(lock.stat().st_mtime for lock in (ACP_LOCKS / name).iterdir())
    if not (home / "bin").exists() or home.stat().st_mtime < locked_at:
        state = f"STATE_DIR={VENV / 'acp'}"
        download("env", state, PYTHON, "-m", "agentsrv", "agents", "install", name, *options)


def install_vibe() -> None:
    if (python := python_for_vibe()) is not None:
        install_acp_agent("vibe", "--python", python)


def python_for_vibe() -> str | None:
    """The machine's, where one is new enough; else Debian's next one, beside it. None: neither is to be had."""
    for python in (PYTHON, "python3.14", "python3.13", "python3.12"):
        if not exit_code(
            "sh", "-c", f"{python} -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null"
        ):
            return python
    if not debian_python.is_possible():
        print("vibe is left out; it needs Python 3.12 or newer.", flush=True)
        return None
    if not (debians := NEWER_PYTHON / debian_python.PROGRAM).exists():
        download(PYTHON, "-m", "tests.debian_python", str(NEWER_PYTHON))
    return str(debians)


def install_node_packages(directory: Path) -> None:
    """What the lock beside a package.json names, unless it is there already."""
    lock = directory / "package-lock.json"
    installed = directory / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        download("npm", "ci", "--prefix", str(directory), "--ignore-scripts", "--no-audit", "--no-fund")


def console(arguments: list[str]) -> None:
    """Build the console into agentsrv/console, which is committed."""
    install_node_packages(CONSOLE)
    run("npm", "exec", "--prefix", str(CONSOLE), "--", "tsc", "--project", str(CONSOLE))
    run("node", str(CONSOLE / "build.mjs"), *arguments)


def pictures(_arguments: list[str]) -> None:
    """Take the pictures of the console in the documents anew."""
    install(DEV)
    run(PYTHON, "-m", "tests.console.pictures", str(ROOT / "docs" / "pictures"))


def bench(arguments: list[str]) -> None:
    install(DEV)
    run(PYTHON, "-m", "bench", *arguments)


def door(arguments: list[str]) -> None:
    """All tests that have a server process, which is asked through another one of its fleet."""
    install(DEV)
    install_tools()
    run("pytest", "--door", f"--numprocesses={2 * (os.cpu_count() or 1)}", "--dist=worksteal", *arguments)


def chaos(arguments: list[str]) -> None:
    """Ten minutes of broken servers, lines and Redis; prints its seed, and takes one (`--seed N`)."""
    install(DEV)
    run(PYTHON, "-m", "tests.fleet.chaos", *arguments)


def soak(arguments: list[str]) -> None:
    """Ten minutes of everything that a server does, and what it keeps of it; then 10,000 idle clients."""
    install(DEV)
    run(PYTHON, "-m", "bench.soak", *arguments)


def lock(arguments: list[str]) -> None:
    """Write requirements/*.txt anew from pyproject.toml (`--upgrade` for newer versions)."""
    install(DEV)
    compiler = "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header"
    options = (*compiler.split(), "--no-annotate", *arguments)
    without = [word for name in NOT_FOR_THE_HELPER for word in ("--no-emit-package", name)]
    wanted = (*options, "pyproject.toml", "requirements/build.in", "--output-file")
    run(*wanted, "requirements/run.txt")
    run(*wanted, "requirements/dev.txt", "--extra", "dev", "--constraint", "requirements/run.txt")
    # Programs that stand alone in their wheels; what the libraries around them depend on is not wanted.
    for name in ("agents", "node"):
        run(*options, "--no-deps", f"requirements/{name}.in", "--output-file", f"requirements/{name}.txt")
    run(
        *options,
        "--only-binary=:all:",
        *without,
        "requirements/llm.in",
        "--output-file",
        "requirements/llm.txt",
    )


def audit(arguments: list[str]) -> None:
    """Ask PyPI's list of known holes about every version that is pinned. No part of `test`: it needs the network.

    What could not be asked about is a failure, too. A hole that is found gets its line in known-holes.toml.
    """
    install(DEV)
    command = (
        "pip-audit",
        "--strict",
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner=off",
        *arguments,
    )
    locks = sorted(LOCKS.glob("*.txt"))
    if found := [path.name for path in locks if exit_code(*command, "--requirement", str(path))]:
        sys.exit(f"holes, or versions that could not be asked about, in {', '.join(found)}: see above")


def tools(_arguments: list[str]) -> None:
    """Install what tests run besides Python, also at night; for those of the day `test` does it by itself."""
    install(DEV)
    install_tools()
    for name in ACP_AGENTS_AT_NIGHT:
        install_acp_agent(name)


def image(arguments: list[str]) -> None:
    """Build the container's image; see image/build.py."""
    run(sys.executable, "-m", "image.build", *arguments)


def test_image(arguments: list[str]) -> None:
    """Build the image and try it: some minutes, as root. With arguments: pytest's, for an image that is there.

    AGENTSRV_IMAGE names another one, also of another machine where the kernel runs its programs.
    """
    named = any(word.startswith("tests/") for word in arguments)
    install(DEV)
    if not arguments:
        image(["full"])
    os.environ.setdefault("AGENTSRV_IMAGE", "localhost/agentsrv:full")
    run("pytest", "--timeout=900", *(() if named else ("tests/image",)), *arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": serve,
    "test": test,
    "check": check,
    "lint": lint,
    "format": reformat,
    "console": console,
    "pictures": pictures,
    "bench": bench,
    "door": door,
    "chaos": chaos,
    "soak": soak,
    "lock": lock,
    "audit": audit,
    "tools": tools,
    "image": image,
    "test-image": test_image,
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
