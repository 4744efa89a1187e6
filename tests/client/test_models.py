"""The clients' types are those of /openapi.json."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentsrv.api.schemas.activity import ActivitySnapshot, SessionActivity
from agentsrv.client import git, models
from tests.kit import Server

PACKAGE = Path(models.__file__).parent

SCHEMAS = {
    models.Session: "SessionView",
    models.SessionActivity: "SessionActivity",
    models.Permission: "PermissionView",
    models.Activity: "ActivitySnapshot",
    models.ForkedFrom: "ForkedFrom",
    models.JobInfo: "JobView",
    models.QueuedPrompt: "QueuedView",
    models.Timer: "TimerView",
    models.BackgroundTask: "BackgroundView",
    models.PermissionAnswer: "PermissionAnswered",
    models.Agent: "AgentView",
    models.Terminal: "TerminalView",
    models.TerminalToken: "TerminalTokenView",
    models.DeviceToken: "TokenMade",
    models.Key: "TokenView",
    models.Entry: "Entry",
    models.Listing: "FileList",
    models.LineMatch: "LineMatch",
    models.Matches: "LineList",
    models.WrittenFile: "FileView",
    models.UploadedFile: "UploadedFile",
    models.Upload: "FilesUploaded",
    models.Repository: "RepositoryView",
    models.Worktree: "WorktreeView",
    models.CleanedWorktree: "CleanedWorktree",
    models.CleanUp: "WorktreesCleaned",
    models.Merged: "Merged",
    models.DiffLine: "DiffLineView",
    models.DiffHunk: "DiffHunkView",
    models.DiffFile: "DiffFileView",
    git.Diff: "DiffView",
    models.Health: "HealthView",
    models.DatabaseHealth: "DatabaseHealth",
    models.RedisHealth: "RedisHealth",
}
"""What each of them is called there."""


PROTOCOLS = ("/acp", "/mcp", "/openai/")
"""Others have clients for them."""

NOT_FOR_CLIENTS = {
    *("/docs", "/openapi.json", "/console", "/console/{}"),
    *("/servers", "/env/{}", "/audit", "/auth/codes/redeem", "/terminals/{}/size"),
}
"""Pages, and what is for whoever runs the server, has no key, or a socket that says nothing."""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = Server(tmp_path_factory.mktemp("server"), tmp_path_factory.getbasetemp() / "none").start()
    try:
        return server.ask("GET", "/openapi.json").json
    finally:
        server.close()


@pytest.fixture(scope="module")
def schemas(document: Any) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]
    # Messages of a stream have no place in the document.
    kinds = (ActivitySnapshot, SessionActivity)
    return found | msgspec.json.schema_components(kinds, ref_template="{name}")[1]


def test_every_route_has_a_method(document: Any) -> None:
    """What the server learns the client learns, too, or it is said here that it is for others."""
    there = {re.sub(r"\{\w+\}", "{}", path) for path in document["paths"] if not path.startswith(PROTOCOLS)}
    ours = {text for file in PACKAGE.glob("*.py") for text in paths_in(ast.parse(file.read_text()))}
    ends = tuple(text for text in ours if text.startswith("{}/"))
    missing = {
        path for path in there - ours if not (path.startswith("/sessions/{}/") and path.endswith(ends))
    }

    assert missing == NOT_FOR_CLIENTS


def paths_in(tree: ast.AST) -> Iterator[str]:
    """What is a path, or the end of one: `{}` stands for what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition("?")[0]


def test_every_answer_is_compared() -> None:
    """None is forgotten."""
    answers = {kind for module in (models, git) for kind in vars(module).values() if is_answer(kind)}

    assert SCHEMAS.keys() == answers


def is_answer(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, models.Answer) and kind is not models.Answer


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: kind.__name__)
def test_a_type_has_the_fields_of_its_schema(schemas: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    """Each field is there, and what we cannot do without the server always sends."""
    schema = schemas[SCHEMAS[kind]]
    fields = msgspec.structs.fields(kind)

    assert [each.encode_name for each in fields if each.encode_name not in schema["properties"]] == []
    needed = {each.encode_name for each in fields if each.required}
    assert needed <= set(schema["required"])
