"""docs/client.md says what is, and its examples run."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

from agentsrv import client
from tests.kit import KEY, ROOT, Server
from tests.workspace.git_kit import make_repository, write_files

PAGE = (ROOT / "docs/client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_export_is_explained() -> None:
    """Each name that the package gives is used by an example, and none that it does not give."""
    imported = {
        alias.name
        for example in EXAMPLES
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert sorted(imported) == client.__all__


def test_it_could_be_a_package_of_its_own() -> None:
    """It imports itself, aiohttp, msgspec, and what comes with Python."""
    trees = [ast.parse(file.read_text()) for file in Path(client.__file__).parent.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    others = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}

    assert {name.partition(".")[0] for name in others} == {"agentsrv", "aiohttp", "msgspec"}
    assert [
        name for name in others if name.startswith("agentsrv") and not name.startswith("agentsrv.client")
    ] == []


def test_what_is_exported_is_there() -> None:
    """`__all__` is sorted, and every class says what it is."""
    assert client.__all__ == sorted(client.__all__)
    kinds = [getattr(client, name) for name in client.__all__]
    assert [kind for kind in kinds if isinstance(kind, type) and not inspect.getdoc(kind)] == []


async def test_the_examples_run(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One after the other, against a server."""
    monkeypatch.setenv("AGENTSRV_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AGENTSRV_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(make_repository(server.workspace / "project"), {"new.txt": "one\n"})
    names: dict[str, object] = {}
    for example in EXAMPLES:
        code = compile(example, "docs/client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if (coroutine := eval(code, names)) is not None:
            await coroutine

    printed = capsys.readouterr().out
    assert "Tidy up." in printed
    for advice in (
        "session_not_found",
        "session_exists",
        "mend [",
        "is there a server at",
        "use another key",
        "ftp:",
    ):
        assert advice in printed
    assert "+++ b/new.txt" in printed
    assert KEY not in printed
