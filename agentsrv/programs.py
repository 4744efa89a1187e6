"""Programs that the server starts: where they are, what they get of its environment, what they tell of themselves.

What is asked is asked in `/`: where the server was started there may be a repository, whose settings are none of
a program's business.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentsrv.errors import LimitReached, Unavailable
from agentsrv.threads import Pool
from agentsrv.users import User

TIMEOUT_S = 15.0

PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
    "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL",
    "VIRTUAL_ENV",
)  # fmt: skip
"""The allow-list of variables that every agent gets, besides LC_*. Nothing else of the server's."""


def child_environment(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The allow-listed part of the server's environment, plus `names`."""
    wanted = {*PASSED_ON, *names}
    return {key: value for key, value in environment.items() if key in wanted or key.startswith("LC_")}


class Program:
    """One of an agent: as its `setting` says, else the one `inside` an installed `package`, else the one on PATH.

    The package itself is not imported. To look for it takes a fifth of a millisecond, and each prompt needs it a few
    times: where it was found it stays, until it is gone.
    """

    def __init__(
        self,
        name: str,
        *,
        setting: str,
        configured: Path | None,
        package: str,
        inside: str,
        environment: Mapping[str, str],
    ) -> None:
        self._name = name
        self._setting = setting
        self._configured = configured
        self._package = package
        self._inside = inside
        self._environment = environment
        self._found: Path | None = None

    @property
    def path(self) -> Path:
        """To start it, found or not: starting a missing one gives the clearer error."""
        return self.find() or self._configured or Path(self._name)

    def find(self) -> Path | None:
        if self._found is None or not is_executable(self._found):
            self._found = self._look()
        return self._found

    def why_missing(self) -> str:
        """Why `find` has found nothing, and what to do."""
        if self._configured is not None:
            return f"{self._setting} is {self._configured}, which is no program that the server may run"
        return f"{self._name} was not found; install the `agents` extra or set {self._setting}"

    def _look(self) -> Path | None:
        if self._configured is not None:
            return self._configured if is_executable(self._configured) else None
        spec = importlib.util.find_spec(self._package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if is_executable(program := Path(place) / self._inside):
                return program
        on_path = shutil.which(self._name, path=self._environment.get("PATH"))
        return Path(on_path) if on_path else None


def is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


async def read_version(pool: Pool, program: Path, env: dict[str, str]) -> tuple[str | None, str | None]:
    """(the version that `program --version` prints, None), or (None, what is wrong)."""
    output, trouble = await ask(pool, program, "--version", env=env)
    if output is None:
        return None, trouble
    # "2.1.330 (Claude Code)", "codex-cli 0.163.0"
    words = output.decode("utf-8", "replace").split()
    version = next((word for word in words if word[0].isdigit()), None)
    return version, None if version else "--version does not tell a version"


async def ask(
    pool: Pool, program: Path, *arguments: str, env: dict[str, str]
) -> tuple[bytes | None, str | None]:
    """(what the program prints, None), or (None, what is wrong), after TIMEOUT_S. It runs as the pool's user."""
    # In a thread: asyncio kills a program alone when its start is cancelled, and not what that has started.
    try:
        return await pool.run(_ask, program, arguments, env, pool.user)
    except (Unavailable, LimitReached) as exc:
        return None, f"cannot be asked: {exc}"


def _ask(
    program: Path, arguments: tuple[str, ...], env: dict[str, str], user: User | None
) -> tuple[bytes | None, str | None]:
    question = " ".join(arguments)
    try:
        process = subprocess.Popen(
            (program, *arguments),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **({} if user is None else user.popen()),
        )
    except OSError as exc:
        return None, f"cannot be started: {exc.strerror}"
    with process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, f"did not answer {question} within {TIMEOUT_S:g} s"
    if process.returncode != 0:
        return None, f"{question} ended with exit code {process.returncode}"
    return output, None
