"""`agentsrv attach`: a session, or a shell of the server, in this terminal."""

from __future__ import annotations

import secrets

from agentsrv.cli import exits
from agentsrv.cli.find import find_session
from agentsrv.cli.shell import Target, show_shell
from agentsrv.cli.start import Cli
from agentsrv.cli.watch import Manners, Watch
from agentsrv.client.servers import ConfigurationError


async def main(cli: Cli) -> int:
    if not cli.output.is_interactive:
        raise ConfigurationError("attach needs a terminal; stdin or stdout is none")
    if cli.arguments.key:
        cli.output.say(
            "agentsrv: `ps` shows a key that is given with --key to everybody; rather use --key-file"
        )
    return await (session if cli.arguments.id else shell)(cli)


async def session(cli: Cli) -> int:
    """All that has happened and happens, its questions, and a line for prompts."""
    found = await find_session(cli.client, cli.arguments.id)
    watch = Watch(cli, Manners(answers="ask", prompts_to=found.id))
    stream = cli.client.sessions.events(found.id, on_break=watch.told_of_break, times=True)
    return await watch.run(stream) or exits.OK


async def shell(cli: Cli) -> int:
    """Until it ends or is left; its exit code."""
    arguments = cli.arguments
    if not cli.server.key:
        raise ConfigurationError(
            f"there is no key for {cli.server.url}: set AGENTSRV_API_KEY, or give --key-file"
        )
    terminal_id = arguments.terminal or f"attach-{secrets.token_hex(4)}"
    target = Target(terminal_id, arguments.cwd, arguments.read_only)
    left = await show_shell(cli.client, target, detach_key=arguments.detach_key)
    if left.message:
        cli.output.say(f"agentsrv: {left.message}")
    return left.code
