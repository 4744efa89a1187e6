"""Compiles the agents of the benchmarks, once for each state of a source."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("agent.c")


def compile_agent(source: Path = SOURCE) -> Path:
    """The executable, from a cache in the temporary directory of this user."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"agentsrv-bench-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    program = directory / f"agent-{digest}"
    if not program.exists():
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-o", unfinished, source], check=True)
        unfinished.replace(program)
    return program
