"""What is asked again, what becomes which error, and where the key goes."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agentsrv import client as package
from agentsrv.client import (
    AgentsrvError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncAgentsrv,
    InternalServerError,
    ServiceUnavailableError,
)
from agentsrv.client.connection import Options, pause_s

KEY = "a-key-that-nobody-may-see"
BUSY = {"error": "later", "code": "draining", "timestamp": ""}
HEALTHY = {
    "status": "healthy",
    "timestamp": "",
    "version": "9",
    "database": {"connected": True},
    "redis": {"configured": False, "connected": False},
}


@asynccontextmanager
async def answering(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], **options: Any
) -> AsyncIterator[tuple[AsyncAgentsrv, list[web.Request]]]:
    """A server that answers everything with `handler`, a client of it, and what was asked."""
    asked: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        asked.append(request)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with AsyncAgentsrv(url, KEY, **options) as client:
            yield client, asked


def refusing(count: int, status: int, **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Refuses the first `count` requests."""
    left = iter(range(count))

    async def handler(request: web.Request) -> web.Response:
        if next(left, None) is not None:
            return web.json_response(BUSY, status=status, headers=headers)
        return web.json_response(HEALTHY | {"taskId": "t", "sessionId": "s"}, status=200)

    return handler


async def test_a_server_without_tls_is_told_as_one() -> None:
    """And not by the system's error of the same number."""

    async def nothing(_: web.Request) -> web.Response:
        return web.Response()

    async with answering(nothing) as (plain, _):
        url = plain.base_url.replace("http:", "https:")
        async with AsyncAgentsrv(url, KEY, max_retries=0) as client:
            with pytest.raises(APIConnectionError, match="SSL"):
                await client.health.get()


def test_pauses_grow_and_are_never_the_same_for_all() -> None:
    """From 0.1 s to 5 s, half of that at least; a dead stream is one of 45 s of silence."""
    pauses = {attempt: [pause_s(attempt) for _ in range(50)] for attempt in (0, 3, 50)}

    assert {
        attempt: 0.5 * most <= min(found) < max(found) <= most
        for attempt, most, found in ((0, 0.1, pauses[0]), (3, 0.8, pauses[3]), (50, 5.0, pauses[50]))
    } == dict.fromkeys(pauses, True)
    assert (Options().silence, Options().reconnect_timeout) == (45, None)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_reading_is_asked_again(status: int) -> None:
    """A server that restarts, or has too much to do, is asked again."""
    async with answering(refusing(2, status)) as (client, asked):
        assert (await client.health.get()).status == "healthy"

    assert len(asked) == 3


async def test_what_goes_on_is_asked_again() -> None:
    """Also where the answer is the beginning of a stream, and breaks off before it."""
    left = [503, 0]

    async def handler(request: web.Request) -> web.StreamResponse:
        status = left.pop(0) if left else 200
        body = b'data: {"sessions": [], "permissions": []}\n\n' if status == 200 else b": hello\n\n"
        if status == 503:
            return web.json_response(BUSY, status=503)
        return web.Response(body=body, content_type="text/event-stream")

    async with answering(handler) as (client, asked):
        assert list((await client.sessions.activity()).sessions) == []

    assert len(asked) == 3


async def test_as_often_as_is_wanted() -> None:
    """Then the last answer is raised."""
    async with answering(refusing(9, 503), max_retries=1) as (client, asked):
        with pytest.raises(ServiceUnavailableError, match="later") as caught:
            await client.health.get()
        assert "draining" == caught.value.code
        assert 2 == len(asked)
        with pytest.raises(ServiceUnavailableError):
            await client.with_options(max_retries=0).health.get()

    assert len(asked) == 3


async def test_the_server_says_how_long_to_wait() -> None:
    """`Retry-After` is heeded, and told."""
    async with answering(refusing(1, 429, **{"Retry-After": "0"})) as (client, asked):
        await client.health.get()
    async with answering(refusing(9, 429, **{"Retry-After": "7"}), max_retries=0) as (client, _):
        with pytest.raises(APIStatusError) as caught:
            await client.health.get()

    assert len(asked) == 2
    assert caught.value.retry_after == 7


