"""Asks a program for its version."""

from __future__ import annotations

import asyncio
from pathlib import Path

TIMEOUT_S = 5.0


async def read_version(program: Path, env: dict[str, str]) -> tuple[str | None, str | None]:
    """(first word of what `program --version` prints, None), or (None, what is wrong)."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "--version",
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as exc:
        return None, f"cannot be started: {exc.strerror}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        return None, f"did not answer --version within {TIMEOUT_S:g} s"
    words = output.decode("utf-8", "replace").split()
    if process.returncode != 0 or not words:
        return None, f"--version ended with exit code {process.returncode}"
    return words[0], None
