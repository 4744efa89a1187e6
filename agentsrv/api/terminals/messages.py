"""What is said on the socket: messages in JSON."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import msgspec

from agentsrv.terminals.terminal import Viewer


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