async def test_a_prompt_has_the_same_id_each_time() -> None:
    """So it may be sent again: it starts one turn."""
    async with answering(refusing(2, 503)) as (client, asked):
        await client.run("hello")

    bodies = [(await request.json())["message_id"] for request in asked]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1


async def test_what_may_not_arrive_twice_is_not_sent_twice() -> None:
    """A session that is made, forked or deleted, a file that is written."""
    async with answering(refusing(99, 503)) as (client, asked):
        for call in (
            client.sessions.create("s"),
            client.sessions.fork("s"),
            client.sessions.delete("s"),
            client.files.write("a", b""),
            client.files.move("a", "b"),
        ):
            with pytest.raises(ServiceUnavailableError):
                await call

    assert len(asked) == 5


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (413, "RequestTooLargeError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailableError"),
        (507, "InternalServerError"),
        (418, "APIStatusError"),
    ],
)
async def test_each_status_has_its_error(status: int, name: str) -> None:
    """With code, message, details and the request's id."""
    body = {"error": "no", "code": "some_code", "details": [{"path": "prompt", "message": "is required"}]}

    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={"X-Request-Id": "r1"})

    async with answering(handler, max_retries=0) as (client, _):
        with pytest.raises(APIStatusError) as caught:
            await client.sessions.get("s")

    error = caught.value
    assert type(error) is getattr(package, name)
    assert (status, "some_code", "no", "r1") == (error.status, error.code, error.message, error.request_id)
    assert str(error) == "no; prompt: is required"


def test_what_an_error_says_it_says_once() -> None:
    """The server's message may have its details already."""
    details = ({"path": "prompt", "message": "is required"},)

    assert str(APIStatusError(400, "invalid_input", "prompt: is required", details)) == "prompt: is required"


async def test_an_answer_of_somebody_else_is_an_error_too() -> None:
    """A proxy's page, JSON of another shape, a server that hangs up in the middle."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<h1>Bad gateway</h1>", status=500)

    async def shape(request: web.Request) -> web.Response:
        return web.json_response([1, 2])

    async def nothing(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return response

    for handler, kind in ((page, InternalServerError), (shape, AgentsrvError), (nothing, APIConnectionError)):
        async with answering(handler, max_retries=0) as (client, _):
            with pytest.raises(kind):
                await client.health.get()


async def test_a_missing_route_says_which_version_has_it() -> None:
    """An older server is not taken for a broken one, nor something else for a server."""

    async def older(request: web.Request) -> web.Response:
        return web.json_response({"error": "there is no such route", "code": "not_found"}, status=404)

    async def other(request: web.Request) -> web.Response:
        return web.Response(text="nothing here", status=404)

    for handler, told in ((older, "so this server is older"), (other, "it is no agentsrv")):
        async with answering(handler) as (client, _):
            with pytest.raises(package.NotFoundError, match=told):
                await client.keys.code()


async def test_a_redirect_is_not_followed() -> None:
    """It would carry the key to wherever it leads."""

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/stolen")

    async with answering(elsewhere) as (client, asked):
        with pytest.raises(APIStatusError, match="that is not followed"):
            await client.health.get()

    assert len(asked) == 1


async def test_no_answer_in_time() -> None:
    """The time of a request is limited, all attempts apart."""

    async def slow(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with answering(slow, timeout=0.1, max_retries=0) as (client, _):
        with pytest.raises(APITimeoutError, match="in time"):
            await client.health.get()


async def test_the_key_is_nowhere_to_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """In no `repr`, no error with all that it came from, and no log."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    async with answering(refusing(99, 401)) as (client, asked):
        seen += [
            repr(client),
            repr(client._connection),
            repr(client._connection.server),
            repr(client.sessions),
        ]
        for call in (client.health.get(), client.run("hello"), client.files.read("x")):
            try:
                await call
            except AgentsrvError as error:
                seen += ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
    try:
        async with AsyncAgentsrv("http://127.0.0.1:1", KEY, max_retries=0) as nobody:
            await nobody.health.get()
    except AgentsrvError as error:
        seen += ["".join(traceback.format_exception(error)), repr(error)]

    assert asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in "".join(seen) + caplog.text
