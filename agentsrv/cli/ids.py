"""`agentsrv ids COMMAND`: what may stand behind a command. The completions of the shells ask for it."""

from __future__ import annotations

from agentsrv.cli import exits
from agentsrv.cli.answer import names
from agentsrv.cli.find import first
from agentsrv.cli.safe import one_line
from agentsrv.cli.start import Cli

NEWEST = 200
"""Of sessions, and of jobs: a shell shows no more."""


async def main(cli: Cli) -> int:
    ids = await (questions(cli) if cli.arguments.of == "answer" else sessions(cli))
    if cli.arguments.of not in ("run", "answer"):
        ids += [job.id for job in await first(cli.client.jobs.list(page_size=NEWEST), NEWEST)]
    cli.output.print(*map(one_line, dict.fromkeys(ids)))
    return exits.OK


async def sessions(cli: Cli) -> list[str]:
    return [each.id for each in await first(cli.client.sessions.list(), NEWEST)]


async def questions(cli: Cli) -> list[str]:
    """Those that wait, by all their names but the longest."""
    return [name async for each in cli.client.permissions.list() for name in names(each)[1:]]
