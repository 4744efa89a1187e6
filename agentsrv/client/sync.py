"""`Agentsrv`: the same without `await`. Each method is listed once, and has the signature of the one it calls."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

from agentsrv.client.aio import AsyncAgentsrv
from agentsrv.client.events import AsyncEvent, BlockingEvent, Question
from agentsrv.client.files import AsyncFiles
from agentsrv.client.git import AsyncGit
from agentsrv.client.jobs import AsyncJob, AsyncStream
from agentsrv.client.models import JobInfo, PermissionAnswer
from agentsrv.client.portal import Portal, result_of
from agentsrv.client.resources import (
    AsyncAgents,
    AsyncHealth,
    AsyncJobs,
    AsyncKeys,
    AsyncPermissions,
    AsyncQuestion,
    AsyncSessions,
    AsyncTerminals,
)

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., Any])

BlockingQuestion = Question[PermissionAnswer]


class Blocking(Generic[A]):
    """A face of something asynchronous: `waiting`, `each` and the like make its methods."""

    def __init__(self, portal: Portal, behind: A) -> None:
        self._portal = portal
        self._behind = behind

    def __repr__(self) -> str:
        return repr(self._behind).replace("Async", "", 1)


def waiting(method: Callable[Concatenate[A, P], Awaitable[R]]) -> Callable[Concatenate[Blocking[A], P], R]:
    """Calls `method`, and waits for what it gives."""

    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._portal.call(lambda: method(self._behind, *args, **kwargs))

    return _like(method, call)


def giving_job(
    method: Callable[Concatenate[A, P], Awaitable[AsyncJob]],
) -> Callable[Concatenate[Blocking[A], P], Job]:
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Job:
        return Job(self._portal, self._portal.call(lambda: method(self._behind, *args, **kwargs)))

    return _like(method, call)


def each(
    method: Callable[Concatenate[A, P], AsyncIterator[R]],
) -> Callable[Concatenate[Blocking[A], P], Iterator[R]]:
    """Iterates over what `method` gives."""

    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return _each(self._portal, method(self._behind, *args, **kwargs))

    return _like(method, call)


def each_job(
    method: Callable[Concatenate[A, P], AsyncIterator[AsyncJob]],
) -> Callable[Concatenate[Blocking[A], P], Iterator[Job]]:
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Job]:
        jobs = _each(self._portal, method(self._behind, *args, **kwargs))
        return (Job(self._portal, job) for job in jobs)

    return _like(method, call)


def each_event(
    method: Callable[Concatenate[A, P], AsyncIterator[AsyncEvent]],
) -> Callable[Concatenate[Blocking[A], P], Iterator[BlockingEvent]]:
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[BlockingEvent]:
        events = _each(self._portal, method(self._behind, *args, **kwargs))
        return (_blocking(self._portal, event) for event in events)

    return _like(method, call)


def each_question(
    method: Callable[Concatenate[A, P], AsyncIterator[AsyncQuestion]],
) -> Callable[Concatenate[Blocking[A], P], Iterator[BlockingQuestion]]:
    questions: Any = each_event(method)
    return cast("Callable[Concatenate[Blocking[A], P], Iterator[BlockingQuestion]]", questions)


def streaming(
    method: Callable[Concatenate[A, P], AsyncStream],
) -> Callable[Concatenate[Blocking[A], P], Stream]:
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Stream:
        return Stream(self._portal, method(self._behind, *args, **kwargs))

    return _like(method, call)


def _like(method: Callable[..., Any], call: F) -> F:
    """`call` with the name, the signature and the docstring of `method`."""
    functools.update_wrapper(call, method)
    return call


def _each(portal: Portal, items: AsyncIterator[R]) -> Iterator[R]:
    nothing = object()
    while (item := portal.call(lambda: anext(items, nothing))) is not nothing:
        yield cast(R, item)


def _blocking(portal: Portal, event: AsyncEvent) -> BlockingEvent:
    """`event`; a question is answered without `await`."""
    if not isinstance(event, Question):
        return event
    send = event._reply

    def reply(question: Question[Any], answer: dict[str, Any]) -> PermissionAnswer:
        return portal.call(lambda: send(question, answer))

    return cast(BlockingQuestion, replace(cast(Any, event), _reply=reply))


class Stream:
    """`for event in stream`: an EventStream, batch by batch.

    While a loop works on one batch the next is read, and no further one: a slow loop holds the server back.
    """

    def __init__(self, portal: Portal, behind: AsyncStream) -> None:
        self._portal = portal
        self._behind = behind
        self._ready: deque[BlockingEvent] = deque()
        self._next: Future[list[AsyncEvent]] | None = None
        """The batch that is being read."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BlockingEvent:
        if not self._ready:
            self._ready.extend([_blocking(self._portal, event) for event in self._batch()])
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _batch(self) -> list[AsyncEvent]:
        """The batch that is read by now. Ctrl-C while it waits loses nothing: the batch is for the next call."""
        self._next = self._next or self._portal.start(self._behind.batch)
        wait([self._next])
        future, self._next = self._next, None
        batch = result_of(future)
        if batch:
            self._next = self._portal.start(self._behind.batch)
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        future, self._next = self._next, None
        self._portal.tell(functools.partial(_hang_up, self._behind, future))


def _hang_up(stream: AsyncStream, reading: Future[list[AsyncEvent]] | None) -> None:
    if reading is not None:
        reading.cancel()
    stream.close()


