"""Asks a program for its version, or for something else that it tells about itself.

It works in `/`: where the server was started there may be a repository, whose settings are none of its business.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

TIMEOUT_S = 15.0


async def read_version(program: Path, env: dict[str, str]) -> tuple[str | None, str | None]:
    """(the version that `program --version` prints, None), or (None, what is wrong)."""
    output, trouble = await ask(program, "--version", env=env)
    if output is None:
        return None, trouble
    # "2.1.330 (Claude Code)", "codex-cli 0.163.0"
    words = output.decode("utf-8", "replace").split()
    version = next((word for word in words if word[0].isdigit()), None)
    return version, None if version else "--version does not tell a version"


async def ask(program: Path, *arguments: str, env: dict[str, str]) -> tuple[bytes | None, str | None]:
    """(what the program prints, None), or (None, what is wrong)."""
    # In a thread: asyncio kills a program alone when its start is cancelled, and not what that has started.
    return await asyncio.to_thread(_ask, program, arguments, env)


def _ask(program: Path, arguments: tuple[str, ...], env: dict[str, str]) -> tuple[bytes | None, str | None]:
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
