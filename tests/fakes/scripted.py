"""What the scripted model APIs share: the script in a prompt, and a server on loopback that plays it.

The prompt says what the model does, one `SCRIPT: verb rest` a line; everything else in it is ignored. Each API
says in its own file which verbs it has.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar

from aiohttp import web

TIMEOUT_S = 60.0
TOOLS = frozenset({"bash", "bash-bg", "write", "edit", "tool", "structured"})
MARKS = frozenset({"end", "and"})
"""The steps that say where a part of a script ends, and nothing more."""

ACCEPT_STEPS = 10
"""Turns of the loop until the last connection is accepted; one that is half-way would be left open."""

Call = TypeVar("Call")


@dataclass(frozen=True, slots=True)
class Step:
    """One `SCRIPT:` line: its verb and the rest of the line."""

    verb: str
    rest: str = ""


def script_of(blocks: list[str]) -> list[Step]:
    """The steps of the last block that has any: prompts that nobody answered may come in one message."""
    for text in reversed(blocks):
        if lines := [line for line in text.split("\n") if line.startswith("SCRIPT: ")]:
            return [Step(*line.removeprefix("SCRIPT: ").split(" ", 1)) for line in lines]
    return []


def part_of(script: list[Step], answered: int) -> list[Step]:
    """The part of the script that comes after `answered` model calls; beyond its end the answer is `ok`."""
    parts = list(grouped(script))
    return parts[answered] if answered < len(parts) else [Step("text", "ok")]


def part_after(script: list[Step], tools: int) -> list[Step]:
    """The part of the script that comes after so many uses of tools; beyond its end the answer is `ok`."""
    for part in grouped(script):
        uses = sum(step.verb in TOOLS for step in part)
        if tools < max(uses, 1):
            return part
        tools -= uses
    return [Step("text", "ok")]


def grouped(script: list[Step]) -> Iterator[list[Step]]:
    """Cut the script behind each tool, unless `and` follows, and at each `end`: one part a model call."""
    group: list[Step] = []
    for step, following in pairwise([*script, Step("end")]):
        if step.verb not in MARKS:
            group.append(step)
        if step.verb == "end" or (step.verb in TOOLS and following.verb != "and"):
            yield group
            group = []
    if group:
        yield group


def usage_of(steps: list[Step]) -> tuple[int, int]:
    """Tokens in and out."""
    for step in steps:
        if step.verb == "usage":
            used_in, used_out = step.rest.split(" ")
            return int(used_in), int(used_out)
    return 10, 5


def text_parts(step: Step) -> tuple[float, list[str]]:
    """What `text`, `deltas` and `fill` say: the pause between the pieces in seconds, and the pieces."""
    match step.verb:
        case "text":
            return 0, [step.rest]
        case "deltas":
            count, pause_s = step.rest.split(" ")
            return float(pause_s), [f"delta {n} " for n in range(int(count))]
        case "fill":
            length = int(step.rest)
            return 0, ["x" * min(1000, length - done) for done in range(0, length, 1000)]
        case _:
            raise ValueError(f"unknown step in the script: {step.verb} {step.rest}")


class ScriptedApi(ABC, Generic[Call]):
    """`async with Api() as api:` serves at `api.url`; `api.requests` is what it was asked.

    It has no conversation state: what to play follows from the request, except for the counted errors.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.requests: list[Call] = []
        self._failures: Counter[bytes] = Counter()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def add_routes(self, router: web.UrlDispatcher) -> None: ...

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        self.add_routes(app.router)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is None:
            return
        for _step in range(ACCEPT_STEPS):
            await asyncio.sleep(0)
        await self._runner.cleanup()

    def error_status(self, step: Step, conversation: Any) -> int | None:
        """The HTTP status that an `error` step wants for this call; None when it has been had often enough."""
        if step.verb != "error":
            return None
        status, _, count = step.rest.partition(" ")
        call = hashlib.sha256(json.dumps([step.rest, conversation], default=str).encode()).digest()
        if count and self._failures[call] >= int(count):
            return None
        self._failures[call] += 1
        return int(status)


async def stream(
    request: web.Request,
    events: AsyncIterator[dict[str, Any] | Step],
    headers: Mapping[str, str] = MappingProxyType({}),
    last: bytes = b"",
) -> web.StreamResponse:
    """Send events as SSE, and `last` behind them; `hang`, `drop` and `drip` among them are carried out."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **headers})
    crumb_s: float | None = None
    async for event in events:
        match event:
            case Step("hang"):
                await asyncio.Event().wait()
            case Step("drop"):
                return cut(request)
            case Step("drip", rest):
                crumb_s = float(rest or "0.005")
            case Step():
                raise AssertionError(event)
            case _:
                if not response.prepared:
                    await response.prepare(request)
                await write_frame(response, event, crumb_s)
    await response.write_eof(last)
    return response


def cut(request: web.Request) -> web.StreamResponse:
    """Cut the connection without an end of the answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def write_frame(response: web.StreamResponse, event: dict[str, Any], crumb_s: float | None) -> None:
    name = f"event: {event['type']}\n" if "type" in event else ""
    frame = f"{name}data: {json.dumps(event)}\n\n".encode()
    if crumb_s is None:
        await response.write(frame)
        return
    for at in range(0, len(frame), 7):
        await response.write(frame[at : at + 7])
        await asyncio.sleep(crumb_s)


Api = TypeVar("Api", bound=ScriptedApi[Any])


@contextmanager
def serve_in_thread(api: Api) -> Iterator[Api]:
    """The fake for a test that is not a coroutine; it serves in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="model-api")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(api.__aenter__(), loop).result(TIMEOUT_S)
        yield api
        asyncio.run_coroutine_threadsafe(api.__aexit__(), loop).result(TIMEOUT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def serve(api: ScriptedApi[Any]) -> None:
    """Serve until ended; the first line of stdout is the URL."""
    async with api:
        sys.stdout.write(api.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()
