"""`agentsrv merge`: take what a session has committed in its worktree into a branch."""

from __future__ import annotations

import msgspec

from agentsrv.cli import exits
from agentsrv.cli.find import find_session
from agentsrv.cli.safe import one_line
from agentsrv.cli.start import Cli

SHORT = 10
"""Digits of a commit."""


async def main(cli: Cli) -> int:
    """All or nothing; what does not fit together is in the error."""
    arguments = cli.arguments
    session = await find_session(cli.client, arguments.id)
    merged = await cli.client.sessions.merge(
        session.id, into=arguments.into, how=arguments.how, message=arguments.message
    )
    if cli.output.format != "text":
        cli.output.object(msgspec.to_builtins(merged))
    elif merged.merged:
        told = f"{merged.branch} is in {merged.into}: {merged.before[:SHORT]}..{merged.commit[:SHORT]}"
        cli.output.print(one_line(told))
    else:
        cli.output.say(f"{merged.into} has all of {merged.branch} already")
    return exits.OK
