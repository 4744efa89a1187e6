"""ACP on one path: a WebSocket, where a text frame is one message, or HTTP (see `acp_http`)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from agentsrv.access import now_ms
from agentsrv.api.access import caller_of
from agentsrv.api.acp_http import CONNECTION
from agentsrv.api.audit import note, told_apart
from agentsrv.api.bodies import JSON, peek_body, read_body
from agentsrv.api.encode import json_response
from agentsrv.api.frames import TEXT, framed, write
from agentsrv.api.keys import ACP, ACP_HTTP, ACP_SOCKETS, AUDIT, CONFIG
from agentsrv.api.operations import EVENT_STREAM, NO_BODY, Events, Operation
from agentsrv.api.proxies import client_address
from agentsrv.api.schemas.mcp import RpcAnswer, RpcMessage, RpcRefusal
from agentsrv.api.sse import frame_of, stream_frames
from agentsrv.api.strict_json import parse_json
from agentsrv.errors import AgentsrvError, InvalidInput, NotAcceptable, UnsupportedMediaType, invalid_field
from agentsrv.faces.acp import AcpFace
from agentsrv.faces.acp_turns import Messages
from agentsrv.faces.rpc import BATCH, MAX_ID_CHARACTERS, PARSE_ERROR, refusal, wrong_in
from agentsrv.jsontext import as_object
from agentsrv.model import AuditEntry

CONNECTION_HEADER, SESSION_HEADER = "Acp-Connection-Id", "Acp-Session-Id"

HEARTBEAT_S = 30.0
CLOSE_TIMEOUT_S = 2.0


async def acp(request: web.Request) -> web.StreamResponse:
    """The server as an agent (Agent Client Protocol 1): a WebSocket, or what it says on a connection over HTTP.

    That is an event stream: with `Acp-Session-Id` of this session, without of all else. Sessions outlive both.
    `_meta.agentsrv` of `session/new` may name the `agent`, `model` and `sessionId`.
    """
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        return await _read_stream(request)
    ws = web.WebSocketResponse(
        compress=False,
        heartbeat=HEARTBEAT_S,
        timeout=CLOSE_TIMEOUT_S,
        max_msg_size=request.app[CONFIG].max_body_bytes,
    )
    if not ws.can_prepare(request):
        raise InvalidInput("ask for an upgrade to a WebSocket, version 13", code="not_a_websocket")
    ws.headers[CONNECTION_HEADER] = str(uuid4())
    await ws.prepare(request)
    face = AcpFace(
        request.app[ACP], caller_of(request), partial(_send, request, ws), partial(_record, request)
    )
    request.app[ACP_SOCKETS].add(ws)
    try:
        await _receive(ws, face)
    finally:
        request.app[ACP_SOCKETS].discard(ws)
        await face.close()
    return ws


async def _receive(ws: web.WebSocketResponse, face: AcpFace) -> None:
    async for frame in ws:
        if frame.type is not WSMsgType.TEXT:
            await ws.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"messages are text frames")
            return
        try:
            message = parse_json(frame.data.encode())
        except AgentsrvError as exc:
            await face.send([refusal(None, PARSE_ERROR, exc.message)])
        else:
            await face.receive(message)


async def _send(request: web.Request, ws: web.WebSocketResponse, messages: Messages) -> None:
    """A client that does not read is cut off; it can come back."""
    sent = b"".join([framed(TEXT, msgspec.json.encode(message)) for message in messages])
    try:
        async with asyncio.timeout(request.app[CONFIG].stall_timeout_s):
            await write(request, ws, sent)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        return  # It has gone; the receiver notices.


def _record(request: web.Request, action: str, target: str) -> None:
    """One connection does many things, so each is an entry of its own."""
    caller = caller_of(request)
    entry = AuditEntry(
        at=now_ms(),
        key=caller.name,
        address=client_address(request),
        action=f"acp {action}",
        target=target,
        status=web.HTTPOk.status_code,
        details=told_apart(caller),
    )
    request.app[AUDIT].record(entry)


async def _read_stream(request: web.Request) -> web.StreamResponse:
    if EVENT_STREAM not in request.headers.get(hdrs.ACCEPT, ""):
        raise NotAcceptable(f"ask for an upgrade to a WebSocket, or for {EVENT_STREAM} of a connection")
    connection = request.app[ACP_HTTP].get(_named(request), caller_of(request))
    session_id = request.headers.get(SESSION_HEADER, CONNECTION)
    if len(session_id) > MAX_ID_CHARACTERS:
        raise invalid_field(SESSION_HEADER, f"has more than {MAX_ID_CHARACTERS} characters")
    headers = {CONNECTION_HEADER: connection.id}
    return await stream_frames(request, connection.read(session_id), frame_of, headers=headers)


async def send_acp(request: web.Request) -> web.StreamResponse:
    """A message of an ACP client over HTTP: `initialize` opens a connection and is answered at once (200).

    Of all others the answer comes on a stream of the connection (202).
    """
    if request.content_type != JSON:
        raise UnsupportedMediaType("send a message as application/json")
    if (await peek_body(request)).lstrip()[:1] == b"[":
        return json_response(refusal(*BATCH), status=501)  # So the RFD has it.
    message = (await read_body(request, RpcMessage)).plain()
    if (wrong := wrong_in(message)) is not None:
        return json_response(refusal(*wrong), status=400)
    params = as_object(message.get("params"))
    note(
        request,
        method=str(message.get("method", "answer"))[:100],
        session=str(params.get("sessionId", ""))[:200],
    )
    if message.get("method") == "initialize":
        return await _initialize(request, message)
    _require_same_session(request, params)
    await request.app[ACP_HTTP].get(_named(request), caller_of(request)).take(message)
    return web.Response(status=202)


async def end_acp(request: web.Request) -> web.Response:
    """End a connection over HTTP. What runs in its sessions goes on."""
    await request.app[ACP_HTTP].end(_named(request), caller_of(request))
    return web.Response(status=202)


async def _initialize(request: web.Request, message: dict[str, Any]) -> web.Response:
    if CONNECTION_HEADER in request.headers or "id" not in message:
        raise invalid_field(CONNECTION_HEADER, "`initialize` is a request that opens a connection of its own")
    connections = request.app[ACP_HTTP]
    connection = connections.make(caller_of(request))
    answer = await connection.face.answer(message)
    await connections.open(connection)
    return json_response(answer, headers={CONNECTION_HEADER: connection.id})


def _named(request: web.Request) -> str:
    if not (id_ := request.headers.get(CONNECTION_HEADER)):
        raise invalid_field(CONNECTION_HEADER, "is missing; `initialize` gives one")
    return id_


def _require_same_session(request: web.Request, params: dict[str, Any]) -> None:
    named = request.headers.get(SESSION_HEADER)
    if named is not None and params.get("sessionId", named) != named:
        raise invalid_field(SESSION_HEADER, "differs from the session in the message")


async def close_sockets(app: web.Application) -> None:
    """For `on_shutdown`: clients come back to the next server."""
    await app[ACP_HTTP].close()
    sockets: set[web.WebSocketResponse] = app[ACP_SOCKETS]
    for ws in list(sockets):
        await ws.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops")


ACP_MESSAGES = Events("AcpMessage", "Messages of the server: updates, questions, and answers.", (RpcMessage,))

# fmt: off
ROUTES = (
    Operation("GET", "/acp", acp, {101: NO_BODY, 200: ACP_MESSAGES}, (400, 404, 406, 429),
              headers=("Acp-Connection-Id", "Acp-Session-Id")),
    Operation("POST", "/acp", send_acp, {200: RpcAnswer, 202: NO_BODY, 400: RpcRefusal, 501: RpcAnswer}, (404,),
              body=RpcMessage, headers=("Acp-Connection-Id", "Acp-Session-Id")),
    Operation("DELETE", "/acp", end_acp, {202: NO_BODY}, (400, 404), headers=("Acp-Connection-Id",)),
)
# fmt: on
