"""`agentsrv rm`: delete sessions with their history."""

from __future__ import annotations

from agentsrv.cli import exits
from agentsrv.cli.find import find_session
from agentsrv.cli.start import Cli


async def main(cli: Cli) -> int:
    arguments, output = cli.arguments, cli.output
    deleted = []
    for text in arguments.ids:
        session = await find_session(cli.client, text)
        await cli.client.sessions.delete(
            session.id, force=arguments.force, remove_worktree=arguments.worktree
        )
        deleted.append({"sessionId": session.id, "deleted": True})
        if output.format == "text":
            output.print(session.id)
        elif output.format == "jsonl":
            output.object(deleted[-1])
    if output.format == "json":
        output.object({"sessions": deleted})
    return exits.OK
