"""Runs the application as a server of its own: a socket, signals, an orderly end within the grace.

A host that embeds agentsrv has all of these itself and does not come here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
from collections.abc import Callable

from aiohttp import web

from agentsrv.api.server import Runner
from agentsrv.app import make_app
from agentsrv.config import Config
from agentsrv.errors import StartupError

log = logging.getLogger(__name__)

HANDLER_GRACE_S = 5.0
BACKLOG = 1024
MAX_DESCRIPTORS = 65_536
COLLECT_EVERY = (10_000, 20, 50)


def serve(config: Config, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `on_ready` gets the URL once requests are answered.

    Raises StartupError when the server cannot start. Open jobs live on under their runners.
    """
    asyncio.run(serve_until_signal(config, on_ready))


async def serve_until_signal(config: Config, on_ready: Callable[[str], None]) -> None:
    stop = stop_on_signal(config.shutdown_grace_s)
    runner = Runner(make_app(config), shutdown_timeout=HANDLER_GRACE_S)
    raise_descriptor_limit()
    try:
        await start(runner, config)
        spare_the_collector()
        on_ready(url_of(runner))
        await stop.wait()
    finally:
        await runner.cleanup()


async def start(runner: Runner, config: Config) -> None:
    try:
        await runner.setup()
    except OSError as exc:
        raise StartupError(f"cannot start: {exc}; `agentsrv doctor` tells more") from exc
    try:
        await web.TCPSite(runner, config.host, config.port, backlog=BACKLOG).start()
    except OSError as exc:
        where = f"HOST={config.host} PORT={config.port}"
        raise StartupError(f"cannot listen on {where}: {exc.strerror}; stop what does, or set PORT") from exc


def raise_descriptor_limit() -> None:
    """Each client takes a descriptor, and the usual soft limit of 1,024 is there for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def spare_the_collector() -> None:
    """Keep what is there for good out of garbage collections, and make them rarer.

    A full one took 20 ms and more under load, in which every stream stood still. Nearly all that a request makes
    is freed by reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)


def url_of(runner: Runner) -> str:
    """The address that was really bound (PORT=0 lets the system choose)."""
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def stop_on_signal(grace_s: float) -> asyncio.Event:
    """Set at the first SIGTERM or SIGINT; the end then has `grace_s`. A second signal ends all at once.

    Leaving at once is safe, only rude to clients: what they have seen is on disk, agents have their runners.
    """
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        # An alarm also fires while the interpreter waits for a stuck thread, when no task runs any more.
        signal.signal(signal.SIGALRM, lambda *_: give_up(grace_s))
        signal.setitimer(signal.ITIMER_REAL, max(grace_s, 0.001))

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


def give_up(grace_s: float) -> None:
    log.warning("not everything stopped within SHUTDOWN_GRACE, leaving", extra={"grace_s": grace_s})
    os._exit(0)
