"""Runs one command of those who use a server, and turns errors into a sentence and an exit code."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from dataclasses import dataclass
from importlib import import_module

from agentsrv.cli import exits
from agentsrv.cli.output import Output
from agentsrv.client import AsyncAgentsrv
from agentsrv.client.servers import Server, find_server
from agentsrv.hardening import hide_secrets


@dataclass(frozen=True, slots=True)
class Cli:
    """What a command works with."""

    arguments: Namespace
    output: Output
    server: Server
    client: AsyncAgentsrv


def run(arguments: Namespace) -> int:
    """The exit code of `arguments.command`, whose module has `async def main(cli: Cli) -> int`."""
    output = Output(arguments)
    server: Server | None = None
    try:
        key = getattr(arguments, "key", None)
        server = find_server(arguments.url, key, key_file=arguments.key_file, env_file=arguments.env_file)
        hide_secrets(server.key or "")
        return asyncio.run(_run(arguments, output, server))
    except BrokenPipeError:
        raise  # that of stdout; one of the network is an APIConnectionError
    except Exception as error:
        code, message, fields = exits.explain(error, server)
        output.error(message, fields)
        return code


async def _run(arguments: Namespace, output: Output, server: Server) -> int:
    main = import_module(f"agentsrv.cli.{arguments.command}").main
    async with AsyncAgentsrv.at(server) as client:
        code: int = await main(Cli(arguments, output, server, client))
        return code
