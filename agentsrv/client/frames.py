"""Server-Sent Events, as the server sends them: bytes in, whole events out. No input, no output.

An event may come as several frames, of which the last one alone has the id. They are given out together: who loses the
connection between them gets all of them again, and so each of them once.
"""

from __future__ import annotations

from typing import TypeAlias

Frames: TypeAlias = tuple[int, list[bytes]]
"""An event: its id, and the data of its frames."""

MAX_EVENT_BYTES = 256 << 20
"""Of an event that is not whole yet. A line of an agent and a prompt with its images are far smaller."""


class FrameReader:
    """Of one connection. Without `has_ids` each frame is an event, with the id 0."""

    def __init__(self, *, has_ids: bool = True) -> None:
        self._no_id = None if has_ids else 0
        self._buffer = bytearray()
        self._searched = 0
        """No frame ends before here."""
        self._waiting: list[bytes] = []
        """Data of frames without an id, which belong to the next one that has one."""

    def feed(self, data: bytes) -> list[Frames]:
        """The events that are whole now. Raises ValueError when one is larger than any can be."""
        self._buffer += data
        end = self._buffer.rfind(b"\n\n", max(0, self._searched - 1))
        if end < 0:
            self._searched = len(self._buffer)
            if self._searched > MAX_EVENT_BYTES:
                raise ValueError("an event without an end")
            return []
        whole = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._searched = len(self._buffer)
        return [event for frame in whole.split(b"\n\n") if (event := self._event(frame)) is not None]

    def _event(self, frame: bytes) -> Frames | None:
        event_id, data = _fields(frame)
        if data is not None:
            self._waiting.append(data)
        event_id = self._no_id if event_id is None else event_id
        if event_id is None or not self._waiting:
            return None
        event = event_id, self._waiting
        self._waiting = []
        return event


def _fields(frame: bytes) -> tuple[int | None, bytes | None]:
    """The `id` and the `data` of a frame; comments, `retry` and what we do not know are nothing to us."""
    event_id: int | None = None
    data: bytes | None = None
    if frame.startswith(b"data: ") and frame.count(b"\n") == 1:  # as nearly all are
        rest, _, number = frame.partition(b"\nid: ")
        if number.isdigit():
            return int(number), rest[6:]
    for line in frame.split(b"\n"):
        if line.startswith(b"data: "):
            data = line[6:] if data is None else data + b"\n" + line[6:]
        elif line.startswith(b"id: ") and line[4:].isdigit():
            event_id = int(line[4:])
    return event_id, data
