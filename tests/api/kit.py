"""A server in this process, with the real services and a scripted agent, and two ways to talk to it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web

from agentsrv.api.connections import Limits
from agentsrv.api.server import ACCEPT_STEPS, HttpRunner
from agentsrv.app import make_app
from agentsrv.config import Config
from agentsrv.listen import bound, listening
from tests.fleet.kit import free_port
from tests.migrated import put_database
from tests.redis_server import real_redis

KEY = "test-key-0123456789"
FAKE_AGENT = Path(__file__).parents[1] / "fakes" / "fake_agent.py"
TIMEOUT_S = 60.0


def make_config(directory: Path, **settings: Any) -> Config:
    """A configuration of its own below `directory`, with the fake agent as Claude Code and a database without rows."""
    agent = directory / "claude"
    agent.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE_AGENT} "$@"\n')
    agent.chmod(0o755)
    base = directory / "base"
    base.mkdir()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(directory),
        "ANTHROPIC_API_KEY": "sk-secret",
        "EMPTY": "",
        "CLAUDE_PATH": str(agent),
    }
    defaults: dict[str, Any] = {
        "api_keys": (KEY, "second-key-0123456789"),
        "workspace_base": base,
        "state_dir": directory / "state",
        "database_path": directory / "state" / "agentsrv.db",
        "environment": environment,
    }
    config = Config(**defaults | settings)
    if config.database_path == defaults["database_path"]:
        put_database(config.database_path)
    return config


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class Server:
    app: web.Application
    port: int
    client: ClientSession

    async def ask(self, method: str, path: str, *, key: str | None = KEY, **options: Any) -> Answer:
        """One request and its whole answer. `key` None: without one."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers.setdefault("Authorization", f"Bearer {key}")
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.client.request(method, url, headers=headers, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def generate(self, prompt: str = "hello", session_id: str = "s", **fields: Any) -> Answer:
        body = {"session_id": session_id, "prompt": prompt, **fields}
        return await self.ask("POST", "/generate/v2", json=body)

    async def start(self, prompt: str = "hello", session_id: str = "s", **fields: Any) -> str:
        """Start a job in the background; its id."""
        answer = await self.generate(prompt, session_id, background=True, **fields)
        assert answer.status == 202, answer.text
        return str(answer.json["taskId"])

    async def end_of(self, task_id: str) -> Any:
        """The job, once it has ended."""
        return (await self.ask("GET", f"/generate/v2/jobs/{task_id}?wait=50")).json

    async def send(self, data: bytes) -> bytes:
        """The answer to these bytes: a head, and the body whose length it says."""
        async with asyncio.timeout(TIMEOUT_S), self.connection() as (reader, writer):
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\nContent-Length: (\d+)", head)
            return head + (await reader.readexactly(int(length[1])) if length else b"")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serve(app: web.Application, limits: Limits | None = None, port: int = 0) -> AsyncIterator[Server]:
    runner = HttpRunner(app, shutdown_timeout=2, limits=limits)
    timeout = ClientTimeout(total=TIMEOUT_S)
    try:
        await runner.setup()
        await runner.listen([listening(bound("127.0.0.1", port))])
        # Exactly what a test writes goes out: no cookies, no decoding.
        async with ClientSession(timeout=timeout, requote_redirect_url=False) as client:
            yield Server(app, runner.addresses[0][1], client)
    finally:
        for _ in range(ACCEPT_STEPS):
            await asyncio.sleep(0)
        await runner.cleanup()


Serve = Callable[[Config], AbstractAsyncContextManager[Server]]


@asynccontextmanager
async def serve_configured(config: Config) -> AsyncIterator[Server]:
    async with serve(make_app(config)) as server:
        yield server


@asynccontextmanager
async def serve_behind_door(config: Config) -> AsyncIterator[Server]:
    """A server whose clients talk to another one of its fleet. `app` is that of the home."""
    directory = config.state_dir.with_name("door")
    directory.mkdir()
    ports = free_port(), free_port()
    with real_redis(directory) as redis:
        home = replace(config, server_name="home", redis_url=redis.url, port=ports[0])
        door = replace(
            home,
            server_name="door",
            port=ports[1],
            accepts_sessions=False,
            workspace_base=directory,
            state_dir=directory / "state",
            database_path=directory / "state" / "agentsrv.db",
        )
        async with (
            serve(make_app(home), port=ports[0]) as at_home,
            serve(make_app(door), port=ports[1]) as at_door,
        ):
            yield replace(at_door, app=at_home.app)


def events_of(stream: str) -> list[tuple[int, Any]]:
    """(id, data) of every frame."""
    found = []
    for frame in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line and line[0] != ":")
        if "data" in fields:
            found.append((int(fields.get("id", 0)), json.loads(fields["data"])))
    return found
