"""Asks a program for its version, or for something else that it tells about itself.

It works in `/`: where the server was started there may be a repository, whose settings are none of its business.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
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
    question = " ".join(arguments)
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError as exc:
        return None, f"cannot be started: {exc.strerror}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return None, f"did not answer {question} within {TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        return None, f"{question} ended with exit code {process.returncode}"
    return output, None
