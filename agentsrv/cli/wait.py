"""`agentsrv wait`: wait for jobs to end. The exit code is that of the worst of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from agentsrv.cli import exits
from agentsrv.cli.exits import Refused
from agentsrv.cli.find import find, first
from agentsrv.cli.start import Cli
from agentsrv.client import AsyncJob, JobInfo


async def main(cli: Cli) -> int:
    jobs = [await job_of(cli, each) for each in cli.arguments.ids]
    async with asyncio.timeout(cli.arguments.timeout):
        ended = await asyncio.gather(*(job.wait() for job in jobs))
    tell(cli, ended)
    return max(exits.BY_STATUS.get(info.status, exits.FAILED) for info in ended)


async def job_of(cli: Cli, text: str) -> AsyncJob:
    """The job that is meant: of a session its newest one."""
    found = await find(cli.client, text)
    if isinstance(found, AsyncJob):
        return found
    newest = await first(cli.client.jobs.list(session_id=found.id, page_size=1), 1)
    if not newest:
        raise Refused(f"session {found.id} has no job")
    return newest[0]


def tell(cli: Cli, jobs: Sequence[JobInfo]) -> None:
    found = [msgspec.to_builtins(job) for job in jobs]
    match cli.output.format:
        case "json":
            cli.output.object({"jobs": found})
        case "jsonl":
            cli.output.objects(found)
        case _:
            cli.output.print(*(f"{job.session_id} {job.task_id} {job.status}" for job in jobs))
