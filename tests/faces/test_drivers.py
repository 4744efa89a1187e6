"""Programs that speak to OpenAI, as docs/clients.md shows them: the Agents SDK, and the `llm` command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import KEY, ROOT, Server, script

pytestmark = pytest.mark.nightly

PAGE = (ROOT / "docs/clients.md").read_text()
AGENTS, LLM = "openai-agents==0.24.0", "llm==0.36"
TIMEOUT_S = 240
"""They are installed first."""


def test_agents_sdk_runs_an_agent(shared_server: Server) -> None:
    (program,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    head = f"API_KEY = {KEY!r}\nfrom agents import set_tracing_disabled\nset_tracing_disabled(True)\n"

    assert "Run the tests." in run(shared_server, AGENTS, "python", "-c", head + program)


def test_llm_asks_an_agent(shared_server: Server, tmp_path: Path) -> None:
    (models,) = re.findall(r"```yaml\n(- model_id: .*?)```", PAGE, re.DOTALL)
    (tmp_path / "extra-openai-models.yaml").write_text(here(shared_server, models))
    (tmp_path / "keys.json").write_text(json.dumps({"agentsrv": KEY}))
    words = run(shared_server, LLM, "llm", "-m", "coder", script("say hello"), LLM_USER_PATH=str(tmp_path))

    assert words.strip() == "hello"


def run(server: Server, package: str, *argv: str, **environment: str) -> str:
    """What a program of a package says, which is installed for it alone."""
    command = [
        str(Path(sys.executable).parent / "uv"),
        "run",
        "--no-project",
        "--isolated",
        "--with",
        package,
        *argv,
    ]
    done = subprocess.run(
        [here(server, word) for word in command],
        env={**os.environ, **environment},  # noqa: TID251
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(server: Server, text: str) -> str:
    return text.replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
