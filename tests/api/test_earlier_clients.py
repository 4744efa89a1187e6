"""What clients of the earlier server send is understood, and answers have the types that its published schema has."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from aiohttp import FormData

from agentsrv.api.schemas.git import DiffView, RepositoryList
from agentsrv.config import Config
from tests.api.kit import KEY, Server
from tests.terminal_client import terminal
from tests.workspace.git_kit import make_repository

AgentName = Literal["claude-code", "codex"]


class Session(msgspec.Struct, rename="camel"):
    """Fields that have a default may be left out, and only those of a type with None be null."""

    id: str
    name: str
    agent: AgentName
    created_at: str
    updated_at: str
    cwd: str | None = None
    model: str | None = None
    is_streaming: bool = False
    internal_session_id: str = ""


class Sessions(msgspec.Struct):
    sessions: list[Session]
    count: int
    timestamp: str


class Messages(msgspec.Struct, rename="camel"):
    session_id: str
    messages: list[dict[str, Any]]
    count: int
    timestamp: str


class Deleted(msgspec.Struct, rename="camel"):
    deleted: Literal[True]
    session_id: str
    timestamp: str


class Entry(msgspec.Struct, rename="camel"):
    name: str
    type: Literal["directory", "file"]
    path: str
    in_git_repo: bool
    git_root: str | None


class Listing(msgspec.Struct, rename="camel"):
    path: str
    full_path: str
    entries: list[Entry]
    count: int
    timestamp: str
    max_depth: int
    current_in_git_repo: bool
    current_git_root: str | None
    current_is_worktree: bool
    current_worktree_dir: str | None


class Uploaded(msgspec.Struct, rename="camel"):
    path: str
    uploaded_count: int
    skipped_count: int
    files: list[dict[str, str | int]]
    timestamp: str


class Token(msgspec.Struct, rename="camel"):
    token: str
    expires_at: str
    deployment_id: str
    terminal_id: str


class TerminalMessage(msgspec.Struct):
    type: Literal["data", "close", "error", "info"]
    data: str


async def test_answers_fit_the_published_schema(server: Server, config: Config) -> None:
    """Every route that it has, but for what stands in docs/drop-in.md."""
    make_repository(config.workspace_base / "repo", {"a": "a\n", "gone": ""})
    (config.workspace_base / "repo/gone").unlink()
    (config.workspace_base / "repo/new").symlink_to("a")
    form = FormData({"targetPath": "up", "relativePaths": "x/y.txt"})
    form.add_field("files", b"content", filename="y.txt")
    name, label = {"sessionId": "s", "model": "test-model"}, {"deploymentId": "local-dev"}
    files = "/sessions/filesystem/files?path=repo&includeFiles=true&maxDepth=99"

    async def fits(kind: type[msgspec.Struct], method: str, path: str, **options: Any) -> Any:
        answer = await server.ask(method, path, **options)
        assert answer.status < 300, (path, answer.text)
        return msgspec.json.decode(answer.text, type=kind)

    await fits(Session, "POST", "/sessions", json=name)
    await server.generate("hello")
    await fits(Session, "PUT", "/sessions/s", json={"name": ""})
    await fits(Sessions, "GET", "/sessions")
    messages = await fits(Messages, "GET", "/sessions/s/messages")
    assert {"user", "assistant"} < {message["type"] for message in messages.messages}
    listing = await fits(Listing, "GET", files)
    assert {"a": "file", "new": "file"} == {entry.name: entry.type for entry in listing.entries}
    await fits(Listing, "GET", "/sessions/filesystem/search?path=rep")
    await fits(Uploaded, "POST", "/sessions/filesystem/upload", data=form)
    await fits(RepositoryList, "GET", "/git/repositories")
    assert len((await fits(DiffView, "GET", "/git/diff?path=repo&staged=false&context=5")).files) == 2
    await fits(Token, "POST", "/terminal/token", json={**label, "terminalId": "t"})
    await fits(Deleted, "DELETE", "/sessions/s")
    async with terminal(server.client, server.port, KEY) as shell:
        await shell.type("exit 3\n")
        told = [msgspec.convert(await shell.message(kind), TerminalMessage) for kind in ("info", "close")]
    assert told[0].data.endswith(f" in {config.workspace_base}/workspaces")
    assert told[1].data == "ended with 3"


async def test_unset_texts_are_empty(server: Server) -> None:
    """Clients of the earlier server have strings there, never null."""
    session = (await server.ask("POST", "/sessions", json={})).json

    assert session["name"] == ""
    assert isinstance(session["internalSessionId"], str)


@pytest.mark.parametrize(
    "path", ["/sessions/", "/health/", "/agents/", "/sessions/s/", "/sessions/s/messages/"]
)
async def test_a_slash_at_the_end_changes_nothing(server: Server, path: str) -> None:
    """Load balancers and some clients add it."""
    await server.ask("POST", "/sessions", json={"sessionId": "s"})

    assert (await server.ask("GET", path)).status == 200


async def test_a_body_may_be_fields_of_a_form(server: Server) -> None:
    """With the same checks as JSON: text, numbers and switches are told by the field."""
    made = await server.ask("POST", "/sessions", data={"sessionId": "s", "name": "true"})
    job = await server.ask(
        "POST", "/generate/v2", data={"session_id": "s", "prompt": "a+b", "background": "true"}
    )
    wrong = await server.ask("POST", "/sessions", data={"sessionId": "../x"})

    assert (made.status, made.json["name"]) == (201, "true")
    assert job.status == 202
    assert (wrong.status, wrong.json["details"][0]["path"]) == (400, "sessionId")


async def test_links_look_like_what_they_lead_to_where_earlier_clients_look(
    server: Server, config: Config
) -> None:
    """They know files and directories only; elsewhere a link is called one."""
    directory = config.workspace_base / "d"
    directory.mkdir()
    (directory / "up").symlink_to("../d")
    (directory / "nowhere").symlink_to("missing")
    types = {}
    for prefix in ("", "/sessions"):
        answer = await server.ask("GET", f"{prefix}/filesystem/files?path=d&includeFiles=true&maxDepth=1")
        types[prefix] = {entry["name"]: entry["type"] for entry in answer.json["entries"]}

    assert types == {
        "": {"up": "symlink", "nowhere": "symlink"},
        "/sessions": {"up": "directory", "nowhere": "file"},
    }
