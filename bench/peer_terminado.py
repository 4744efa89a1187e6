"""terminado as it is used: `python peer_terminado.py` serves /bin/sh at /websocket and prints its port."""

from __future__ import annotations

import asyncio

import terminado  # type: ignore[import-not-found]
from tornado.httpserver import HTTPServer  # type: ignore[import-not-found]
from tornado.netutil import bind_sockets  # type: ignore[import-not-found]
from tornado.web import Application  # type: ignore[import-not-found]


async def main() -> None:
    manager = terminado.UniqueTermManager(shell_command=["/bin/sh"])
    app = Application([("/websocket", terminado.TermSocket, {"term_manager": manager})])
    sockets = bind_sockets(0, "127.0.0.1")
    HTTPServer(app).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
