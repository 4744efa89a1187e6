"""`agentsrv fork`: a new session that goes on from another one."""

from __future__ import annotations

import msgspec

from agentsrv.cli import exits
from agentsrv.cli.find import find_session
from agentsrv.cli.start import Cli


async def main(cli: Cli) -> int:
    arguments = cli.arguments
    source = await find_session(cli.client, arguments.id)
    made = await cli.client.sessions.fork(source.id, new_session_id=arguments.new_id, name=arguments.name)
    if cli.output.format == "text":
        cli.output.print(made.id)
    else:
        cli.output.object(msgspec.to_builtins(made))
    return exits.OK
