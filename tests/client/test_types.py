"""What a type checker knows of the client. mypy reads this file; running it shows that the names are there."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from typing import TYPE_CHECKING, assert_type

from agentsrv.client import (
    Agentsrv,
    AsyncAgentsrv,
    AsyncJob,
    Job,
    JobInfo,
    JobResult,
    Question,
    Session,
    Text,
)
from agentsrv.client.models import PermissionAnswer, QueuedPrompt

if TYPE_CHECKING:

    async def asynchronous(client: AsyncAgentsrv) -> None:
        job = await client.run("hello", session="s", if_busy="queue", max_turns=3)
        assert_type(job, AsyncJob)
        async for event in job:
            match event:
                case Text(text=text):
                    assert_type(text, str)
                case Question():
                    assert_type(event, Question[Awaitable[PermissionAnswer]])
                    assert_type(await event.allow(), PermissionAnswer)
                case _:
                    pass
        assert_type(await job.result(), JobResult)
        assert_type(await client.sessions.get("s"), Session)
        assert_type([each async for each in client.sessions.list()], list[Session])
        assert_type(await client.sessions.queue("s"), Sequence[QueuedPrompt])
        assert_type([each async for each in client.jobs.list()], list[AsyncJob])

    def blocking(client: Agentsrv) -> None:
        job = client.run("hello", session="s", if_busy="queue", max_turns=3)
        assert_type(job, Job)
        for event in job:
            match event:
                case Text(text=text):
                    assert_type(text, str)
                case Question():
                    assert_type(event, Question[PermissionAnswer])
                    assert_type(event.deny("no"), PermissionAnswer)
                case _:
                    pass
        assert_type(job.result(), JobResult)
        assert_type(job.wait(timeout=3), JobInfo)
        assert_type(client.sessions.get("s"), Session)
        assert_type(client.sessions.list(), Iterator[Session])
        assert_type(client.jobs.get("t"), Job)


def test_the_types_are_checked() -> None:
    """The file is one of those that mypy reads, strictly."""
    assert not TYPE_CHECKING
