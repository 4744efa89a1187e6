"""Who has no key waits in line, so that what a thousand of them ask at once holds up nobody else.

The loop does all that is ready before it looks again for what is new. Without a line, a thousand answers that can be
sent, or requests that can be answered, are one such pass, and everybody waits for its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

STEPS = 4
"""So many of the line go on in one pass of the loop."""

SLICE_BYTES = 8 * 1024
"""Of an answer, in one step. Less than the kernel takes at once: a step must not wait. What it leaves is ours."""


class Line:
    """First come, first served: whole requests, and each slice of an answer.

    Who asks rarely goes before who asks all the time: a probe of `/health` does not wait for a thousand that pipeline.
    """

    def __init__(self) -> None:
        self._rare: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._is_moving = False

    async def wait(self, *, is_rare: bool = False) -> None:
        """Until it is our turn, for one step."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        (self._rare if is_rare else self._others).append(turn)
        if not self._is_moving:
            self._is_moving = True
            loop.call_soon(self._move)
        await turn

    async def slices(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """`body` in pieces, each in its turn."""
        for start in range(0, len(body), SLICE_BYTES):
            await self.wait()
            yield body[start : start + SLICE_BYTES]

    def _move(self) -> None:
        for step in range(min(STEPS, len(self._rare) + len(self._others))):
            # The last step is for the others: however many come anew, they do not stand still.
            first = self._rare if step < STEPS - 1 else self._others
            turn = (first or self._rare or self._others).popleft()
            if not turn.done():  # its client may have left
                turn.set_result(None)
        self._is_moving = bool(self._rare or self._others)
        if self._is_moving:
            asyncio.get_running_loop().call_soon(self._move)
