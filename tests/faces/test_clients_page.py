"""What docs/clients.md shows is what works."""

from __future__ import annotations

import re

import pytest

from tests.kit import KEY, ROOT, Server

PAGE = (ROOT / "docs/clients.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["chat", "responses"])
def test_program_runs_as_it_stands(
    shared_server: Server, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a server whose agent repeats what it is told; only the port and the directory are others."""
    (shared_server.directory / "base" / "project").mkdir(parents=True, exist_ok=True)
    here = program.replace("127.0.0.1:3000", f"127.0.0.1:{shared_server.port}")
    exec(compile(here, "docs/clients.md", "exec"), {"API_KEY": KEY})

    answer = capsys.readouterr().out
    prompts = re.findall(r'(?:"content": |input=)"(.*?)"', program)
    assert prompts
    assert [prompt for prompt in prompts if prompt not in answer] == []
