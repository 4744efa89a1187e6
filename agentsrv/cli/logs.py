"""`agentsrv logs`: the transcript of a session or a job."""

from __future__ import annotations

from agentsrv.cli import exits
from agentsrv.cli.find import find, first
from agentsrv.cli.start import Cli
from agentsrv.cli.watch import Manners, Watch
from agentsrv.client import AsyncJob
from agentsrv.client.stream import Format

LOOK_AT = 200


async def main(cli: Cli) -> int:
    arguments = cli.arguments
    found = await find(cli.client, arguments.id)
    job = found if isinstance(found, AsyncJob) else None
    watch = Watch(cli, Manners(is_full=arguments.full, is_raw=arguments.raw, is_live=arguments.follow), job)
    kind: Format = "native" if arguments.raw else "acp"
    times = not arguments.raw  # the agent's own lines are shown as they are
    if job is not None:
        stream = job.events(arguments.since, on_break=watch.told_of_break, format=kind, times=times)
        last_id = job.info.last_event_id
    else:
        stream = cli.client.sessions.events(
            found.id, arguments.since or 0, on_break=watch.told_of_break, format=kind, times=times
        )
        last_id = await newest_event(cli, found.id)
    code = await watch.run(stream if arguments.follow else stream.until(last_id))
    return exits.OK if code is None else code


async def newest_event(cli: Cli, session_id: str) -> int:
    """Jobs that wait have none yet."""
    jobs = await first(cli.client.jobs.list(session_id=session_id), LOOK_AT)
    return max((job.info.last_event_id for job in jobs), default=0)
