"""`agentsrv open`: the server's console in a browser, signed in by a code where the server has them."""

from __future__ import annotations

import asyncio
import io
import webbrowser
from urllib.parse import quote

from rich.text import Text

from agentsrv.cli import exits
from agentsrv.cli.exits import Refused
from agentsrv.cli.find import find_session
from agentsrv.cli.output import Output
from agentsrv.cli.start import Cli
from agentsrv.client import NotFoundError

MARGIN = 2
"""Light modules around a QR code."""


async def main(cli: Cli) -> int:
    """What is behind the `#` of the address reaches no server and no log."""
    arguments = cli.arguments
    if cli.server.socket:
        raise Refused(f"no browser comes to {cli.server.url}: the server would have to listen on a port")
    place = f"s/{quote((await find_session(cli.client, arguments.id)).id)}" if arguments.id else ""
    address = f"{cli.server.url}/console/#{await signed_in(cli, place)}"
    if arguments.qr:
        draw(cli.output, address)
        if cli.server.is_local:
            cli.output.say(f"{cli.server.url} is this machine: --url says how others reach it")
    if arguments.qr or arguments.print or not await asyncio.to_thread(webbrowser.open, address):
        cli.output.write(f"{address}\n")
    return exits.OK


async def signed_in(cli: Cli, place: str) -> str:
    """The fragment, with a code where the server gives one; else the console asks for the key."""
    try:
        code = await cli.client.keys.code()
    except NotFoundError:
        return f"/{place}"
    return f"code={quote(code)}" + (f"&to={place}" if place else "")


def draw(output: Output, address: str) -> None:
    """`address` as a QR code: its light modules are what is drawn, which is right where colours are not known."""
    import segno  # its time is for those who want a QR code

    code = segno.make_qr(address)
    drawn = io.StringIO()
    if output.is_ascii:
        for row in code.matrix_iter(border=MARGIN):
            drawn.write("".join("  " if is_dark else "##" for is_dark in row) + "\n")
    else:
        code.terminal(drawn, border=MARGIN, compact=True)
    output.print(Text(drawn.getvalue().rstrip("\n"), "bright_white on black"))
