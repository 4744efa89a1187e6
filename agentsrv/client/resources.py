"""What a server has: sessions, jobs, questions, terminals, agents. Files and git have modules of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Literal

import msgspec
from aiohttp import ClientWebSocketResponse
from msgspec import Struct

from agentsrv.client.connection import Connection
from agentsrv.client.events import AsyncEvent, Question, read
from agentsrv.client.frames import FrameReader
from agentsrv.client.jobs import AsyncJob, AsyncStream, Told, in_path, replying, send_answer
from agentsrv.client.models import (
    Activity,
    Agent,
    BackgroundTask,
    DeviceToken,
    Health,
    JobInfo,
    JobResult,
    Key,
    Merged,
    PermissionAnswer,
    QueuedPrompt,
    Session,
    Terminal,
    TerminalToken,
    Timer,
)
from agentsrv.client.stream import EventStream, Format

PAGE = 200
WATCH_PAUSE_S = 1.0
"""Between two looks at all questions that wait."""

AsyncQuestion = Question[Awaitable[PermissionAnswer]]


class _SessionPage(Struct, rename="camel"):
    sessions: list[Session]
    next_cursor: str | None = None


class _JobPage(Struct, rename="camel"):
    jobs: list[JobInfo]
    next_cursor: str | None = None


class _MessagePage(Struct, rename="camel"):
    messages: list[dict[str, Any]]
    last_event_id: int


class _Queue(Struct):
    queue: list[QueuedPrompt]


class _Timers(Struct):
    timers: list[Timer]


class _Background(Struct):
    tasks: list[BackgroundTask]


class _Allowances(Struct):
    allowances: list[str]


class _Keys(Struct):
    tokens: list[Key]


class _Code(Struct):
    code: str


class _Ticket(Struct):
    ticket: str


class _Permissions(Struct):
    permissions: list[dict[str, Any]]


class _Agents(Struct):
    agents: list[Agent]


class _Terminals(Struct):
    terminals: list[Terminal]


class Resource:
    """What of a server is asked for through one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


