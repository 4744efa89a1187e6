"""A job: its events, its end, and what can be said to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import quote

from agentsrv.client.connection import Connection
from agentsrv.client.errors import NotFoundError
from agentsrv.client.events import AsyncEvent, Done, Question, Text
from agentsrv.client.models import JobInfo, JobResult, PermissionAnswer
from agentsrv.client.prompts import prompt_body
from agentsrv.client.stream import EventStream, Format, LastText

AsyncStream: TypeAlias = EventStream[Awaitable[PermissionAnswer]]

LONG_POLL_S = 50
"""The longest that one request waits for a job's end."""

Told = Callable[[str | None], None]
"""Hears why a connection was lost, and None when there is one again."""


def in_path(*names: str) -> str:
    """Each name as one segment of a path. Raises NotFoundError for what would lead elsewhere: nothing is called so."""
    for name in names:
        if name in ("", ".", ".."):
            raise NotFoundError(404, "not_found", f"nothing is called {name!r}")
    return "/".join(quote(name, safe="") for name in names)


class AsyncJob:
    """A job of a server. `async for event in job` gives all of its events, to its end.

    `info` is what the server last said of it; `refresh` asks again.
    """

    def __init__(self, connection: Connection, info: JobInfo) -> None:
        self._connection = connection
        self._text: LastText | None = None
        self.info = info

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r}, session_id={self.session_id!r}, status={self.status!r})"

    @property
    def id(self) -> str:
        return self.info.task_id

    @property
    def session_id(self) -> str:
        return self.info.session_id

    @property
    def status(self) -> str:
        return self.info.status

    def __aiter__(self) -> AsyncIterator[AsyncEvent]:
        return aiter(self.events())

    def events(
        self,
        after: int | None = None,
        *,
        on_break: Told = lambda _: None,
        format: Format = "acp",
        times: bool = False,
    ) -> AsyncStream:
        """The events with higher ids than `after`, or all; to the job's end, over cuts and restarts.

        With `times` the `raw` of each has `receivedAt`.
        """
        last_text = LastText()

        def is_last(event: AsyncEvent) -> bool:
            if isinstance(event, Text):
                last_text.add(event)
                return False
            if not (isinstance(event, Done) and event.task_id == self.id):
                return False
            self._text = last_text if after is None and format == "acp" else self._text
            return True

        return EventStream(
            self._connection,
            f"/generate/v2/jobs/{in_path(self.id)}/stream",
            session_id=self.session_id,
            reply=replying(self._connection),
            after=after,
            is_last=is_last,
            on_break=on_break,
            query={"format": format, "times": times or None},
        )

    async def refresh(self) -> JobInfo:
        """Ask the server how it is."""
        self.info = await self._connection.ask("GET", self._path, JobInfo)
        return self.info

    async def wait(self, timeout: float | None = None) -> JobInfo:
        """Wait for its end, over restarts of the server. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not self.info.is_final:
                self.info = await self._poll()
        return self.info

    async def _poll(self) -> JobInfo:
        """The job after a while, or at its end."""
        options = self._connection.options
        patient = (
            self._connection.with_options(max_retries=1 << 30) if options.reconnect_timeout is None else None
        )
        return await (patient or self._connection).ask(
            "GET", self._path, JobInfo, query={"wait": LONG_POLL_S}, timeout=options.timeout + LONG_POLL_S
        )

    async def result(self, timeout: float | None = None) -> JobResult:
        """Wait for its end, and say how it was. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            await self.wait()
            self.info = await self._poll()  # a list has left out what may be large
            if self._text is None:
                await self._read_text()
        return JobResult(job=self.info, text=str(self._text or ""))

    async def _read_text(self) -> None:
        """The last message stands in no answer of its own: look for it where it was said."""
        async with self.events() as stream:
            while await stream.batch():
                pass

    async def stop(self) -> JobInfo:
        """End it, and wait until the agent and all that it started are gone. One that has ended stays as it is.

        What runs after it in its session is left alone, also when that begins in this very moment.
        """
        if (await self.refresh()).is_final:
            return self.info
        if self.status == "queued" and await self._leave_queue():
            return await self.refresh()
        try:
            await self._connection.ask(
                "DELETE",
                f"/generate/{in_path(self.session_id)}/stop",
                dict[str, Any],
                body={"task_id": self.id},
                is_repeatable=True,
            )
        except NotFoundError as exc:
            if exc.code != "not_running":  # it ended meanwhile, or an attempt before this one arrived
                raise
        return await self.wait(self._connection.options.timeout)

    async def _leave_queue(self) -> bool:
        """False when it does not wait any more."""
        path = f"/sessions/{in_path(self.session_id)}/queue/{in_path(self.id)}"
        try:
            await self._connection.ask("DELETE", path, dict[str, Any], is_repeatable=True)
        except NotFoundError as exc:
            if exc.code != "not_queued":
                raise
            return False
        return True

    async def steer(self, text: str) -> AsyncJob:
        """Say something to the agent while it works. When it comes too late, the job that it becomes is returned."""
        return await start(self._connection, text, session=self.session_id, if_busy="steer")

    @property
    def _path(self) -> str:
        return f"/generate/v2/jobs/{in_path(self.id)}"


async def start(connection: Connection, prompt: str, **options: Any) -> AsyncJob:
    """Start a job, or join the one that runs. An answer that is lost is asked for again; the turn starts once."""
    body = prompt_body(prompt, **options)
    info = await connection.ask("POST", "/generate/v2", JobInfo, body=body, is_repeatable=True)
    return AsyncJob(connection, info)


def replying(
    connection: Connection,
) -> Callable[[Question[Any], dict[str, Any]], Awaitable[PermissionAnswer]]:
    """What questions of an asynchronous stream are answered with."""

    async def reply(question: Question[Any], answer: dict[str, Any]) -> PermissionAnswer:
        return await send_answer(connection, question.task_id, question.request_id, answer)

    return reply


async def send_answer(
    connection: Connection, task_id: str, request_id: str, answer: dict[str, Any]
) -> PermissionAnswer:
    """The same answer may arrive twice. Raises ConflictError when another one was given."""
    path = f"/generate/v2/jobs/{in_path(task_id)}/permissions/{in_path(request_id)}"
    return await connection.ask("POST", path, PermissionAnswer, body=answer, is_repeatable=True)
