"""`agentsrv acp`: the server as an agent of an editor that starts commands (ACP on stdin and stdout).

Lines pass through as they are, to and from the server's `/acp`. When the connection is lost the editor does not
notice: the bridge comes back, says hello again, and gives the prompts that have no answer yet once more, by the names
that it has given them and with the last event that it has seen. The server follows them from there.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from argparse import Namespace
from collections import deque
from typing import Any
from uuid import uuid4

from aiohttp import ClientWebSocketResponse, WSMsgType

from agentsrv.cli import exits
from agentsrv.cli.start import Cli
from agentsrv.client.connection import Connection, Options
from agentsrv.client.errors import APIConnectionError, APIStatusError
from agentsrv.jsontext import as_object
from agentsrv.tasks import Tasks

LINE_LIMIT = 64 * 1024 * 1024
PAUSES_S = (0.1, 0.3, 1.0, 2.0)
"""Between attempts to come back; the last one again and again."""
OURS = "agentsrv-"
"""How the ids of requests begin that the bridge makes by itself."""

INVALID_REQUEST = -32600

Message = dict[str, Any]


async def main(cli: Cli) -> int:
    reader, writer = await _pipes()
    tasks = Tasks("acp")
    connection = Connection(cli.server, Options())
    try:
        bridge = Bridge(cli.arguments, connection, tasks)
        reading = tasks.start(bridge.read(reader), name="editor")
        serving = tasks.start(bridge.serve(writer), name="server")
        done, _ = await asyncio.wait({reading, serving}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await tasks.close()
        await connection.close()
    return exits.OK


async def _pipes() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


class Bridge:
    """What has to be known of an editor's connection, so that it can be made anew."""

    def __init__(self, arguments: Namespace, connection: Connection, tasks: Tasks) -> None:
        self._arguments = arguments
        self._connection = connection
        self._tasks = tasks
        self._hello: Message | None = None
        self._waiting: dict[Any, Message] = {}
        self._sessions: dict[str, Message] = {}
        self._seen: dict[str, int] = {}
        self._asked: set[Any] = set()
        self._out: deque[Message | None] = deque()
        self._max_bytes = math.inf
        """Of a message: one that is larger would end every connection on which it is sent."""
        self._is_greeted = asyncio.Event()
        self._has_said = asyncio.Event()

    # From the editor

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Until the editor closes stdin."""
        while line := await reader.readline():
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if isinstance(message, dict):
                self._out.append(self._noted(message))
            elif line.strip():
                self._out.append(None)  # The server says what is wrong.
            self._has_said.set()

    def _noted(self, message: Message) -> Message:
        method, id_ = message.get("method"), message.get("id")
        params = as_object(message.get("params"))
        if not isinstance(id_, str | int | None):
            return message  # The server says what is wrong.
        if method is None:
            self._asked.discard(id_)
        elif method == "initialize":
            self._hello = message
        elif method == "session/new":
            message = {**message, "params": self._placed(params)}
        elif method in ("session/load", "session/resume"):
            self._sessions[str(params.get("sessionId"))] = params
        elif method in ("session/close", "session/delete"):
            self._sessions.pop(str(params.get("sessionId")), None)
        elif method == "session/prompt":
            message = {**message, "params": _with_ours(params, messageId=str(uuid4()))}
        if method is not None and id_ is not None:
            self._waiting[id_] = message
        return message

    def _placed(self, params: Message) -> Message:
        """Editors know directories of their own machine, and no agents."""
        arguments = self._arguments
        ours = {"sessionId": f"acp-{uuid4()}"} | ({"agent": arguments.agent} if arguments.agent else {})
        placed = _with_ours(params, **ours)
        return placed | ({"cwd": arguments.cwd} if arguments.cwd else {})

    # From the server

    async def serve(self, writer: asyncio.StreamWriter) -> None:
        """Over one connection after another, for as long as the server does not refuse us."""
        attempt = 0
        while True:
            try:
                ws = await self._connection.open_socket("/acp", self._connection.server.key or "")
            except (APIConnectionError, APIStatusError) as error:
                if isinstance(error, APIStatusError) and error.status not in (429, 502, 503):
                    raise
                await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
                attempt += 1
                continue
            attempt = 0
            try:
                await self._talk(ws, writer)
            finally:
                await ws.close()

    async def _talk(self, ws: ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
        sending = self._tasks.start(self._send(ws, writer), name="messages")
        try:
            async for frame in ws:
                if (
                    frame.type is WSMsgType.TEXT
                    and (message := self._heard(json.loads(frame.data))) is not None
                ):
                    await _tell(writer, message)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, ws: ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
        """First what brings an earlier connection back, then what the editor says."""
        try:
            for message in self._again():
                await self._pass(ws, writer, message)
            while True:
                while self._out:
                    await self._pass(ws, writer, self._out[0])
                    self._out.popleft()
                self._has_said.clear()
                await self._has_said.wait()
        except ConnectionError:
            return  # What was not answered is said again.

    async def _pass(
        self, ws: ClientWebSocketResponse, writer: asyncio.StreamWriter, message: Message | None
    ) -> None:
        text, known = json.dumps(message), message or {}
        id_ = known.get("id")
        if len(text) < self._max_bytes:
            self._is_greeted.clear()
            await ws.send_str(text)
            if known.get("method") == "initialize" and id_ is not None:
                await self._is_greeted.wait()
        elif isinstance(id_, str | int) and self._waiting.pop(id_, None) is not None:
            error = f"the message has {len(text)} bytes; the server takes less than {self._max_bytes} (MAX_BODY_BYTES)"
            refusal = {"code": INVALID_REQUEST, "message": error, "data": {"code": "too_large"}}
            await _tell(writer, {"jsonrpc": "2.0", "id": id_, "error": refusal})

    def _again(self) -> list[Message]:
        """What a new connection has to hear. What still waits in the queue comes by itself."""
        queued = {id(message) for message in self._out}
        sent = [message for message in self._waiting.values() if id(message) not in queued]
        if self._hello is None:
            return []
        prompted = {
            message["params"].get("sessionId") for message in sent if message["method"] == "session/prompt"
        }
        is_new = id(self._hello) in queued or self._hello in sent
        messages = [] if is_new else [{**self._hello, "id": f"{OURS}hello"}]
        for session_id, params in self._sessions.items():
            ours = {"lastEventId": self._seen.get(session_id, 0), "follow": session_id not in prompted}
            again = {**_with_ours(params, **ours), "sessionId": session_id}
            messages.append(_request(f"{OURS}{session_id}", "session/resume", again))
        return messages + [self._from_seen(message) for message in sent]

    def _from_seen(self, message: Message) -> Message:
        params = as_object(message.get("params"))
        seen = self._seen.get(str(params.get("sessionId")))
        if message["method"] != "session/prompt" or not seen:
            return message
        return {**message, "params": _with_ours(params, lastEventId=seen)}

    def _heard(self, message: Message) -> Message | None:
        """What the editor is told; None: what the bridge has asked by itself, or the editor knows already."""
        id_, params = message.get("id"), message.get("params") or {}
        if "method" not in message:
            ours = as_object(as_object(as_object(message.get("result")).get("_meta")).get("agentsrv"))
            self._max_bytes = ours.get("maxMessageBytes", self._max_bytes)
            self._is_greeted.set()
        if message.get("method") == "session/update":
            event = ((params.get("_meta") or {}).get("agentsrv") or {}).get("eventId", 0)
            self._seen[params["sessionId"]] = max(event, self._seen.get(params["sessionId"], 0))
        elif "method" in message:
            if id_ in self._asked:
                return None
            self._asked.add(id_)
        elif str(id_).startswith(OURS):
            return None
        elif (asked := self._waiting.pop(id_, None)) is not None:
            session_id = (message.get("result") or {}).get("sessionId")
            if session_id is not None:
                self._sessions[session_id] = asked.get("params") or {}
        return message


async def _tell(writer: asyncio.StreamWriter, message: Message) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()


def _request(id_: str, method: str, params: Message) -> Message:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def _with_ours(params: Message, **fields: Any) -> Message:
    meta = as_object(params.get("_meta"))
    return {**params, "_meta": {**meta, "agentsrv": {**as_object(meta.get("agentsrv")), **fields}}}
