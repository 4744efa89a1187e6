"""A volume as the earlier server left it: its database, and what both agents wrote about one session each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.store.test_legacy import CAMEL, make, message

OWNER = 1001
CWD = "/home/appuser/workspaces"
CLAUDE = "6c1a2d30-7a53-4f2c-9a29-0f6c3a5b1e01"
CODEX = "01980000-0000-7000-8000-000000000001"
SAID = {"claude-code": "the moon is a pale lantern", "codex": "the sea is a slow clock"}
AT = "2025-11-20T10:00:00.000Z"
SECONDS = 1_763_632_800


def fill(volume: Path) -> None:
    """Sessions `old-claude` and `old-codex`."""
    (volume / "workspaces").mkdir(parents=True)
    (volume / "data").mkdir()
    sessions = [
        ("old-claude", "one", "claude-code", CWD, None, CLAUDE, SECONDS, SECONDS, 0),
        ("old-codex", "two", "codex", CWD, None, CODEX, SECONDS, SECONDS, 0),
    ]
    said = [
        json.dumps([{"type": "user", "message": {"role": "user", "content": text}}]) for text in SAID.values()
    ]
    messages = [
        message("m-1", said[0], SECONDS, session="old-claude"),
        message("m-2", said[1], SECONDS, session="old-codex"),
    ]
    make(volume / "data" / "agent_ts.db", sessions, messages, CAMEL)
    write_lines(volume / ".claude/projects/-home-appuser-workspaces" / f"{CLAUDE}.jsonl", claude_lines())
    write_lines(
        volume / ".codex/sessions/2025/11/20" / f"rollout-2025-11-20T10-00-00-{CODEX}.jsonl", codex_lines()
    )
    (volume / ".codex/config.toml").write_text('model_reasoning_summary = "none"\n')
    for path in (volume, *volume.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def claude_lines() -> list[dict[str, Any]]:
    """The transcript's shape of claude 2.1."""
    common = {
        "sessionId": CLAUDE,
        "cwd": CWD,
        "version": "2.1.0",
        "isSidechain": False,
        "userType": "external",
    }
    common |= {"timestamp": AT, "gitBranch": ""}
    first, second = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"
    prompt = {"role": "user", "content": SAID["claude-code"]}
    answer = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-8",
        "content": [{"type": "text", "text": "yes"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    return [
        {"type": "user", "uuid": first, "parentUuid": None, "message": prompt, **common},
        {
            "type": "assistant",
            "uuid": second,
            "parentUuid": first,
            "requestId": "r",
            "message": answer,
            **common,
        },
    ]


def codex_lines() -> list[dict[str, Any]]:
    """The rollout's shape of codex 0.163."""
    meta = {
        "id": CODEX, "timestamp": AT, "cwd": CWD, "originator": "codex_exec", "cli_version": "0.163.0",
        "source": "exec", "model_provider": "openai",
    }  # fmt: skip
    prompt = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SAID["codex"]}]}
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}
    shown = {"type": "user_message", "message": SAID["codex"], "kind": "plain"}
    payloads = [
        ("session_meta", meta),
        ("response_item", prompt),
        ("event_msg", shown),
        ("response_item", answer),
    ]
    return [{"timestamp": AT, "type": type_, "payload": payload} for type_, payload in payloads]
