"""What a runner and its server say to each other: frames over a Unix socket.

A frame is one byte of kind, four of length, the body, in both directions. Kinds that are not known are ignored:
after an upgrade of the server its runners are older than it is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

COOKIE = "AGENTSRV_RUNNER"

FRAME = struct.Struct("!cI")
NUMBER = struct.Struct("!d")
ID_LENGTH = struct.Struct("!H")

# From the server.
SPEC = b"S"  # JSON, once, first
MESSAGE = b"M"  # length of the id, the id, what goes to the agent's stdin
KILL = b"K"  # grace in seconds
LINGER = b"L"  # seconds
TAIL = b"T"  # asks for the tail of stderr

REPLY = b"reply-"
"""How the ids of messages begin that follow from what the agent has said."""

# From the runner.
READY = b"R"  # JSON {"pid", "runner_pid"}: first on every connection; with the master, where there is a PTY
FAILED = b"F"  # JSON {"about", "message"}: there will be no agent
STDERR = b"E"  # answers TAIL
EXIT = b"X"  # JSON: the exit record; the last frame
REPLACED = b"O"  # a newer connection has taken over; the last frame


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return FRAME.pack(kind, len(body)) + body


class Frames:
    """Cuts a byte stream into frames, none longer than `max_bytes`."""

    def __init__(self, max_bytes: float = math.inf) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield every (kind, body) that `data` completes. Part of a frame waits for the rest.

        Raises ValueError when that would be too long.
        """
        self._buffer += data
        while len(self._buffer) >= FRAME.size:
            kind, length = FRAME.unpack_from(self._buffer)
            if length > self._max_bytes:
                raise ValueError(f"a frame of {length} bytes")
            end = FRAME.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[FRAME.size : end])
            del self._buffer[:end]
            yield kind, body
