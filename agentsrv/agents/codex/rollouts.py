"""Codex's records of its threads: a file of JSON lines each, by the day on which the thread began."""

from __future__ import annotations

import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from agentsrv.agents.conversations import as_conversation
from agentsrv.agents.records import is_written, put_aside

MESSAGE = re.compile(
    rb'"type": ?"(?:user_message|UserMessage|agent_message|AgentMessage|compacted)"|"role": ?"assistant"'
    rb"|\A\x28\xb5\x2f\xfd"
)
"""In a record, or at the beginning of one that Codex has compressed (`local_thread_store_compression`, 0.163)."""


def find_rollout(thread_id: str, home: Path) -> Path | None:
    """The record of a thread in a CODEX_HOME."""
    if as_conversation(thread_id) is None:
        return None
    return next((record for record in _rollouts(thread_id, home) if is_written(record, MESSAGE)), None)


def put_rollouts_aside(thread_id: str, home: Path) -> None:
    """Those in which nothing was said."""
    if as_conversation(thread_id) is not None:
        for record in _rollouts(thread_id, home):
            put_aside(record)


def _rollouts(thread_id: str, home: Path) -> list[Path]:
    found = (home / "sessions").glob(f"[0-9]*/[0-9]*/[0-9]*/rollout-*-{thread_id}.jsonl*")
    return [record for record in found if record.name.endswith((".jsonl", ".jsonl.zst"))]


def bring_rollout(thread_id: str, source: Path, home: Path) -> bool:
    """Copy a thread's record from another CODEX_HOME, whole or not at all; False when there is none.

    The file alone is enough to resume the thread.
    """
    found = find_rollout(thread_id, source)
    if found is None or not stat.S_ISREG(found.lstat().st_mode):
        return False
    target = home / found.relative_to(source)
    partial = target.with_suffix(".partial")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(found, partial, follow_symlinks=False)
        os.chmod(partial, 0o600)
        partial.rename(target)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return False
    return True
