"""Libraries that people read event streams with, over connections that are cut: each event once, no prompt twice."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import httpx
import pytest
import sseclient
from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession
from aiohttp_sse_client2.client import EventSource
from httpx_sse import aconnect_sse

from tests.client.proxy import proxy_to
from tests.kit import KEY, STREAM_TIMEOUT_S, Server, script

HERE = Path(__file__).parent / "browser"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
PROMPT = script("rate 300 300 500", "say Grüße, 你好, 🙂")
FORMATS = ("native", "acp")
CUTS = (3_000, 40_000, 2_000, 25_001)
"""After so many bytes of an answer its connection is cut; those that follow are left alone."""

Message = tuple[str | None, str]
Read = Callable[[str, dict[str, Any]], Awaitable[list[Message]]]
"""Reads a stream to its `done`, at an URL of the server and with a prompt, for libraries that send one."""


def with_npm(library: str) -> Read:
    async def read(url: str, body: dict[str, Any]) -> list[Message]:
        if (node := shutil.which("node")) is None or not (HERE / "node_modules" / library).exists():
            pytest.fail(f"{library} is not installed; `python3 dev.py tools` does it")
        task = {"library": library, "url": url, "headers": HEADERS, "body": json.dumps(body)}
        command = (node, str(HERE / "streams.mjs"), json.dumps(task))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        try:
            printed, errors = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        assert (process.returncode, errors) == (0, b"")
        return [tuple(json.loads(line)) for line in printed.splitlines()]

    return read


async def with_httpx_sse(url: str, _body: dict[str, Any]) -> list[Message]:
    """It does not come back by itself: a loop around it does."""
    seen: list[Message] = []
    async with httpx.AsyncClient(headers=HEADERS) as client:
        while not is_over(seen):
            with suppress(httpx.TransportError):
                async with aconnect_sse(client, "GET", url, headers=resume(seen)) as source:
                    async for message in source.aiter_sse():
                        seen.append((message.id, message.data))  # noqa: PERF401 - a cut keeps what came before
    return seen


async def with_sseclient(url: str, _body: dict[str, Any]) -> list[Message]:
    return await asyncio.to_thread(read_with_sseclient, url)


def read_with_sseclient(url: str) -> list[Message]:
    seen: list[Message] = []
    while not is_over(seen):
        with (
            suppress(OSError, HTTPException),
            urlopen(Request(url, headers=HEADERS | resume(seen))) as answer,
        ):
            for message in sseclient.SSEClient(answer).events():
                seen.append((message.id, message.data))  # noqa: PERF401 - the same
    return seen


async def with_aiohttp_sse_client(url: str, body: dict[str, Any]) -> list[Message]:
    seen: list[Message] = []
    options: dict[str, Any] = {"option": {"method": "POST"}, "json": body}
    async with ClientSession() as session:
        source = EventSource(url, session=session, headers=HEADERS.copy(), **options)
        source._reconnection_time = timedelta(milliseconds=1)
        while not is_over(seen):
            with suppress(ClientPayloadError, ClientConnectionError):
                await source.connect()
                async for message in source:
                    seen.append((message.last_event_id, message.data))
                    if is_over(seen):
                        break
        await source.close()
    return seen


def is_over(seen: list[Message]) -> bool:
    return bool(seen) and json.loads(seen[-1][1]).get("done") is True


def resume(seen: list[Message]) -> dict[str, str]:
    return {"Last-Event-ID": seen[-1][0] or ""} if seen else {}


READERS: dict[str, tuple[Read, str]] = {
    "@microsoft/fetch-event-source": (with_npm("@microsoft/fetch-event-source"), "POST"),
    "event-source-polyfill": (with_npm("event-source-polyfill"), "GET"),
    "eventsource": (with_npm("eventsource"), "GET"),
    "eventsource-client": (with_npm("eventsource-client"), "POST"),
    "eventsource-parser": (with_npm("eventsource-parser"), "GET"),
    "httpx-sse": (with_httpx_sse, "GET"),
    "sseclient-py": (with_sseclient, "GET"),
    "aiohttp-sse-client2": (with_aiohttp_sse_client, "POST"),
}


@pytest.mark.tools
@pytest.mark.parametrize("library", READERS)
async def test_a_library_gets_each_event_once_over_cuts(server: Server, library: str) -> None:
    """A library that comes back by its own rules gets what a reader of today gets, and starts nothing anew."""
    seen = await asyncio.gather(*(read_over_cuts(server, format, *READERS[library]) for format in FORMATS))

    assert seen == [await asyncio.to_thread(messages_of_only_job, server, format) for format in FORMATS]


async def read_over_cuts(server: Server, format: str, read: Read, method: str) -> list[Message]:
    """What is read of a prompt, in a session that is called like the format."""
    body = {"session_id": format, "prompt": PROMPT, "format": format}
    async with proxy_to(server.port) as proxy, asyncio.timeout(STREAM_TIMEOUT_S):
        proxy.budget = each_of(CUTS)
        url = f"{proxy.url}/generate/v2"
        if method == "GET":
            task_id = await asyncio.to_thread(server.start_job, PROMPT, format)
            url += f"/jobs/{task_id}/stream?format={format}"
        seen = await read(url, body)
    assert proxy.cuts == len(CUTS)
    return seen


@pytest.mark.tools
async def test_a_named_prompt_runs_once_wherever_it_is_cut(server: Server) -> None:
    """A cut before the first event leaves no id to come back with: then `message_id` says that it is the same."""
    body = {"session_id": "native", "prompt": PROMPT, "message_id": "the-one"}
    async with proxy_to(server.port) as proxy, asyncio.timeout(STREAM_TIMEOUT_S):
        proxy.budget = each_of((1, 700))
        seen = await READERS["@microsoft/fetch-event-source"][0](f"{proxy.url}/generate/v2", body)

    assert proxy.cuts == 2
    assert seen == await asyncio.to_thread(messages_of_only_job, server, "native")


def each_of(sizes: tuple[int, ...]) -> Callable[[], int | None]:
    left: Iterator[int] = iter(sizes)
    return lambda: next(left, None)


def messages_of_only_job(server: Server, format: str) -> list[Message]:
    """Those of the session that is called like the format."""
    (job,) = server.ask("GET", f"/generate/v2/jobs?session_id={format}").json["jobs"]
    stream = server.ask("GET", f"/generate/v2/jobs/{job['taskId']}/stream?format={format}")
    return [(str(event.id), event.data.decode()) for event in stream.rest()]