class AsyncSessions(Resource):
    """`client.sessions`."""

    async def activity(self) -> Activity:
        """The newest sessions with what goes on in them, and all that is asked, by one request."""
        message = await self._connection.again(lambda: self._first_message("/activity"))
        return msgspec.json.decode(message, type=Activity)

    async def _first_message(self, path: str) -> bytes:
        frames = FrameReader(has_ids=False)
        async with (
            asyncio.timeout(self._connection.options.timeout),
            await self._connection.open("GET", path) as response,
        ):
            async for data in response.content.iter_any():
                for _, messages in frames.feed(data):
                    return messages[0]
        raise ConnectionResetError("the stream broke off")

    async def create(
        self,
        /,
        session_id: str | None = None,
        *,
        agent: str | None = None,
        cwd: str | None = None,
        model: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Session:
        """A new session. Raises ConflictError when the id is taken.

        `options` are further fields of `POST /sessions`, such as `tags`, `metadata` or `trust_repository`.
        """
        body = _given(sessionId=session_id, agent=agent, cwd=cwd, model=model, name=name) | options
        return await self._connection.ask("POST", "/sessions", Session, body=body)

    async def get(self, session_id: str) -> Session:
        return await self._connection.ask("GET", self._path(session_id), Session)

    async def list(
        self, /, *, agent: str | None = None, page_size: int = PAGE, **filters: Any
    ) -> AsyncIterator[Session]:
        """All sessions, newest first; the next page is asked for when it is needed.

        `filters` are further ones of `GET /sessions`: `cwd`, `archived`, `tag`, `metadata="key=value"`.
        """
        cursor: str | None = None
        while True:
            query = {"limit": page_size, "cursor": cursor, "agent": agent, **filters}
            page = await self._connection.ask("GET", "/sessions", _SessionPage, query=query)
            for session in page.sessions:
                yield session
            if (cursor := page.next_cursor) is None:
                return

    async def update(
        self, /, session_id: str, *, name: str | None = None, model: str | None = None, **options: Any
    ) -> Session:
        """`options` are further fields of `PUT /sessions/{id}`, such as `tags` or `archived`; None takes one back."""
        body = _given(name=name, model=model) | options
        return await self._connection.ask("PUT", self._path(session_id), Session, body=body)

    async def delete(self, session_id: str, *, force: bool = False, remove_worktree: bool = False) -> None:
        """Delete its history. `force` stops what runs, and loses what is only in a worktree that is to go."""
        query = {"force": force, "worktree": "remove" if remove_worktree else None}
        await self._connection.ask("DELETE", self._path(session_id), dict[str, Any], query=query)

    async def fork(
        self,
        session_id: str,
        *,
        new_session_id: str | None = None,
        name: str | None = None,
        model: str | None = None,
    ) -> Session:
        """A new session that goes on from the last finished turn of this one."""
        body = _given(sessionId=new_session_id, name=name, model=model)
        return await self._connection.ask("POST", f"{self._path(session_id)}/fork", Session, body=body)

    async def messages(
        self, session_id: str, *, after: int = 0, page_size: int = PAGE
    ) -> AsyncIterator[AsyncEvent]:
        """The conversation in whole messages. Their ids are those of the page's last one."""
        reply = replying(self._connection)
        while True:
            query = {"format": "acp", "after": after, "limit": page_size}
            path = f"{self._path(session_id)}/messages"
            page = await self._connection.ask("GET", path, _MessagePage, query=query)
            for message in page.messages:
                yield read(page.last_event_id, session_id, message, reply)
            if not page.messages or page.last_event_id <= after:
                return
            after = page.last_event_id

    def events(
        self,
        session_id: str,
        after: int = 0,
        *,
        on_break: Told = lambda _: None,
        format: Format = "acp",
        times: bool = False,
    ) -> AsyncStream:
        """All that happens in it, over all turns, for ever. With `times` the `raw` of each event has `receivedAt`."""
        path = f"{self._path(session_id)}/events"
        reply = replying(self._connection)
        return EventStream(
            self._connection,
            path,
            session_id=session_id,
            reply=reply,
            after=after or None,
            on_break=on_break,
            query={"format": format, "times": times or None},
        )

    async def queue(self, session_id: str) -> Sequence[QueuedPrompt]:
        """The prompts that wait, the next one first."""
        return (await self._connection.ask("GET", f"{self._path(session_id)}/queue", _Queue)).queue

    async def reorder_queue(self, session_id: str, task_ids: Sequence[str]) -> Sequence[QueuedPrompt]:
        """Raises ConflictError when these are not exactly the jobs that wait."""
        path = f"{self._path(session_id)}/queue"
        answer = await self._connection.ask(
            "PUT", path, _Queue, body={"taskIds": [*task_ids]}, is_repeatable=True
        )
        return answer.queue

    async def clear_queue(self, session_id: str) -> None:
        path = f"{self._path(session_id)}/queue"
        await self._connection.ask("DELETE", path, dict[str, Any], is_repeatable=True)

    async def merge(
        self,
        session_id: str,
        *,
        into: str | None = None,
        how: Literal["merge", "squash", "rebase"] = "merge",
        message: str | None = None,
    ) -> Merged:
        """Take the commits of its worktree into a branch: the one that the repository is on, or `into`.

        Raises ConflictError when that cannot be done; nothing has changed then.
        """
        body = _given(into=into, how=how, message=message)
        return await self._connection.ask("POST", f"{self._path(session_id)}/merge", Merged, body=body)

    async def timers(self, session_id: str) -> Sequence[Timer]:
        """What its agent has planned for later, the next one first."""
        return (await self._connection.ask("GET", f"{self._path(session_id)}/timers", _Timers)).timers

    async def cancel_timer(self, session_id: str, timer_id: str) -> Sequence[Timer]:
        """What is left."""
        path = f"{self._path(session_id)}/timers/{in_path(timer_id)}"
        return (await self._connection.ask("DELETE", path, _Timers)).timers

    async def background(self, session_id: str) -> Sequence[BackgroundTask]:
        """What its agent has left running."""
        return (await self._connection.ask("GET", f"{self._path(session_id)}/background", _Background)).tasks

    async def stop_background(self, session_id: str, background_id: str) -> Sequence[BackgroundTask]:
        """What is left. Raises ConflictError when its agent cannot end this one alone."""
        path = f"{self._path(session_id)}/background/{in_path(background_id)}"
        return (await self._connection.ask("DELETE", path, _Background)).tasks

    async def allowances(self, session_id: str) -> Sequence[str]:
        """What was allowed for the whole session."""
        path = f"{self._path(session_id)}/allowances"
        return (await self._connection.ask("GET", path, _Allowances)).allowances

    async def revoke_allowance(self, session_id: str, allowance: str | None = None) -> Sequence[str]:
        """Take one back, or all: the agent asks again. What is left."""
        path = f"{self._path(session_id)}/allowances"
        query = {"allowance": allowance}
        return (
            await self._connection.ask("DELETE", path, _Allowances, query=query, is_repeatable=True)
        ).allowances

    def _path(self, session_id: str) -> str:
        return f"/sessions/{in_path(session_id)}"


class AsyncJobs(Resource):
    """`client.jobs`."""

    async def get(self, task_id: str) -> AsyncJob:
        info = await self._connection.ask("GET", f"/generate/v2/jobs/{in_path(task_id)}", JobInfo)
        return AsyncJob(self._connection, info)

    async def list(
        self, *, session_id: str | None = None, status: str | None = None, page_size: int = PAGE
    ) -> AsyncIterator[AsyncJob]:
        """All jobs, newest first; the next page is asked for when it is needed."""
        cursor: str | None = None
        while True:
            query = {"limit": page_size, "cursor": cursor, "session_id": session_id, "status": status}
            page = await self._connection.ask("GET", "/generate/v2/jobs", _JobPage, query=query)
            for info in page.jobs:
                yield AsyncJob(self._connection, info)
            if (cursor := page.next_cursor) is None:
                return

    async def wait(self, task_id: str, *, timeout: float | None = None) -> JobResult:
        """Wait for a job's end. Raises TimeoutError after `timeout` seconds."""
        return await (await self.get(task_id)).result(timeout)

    async def stop(self, task_id: str) -> JobInfo:
        """End a job, and wait until its agent is gone. One that has ended stays as it is."""
        return await (await self.get(task_id)).stop()


class AsyncPermissions(Resource):
    """`client.permissions`: what agents wait for, in all sessions."""

    async def list(self, *, task_id: str | None = None) -> AsyncIterator[AsyncQuestion]:
        """The questions that wait, the oldest first; of one job, or of all."""
        path = f"/generate/v2/jobs/{in_path(task_id)}/permissions" if task_id else "/permissions"
        answer = await self._connection.ask("GET", path, _Permissions)
        for fields in answer.permissions:
            yield _question(fields, self._connection)

    async def answer(
        self,
        task_id: str,
        request_id: str,
        decision: str,
        *,
        remember: bool = False,
        message: str | None = None,
        updated_input: dict[str, Any] | None = None,
    ) -> PermissionAnswer:
        """Answer a question by its ids. Raises ConflictError when another answer was given."""
        fields = _given(remember="session" if remember else None, message=message, updatedInput=updated_input)
        return await send_answer(self._connection, task_id, request_id, {"decision": decision, **fields})

    async def watch(self) -> AsyncIterator[AsyncQuestion]:
        """Each question that waits, once, as it comes; for ever."""
        told: set[tuple[str, str]] = set()
        while True:
            waiting = {(each.task_id, each.request_id): each async for each in self.list()}
            for ids, question in waiting.items():
                if ids not in told:
                    yield question
            told = set(waiting)
            await asyncio.sleep(WATCH_PAUSE_S)


def _question(fields: dict[str, Any], connection: Connection) -> AsyncQuestion:
    raw = {"type": "permission_request", **fields}
    event = read(0, str(fields.get("sessionId", "")), raw, replying(connection))
    assert isinstance(event, Question)
    return event


class AsyncTerminals(Resource):
    """`client.terminals`."""

    async def list(self) -> AsyncIterator[Terminal]:
        """The shells that run, the oldest first."""
        for terminal in (await self._connection.ask("GET", "/terminals", _Terminals)).terminals:
            yield terminal

    async def token(
        self,
        terminal_id: str | None = None,
        *,
        deployment_id: str = "client",
        cwd: str | None = None,
        read_only: bool = False,
    ) -> TerminalToken:
        """Opens one WebSocket: `GET /ws/terminal`. The terminal begins with it when there is none of this id."""
        body = _given(deploymentId=deployment_id, terminalId=terminal_id, cwd=cwd, readOnly=read_only)
        return await self._connection.ask("POST", "/terminal/token", TerminalToken, body=body)

    async def connect(
        self, terminal_id: str, *, cwd: str | None = None, read_only: bool = False
    ) -> ClientWebSocketResponse:
        """A WebSocket on a terminal, which begins when there is none; what it shows are binary messages.

        It is aiohttp's: read it, send to it, and close it. What its JSON messages say is in docs/http-api.md.
        """
        deployments = {each.terminal_id: each.deployment_id async for each in self.list()}
        deployment_id = deployments.get(terminal_id, "client")
        token = await self.token(terminal_id, deployment_id=deployment_id, cwd=cwd, read_only=read_only)
        return await self._connection.open_socket("/ws/terminal?encoding=binary", token.token)

    async def delete(self, terminal_id: str) -> None:
        """End the shell and all that it started."""
        await self._connection.ask("DELETE", f"/terminals/{in_path(terminal_id)}", dict[str, Any])


class AsyncKeys(Resource):
    """`client.keys`: the keys that were made with ours, and what stands for one for a moment."""

    async def list(self) -> AsyncIterator[Key]:
        """Those made with our key; all named ones for a key that may do everything."""
        for key in (await self._connection.ask("GET", "/auth/tokens", _Keys)).tokens:
            yield key

    async def add(self, name: str) -> DeviceToken:
        """A key for a device, rather than one's own; `name` says which."""
        return await self._connection.ask("POST", "/auth/tokens", DeviceToken, body={"name": name})

    async def revoke(self, key_id: str) -> None:
        """End it: its next request is refused."""
        await self._connection.ask("DELETE", f"/auth/tokens/{in_path(key_id)}", dict[str, Any])

    async def code(self) -> str:
        """Signs a browser in to the server's console, or a device in, once, within a minute."""
        return (await self._connection.ask("POST", "/auth/codes", _Code, body={})).code

    async def ticket(self) -> str:
        """Good for one GET, as `?ticket=`, within a minute: for downloads of a browser, and for EventSource."""
        return (await self._connection.ask("POST", "/auth/tickets", _Ticket, body={})).ticket


class AsyncAgents(Resource):
    """`client.agents`."""

    async def list(self) -> AsyncIterator[Agent]:
        """The agents of the server, and whether they can be used."""
        for agent in (await self._connection.ask("GET", "/agents", _Agents)).agents:
            yield agent


class AsyncHealth(Resource):
    """`client.health`: needs no key."""

    async def get(self) -> Health:
        """How the server is. Raises ServiceUnavailableError when its database does not answer."""
        return await self._connection.ask("GET", "/health", Health)

    async def ready(self) -> bool:
        """Does it take work?"""
        await self._connection.ask("GET", "/health/ready", dict[str, Any], is_repeatable=False)
        return True


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
