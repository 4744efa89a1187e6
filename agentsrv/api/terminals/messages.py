"""What is said on the socket: frames, and messages in JSON."""

from __future__ import annotations

import signal
import struct
from typing import Annotated, Any

import msgspec

from agentsrv.terminals.terminal import Viewer

TEXT, BINARY = 0x81, 0x82
PING = b"\x89\x00"


def frame_header(opcode: int, length: int) -> bytes:
    """RFC 6455, 5.2: the last frame of a message, without a mask."""
    if length < 126:
        return bytes((opcode, length))
    if length < 1 << 16:
        return struct.pack("!BBH", opcode, 126, length)
    return struct.pack("!BBQ", opcode, 127, length)


class DataMessage(msgspec.Struct, tag="data"):
    data: str


class ResizeMessage(msgspec.Struct, tag="resize"):
    cols: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class CloseMessage(msgspec.Struct, tag="close"):
    pass


Message = DataMessage | ResizeMessage | CloseMessage

decode_message = msgspec.json.Decoder(Message).decode
encode_message = msgspec.json.Encoder().encode


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def info_message(viewer: Viewer) -> dict[str, Any]:
    terminal = viewer.terminal
    cols, rows = terminal.size
    return {
        "type": "info",
        "data": f"{terminal.info.shell} in {terminal.info.cwd}",
        "terminalId": terminal.info.id,
        "deploymentId": terminal.info.deployment_id,
        "shell": terminal.info.shell,
        "cwd": terminal.info.cwd,
        "cols": cols,
        "rows": rows,
        "readOnly": not viewer.may_write,
    }
