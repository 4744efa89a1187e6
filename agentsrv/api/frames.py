"""Frames of a WebSocket, as a server writes them (RFC 6455, 5.2): the last of a message, without a mask.

aiohttp writes each message by itself, which is a system call, and the header of a large one as a packet of its own.
"""

from __future__ import annotations

import struct
from typing import Any

from aiohttp import web

TEXT, BINARY = 0x81, 0x82
PING = b"\x89\x00"


async def write(request: web.Request, ws: web.WebSocketResponse[Any], frames: bytes) -> None:
    """Send whole frames; returns when there is room for more. Raises ConnectionError."""
    transport = request.transport
    if transport is None or ws.closed:
        raise ConnectionResetError("the client has gone")
    transport.write(frames)
    if transport.get_write_buffer_size():
        await request.writer.drain()


def framed(opcode: int, payload: bytes) -> bytes:
    return header(opcode, len(payload)) + payload


def header(opcode: int, length: int) -> bytes:
    if length < 126:
        return bytes((opcode, length))
    if length < 1 << 16:
        return struct.pack("!BBH", opcode, 126, length)
    return struct.pack("!BBQ", opcode, 127, length)
