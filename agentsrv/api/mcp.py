"""MCP over HTTP: a POST for each message, and no connection to keep."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from agentsrv.api.access import caller_of
from agentsrv.api.audit import note
from agentsrv.api.bodies import held_body
from agentsrv.api.encode import json_response
from agentsrv.api.keys import CONFIG, MCP
from agentsrv.api.operations import NO_BODY, Operation
from agentsrv.api.schemas.mcp import RpcAnswer, RpcMessage
from agentsrv.api.sse import HEADERS
from agentsrv.errors import invalid_field
from agentsrv.faces.mcp import VERSIONS, Call

VERSION = "MCP-Protocol-Version"

PROGRESS_S = 1.0
"""Between two notifications of progress: a flood of events is none of notifications."""


async def mcp(request: web.Request) -> web.StreamResponse:
    """Tools for other agents: give one a prompt, wait, answer, stop, list sessions, see what changed (MCP, JSON-RPC).

    A `tools/call` with `_meta.progressToken` is answered as an event stream that tells of the progress.
    """
    async with held_body(request, RpcMessage) as body:
        message = body.plain()
    _require_version(request, message.get("method"))
    call = Call(caller_of(request), partial(note, request))
    if (token := _progress_token(message)) is not None:
        return await _stream(request, message, call, token)
    answer = await request.app[MCP].answer(message, call)
    return web.Response(status=202) if answer is None else json_response(answer)


async def _stream(
    request: web.Request, message: dict[str, Any], call: Call, token: int | str
) -> web.StreamResponse:
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    told_at, count = loop.time(), 0

    async def tell(text: str) -> None:
        nonlocal told_at, count
        if loop.time() - told_at >= PROGRESS_S:
            told_at, count = loop.time(), count + 1
            params = {"progressToken": token, "progress": count, "message": text}
            await send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    async def send(told: dict[str, Any]) -> None:
        async with asyncio.timeout(request.app[CONFIG].stall_timeout_s):
            await response.write(b"event: message\ndata: " + msgspec.json.encode(told) + b"\n\n")

    try:
        answer = await request.app[MCP].answer(message, Call(call.caller, call.note, tell))
        assert answer is not None
        await send(answer)
        await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


def _require_version(request: web.Request, method: object) -> None:
    """Who has yet to find out which versions there are may name any. Raises InvalidInput."""
    wanted = request.headers.get(VERSION)
    if wanted not in (None, *VERSIONS) and method not in ("initialize", "server/discover"):
        raise invalid_field(VERSION, f"must be one of {', '.join(VERSIONS)}, or be left out")


def _progress_token(message: dict[str, Any]) -> int | str | None:
    """What the caller of a tool will know the progress by."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    is_call = message.get("method") == "tools/call" and "id" in message
    return token if is_call and isinstance(token, int | str) else None


ROUTES = (Operation("POST", "/mcp", mcp, {200: RpcAnswer, 202: NO_BODY}, body=RpcMessage),)
