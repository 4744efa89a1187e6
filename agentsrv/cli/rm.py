"""`agentsrv rm`: delete sessions with their history."""

from __future__ import annotations

from agentsrv.cli import exits
from agentsrv.cli.find import find_session
from agentsrv.cli.start import Cli


async def main(cli: Cli) -> int:
    arguments = cli.arguments
    for text in arguments.ids:
        session = await find_session(cli.client, text)
        await cli.client.sessions.delete(
            session.id, force=arguments.force, remove_worktree=arguments.worktree
        )
        if cli.output.format == "text":
            cli.output.print(session.id)
        else:
            cli.output.object({"sessionId": session.id, "deleted": True})
    return exits.OK
