"""`agentsrv stop`: end turns, and wait until their agents are gone."""

from __future__ import annotations

from agentsrv.cli import exits
from agentsrv.cli.exits import UsageError
from agentsrv.cli.find import find
from agentsrv.cli.start import Cli
from agentsrv.client import AsyncJob, JobInfo

ACTIVE = ("running", "waiting_for_approval")


async def main(cli: Cli) -> int:
    if bool(cli.arguments.ids) == cli.arguments.all:
        raise UsageError("say which sessions or jobs to stop, or --all")
    jobs = (
        await every_job(cli) if cli.arguments.all else [await job_of(cli, each) for each in cli.arguments.ids]
    )
    stopped = []
    for job in jobs:
        if job is not None:
            stopped.append(told(await job.stop()))
            tell(cli, stopped[-1])
    if cli.output.format == "json":
        cli.output.object({"jobs": stopped})
    return exits.OK


def told(job: JobInfo) -> dict[str, str]:
    """A job and how it is."""
    return {"sessionId": job.session_id, "taskId": job.task_id, "status": job.status}


def tell(cli: Cli, job: dict[str, str]) -> None:
    """At once: stopping the next one may take a while."""
    if cli.output.format == "text":
        cli.output.print(" ".join(job.values()))
    elif cli.output.format == "jsonl":
        cli.output.object(job)


async def every_job(cli: Cli) -> list[AsyncJob]:
    return [job for status in ACTIVE async for job in cli.client.jobs.list(status=status)]


async def job_of(cli: Cli, text: str) -> AsyncJob | None:
    """The job that is meant: of a session the one that runs."""
    found = await find(cli.client, text)
    if isinstance(found, AsyncJob):
        return found
    if found.active_task_id is None:
        cli.output.say(f"{found.id}: nothing runs")
        return None
    return await cli.client.jobs.get(found.active_task_id)