class Job(Blocking[AsyncJob]):
    """A job of a server. `for event in job` gives all of its events, to its end."""

    events = streaming(AsyncJob.events)
    refresh = waiting(AsyncJob.refresh)
    wait = waiting(AsyncJob.wait)
    result = waiting(AsyncJob.result)
    stop = waiting(AsyncJob.stop)
    steer = giving_job(AsyncJob.steer)

    def __iter__(self) -> Iterator[BlockingEvent]:
        return self.events()

    @property
    def id(self) -> str:
        return self._behind.id

    @property
    def session_id(self) -> str:
        return self._behind.session_id

    @property
    def status(self) -> str:
        return self._behind.status

    @property
    def info(self) -> JobInfo:
        return self._behind.info


class Sessions(Blocking[AsyncSessions]):
    activity = waiting(AsyncSessions.activity)
    create = waiting(AsyncSessions.create)
    get = waiting(AsyncSessions.get)
    list = each(AsyncSessions.list)
    update = waiting(AsyncSessions.update)
    delete = waiting(AsyncSessions.delete)
    fork = waiting(AsyncSessions.fork)
    messages = each_event(AsyncSessions.messages)
    events = streaming(AsyncSessions.events)
    queue = waiting(AsyncSessions.queue)
    reorder_queue = waiting(AsyncSessions.reorder_queue)
    clear_queue = waiting(AsyncSessions.clear_queue)
    merge = waiting(AsyncSessions.merge)
    timers = waiting(AsyncSessions.timers)
    cancel_timer = waiting(AsyncSessions.cancel_timer)
    background = waiting(AsyncSessions.background)
    stop_background = waiting(AsyncSessions.stop_background)
    allowances = waiting(AsyncSessions.allowances)
    revoke_allowance = waiting(AsyncSessions.revoke_allowance)


class Jobs(Blocking[AsyncJobs]):
    get = giving_job(AsyncJobs.get)
    list = each_job(AsyncJobs.list)
    wait = waiting(AsyncJobs.wait)
    stop = waiting(AsyncJobs.stop)


class Permissions(Blocking[AsyncPermissions]):
    list = each_question(AsyncPermissions.list)
    answer = waiting(AsyncPermissions.answer)
    watch = each_question(AsyncPermissions.watch)


class Files(Blocking[AsyncFiles]):
    list = waiting(AsyncFiles.list)
    search = waiting(AsyncFiles.search)
    grep = waiting(AsyncFiles.grep)
    read = waiting(AsyncFiles.read)
    download = waiting(AsyncFiles.download)
    write = waiting(AsyncFiles.write)
    delete = waiting(AsyncFiles.delete)
    make_directory = waiting(AsyncFiles.make_directory)
    move = waiting(AsyncFiles.move)
    upload = waiting(AsyncFiles.upload)
    watch = each(AsyncFiles.watch)


class Git(Blocking[AsyncGit]):
    repositories = waiting(AsyncGit.repositories)
    diff = waiting(AsyncGit.diff)
    worktrees = waiting(AsyncGit.worktrees)
    remove_worktree = waiting(AsyncGit.remove_worktree)
    clean_up_worktrees = waiting(AsyncGit.clean_up_worktrees)


class Terminals(Blocking[AsyncTerminals]):
    list = each(AsyncTerminals.list)
    token = waiting(AsyncTerminals.token)
    delete = waiting(AsyncTerminals.delete)


class Keys(Blocking[AsyncKeys]):
    list = each(AsyncKeys.list)
    add = waiting(AsyncKeys.add)
    revoke = waiting(AsyncKeys.revoke)
    code = waiting(AsyncKeys.code)
    ticket = waiting(AsyncKeys.ticket)


class Agents(Blocking[AsyncAgents]):
    list = each(AsyncAgents.list)


class Health(Blocking[AsyncHealth]):
    get = waiting(AsyncHealth.get)
    ready = waiting(AsyncHealth.ready)


class Agentsrv(Blocking[AsyncAgentsrv]):
    """A server, without asyncio: in scripts, in threads, in notebooks. One client for each process."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        max_retries: int = 4,
        reconnect_timeout: float | None = None,
    ) -> None:
        behind = AsyncAgentsrv(
            base_url, api_key, timeout=timeout, max_retries=max_retries, reconnect_timeout=reconnect_timeout
        )
        self._use(Portal(), behind)

    def _use(self, portal: Portal, behind: AsyncAgentsrv) -> None:
        super().__init__(portal, behind)
        self.sessions = Sessions(portal, behind.sessions)
        self.jobs = Jobs(portal, behind.jobs)
        self.permissions = Permissions(portal, behind.permissions)
        self.files = Files(portal, behind.files)
        self.git = Git(portal, behind.git)
        self.terminals = Terminals(portal, behind.terminals)
        self.keys = Keys(portal, behind.keys)
        self.agents = Agents(portal, behind.agents)
        self.health = Health(portal, behind.health)

    run = giving_job(AsyncAgentsrv.run)

    @property
    def base_url(self) -> str:
        return self._behind.base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread, also for what `with_options` has made. Closing twice is fine."""
        if self._portal.is_open:
            self._portal.call(self._behind.close)
            self._portal.close()

    def with_options(
        self,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        reconnect_timeout: float | None = None,
    ) -> Self:
        """The same server and connections with other options."""
        behind = self._behind.with_options(
            timeout=timeout, max_retries=max_retries, reconnect_timeout=reconnect_timeout
        )
        other = type(self).__new__(type(self))
        other._use(self._portal, behind)
        return other
