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
from contextlib import suppress
from typing import NoReturn

from aiohttp import web

from agentsrv.api.connections import Limits
from agentsrv.api.keys import TURNS
from agentsrv.api.server import HttpRunner
from agentsrv.app import make_app
from agentsrv.config import Config
from agentsrv.errors import StartupError
from agentsrv.listen import open_sockets, url_of
from agentsrv.runner.sweep import kill_all
from agentsrv.tasks import Vitals

log = logging.getLogger(__name__)

HANDLER_GRACE_S = 5.0
KEPT_DESCRIPTORS = 256
"""For the database, git's workers, files and threads."""
DESCRIPTORS_OF_AN_AGENT = 4
EX_SOFTWARE = 70
MAX_DESCRIPTORS = 65_536
COLLECT_EVERY = (10_000, 20, 50)


def serve(config: Config, on_ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT. `on_ready` gets the URL once requests are answered.

    Returns the exit code: EX_SOFTWARE when something has failed without which the server cannot go on; whoever
    started it should start it again. Raises StartupError when the server cannot start. Open jobs live on under
    their runners.
    """
    return asyncio.run(serve_until_signal(config, on_ready))


async def serve_until_signal(config: Config, on_ready: Callable[[str], None]) -> int:
    grace_s = config.shutdown_grace_s
    stop = stop_on_signal()
    vitals = Vitals(lambda: end_within(grace_s, stop, EX_SOFTWARE), lambda: end_superseded(config))
    # In this order: what starts agents passes on the limit that it was made under.
    app = make_app(config, vitals)
    raise_descriptor_limit()
    runner = HttpRunner(app, shutdown_timeout=HANDLER_GRACE_S, limits=limits_of(config))
    try:
        url = await start(runner, config)
        spare_the_collector()
        on_ready(url)
        await stop.wait()
        if vitals.failed is None:
            await let_work_end(app, config.drain_timeout_s)
            end_within(grace_s, stop)
    finally:
        await runner.cleanup()
    return 0 if vitals.failed is None else EX_SOFTWARE


async def start(runner: HttpRunner, config: Config) -> str:
    """Returns the URL that was really bound (PORT=0 lets the system choose)."""
    try:
        await runner.setup()
    except OSError as exc:
        raise StartupError(f"cannot start: {exc}; `agentsrv doctor` tells more") from exc
    sockets = await open_sockets(config.host, config.port, config.environment)
    await runner.listen(sockets)
    return url_of(sockets[0])


def limits_of(config: Config) -> Limits:
    """So many connections that enough descriptors are left for agents, terminals and files."""
    limits = Limits(
        connections=config.max_connections,
        per_address=config.max_connections_per_address,
        stall_s=config.stall_timeout_s,
        proxies=config.trusted_proxies,
    )
    agents = config.max_concurrent_turns + config.max_warm_agents + config.max_terminals
    return limits.within_descriptors(KEPT_DESCRIPTORS + DESCRIPTORS_OF_AN_AGENT * agents)


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


async def let_work_end(app: web.Application, timeout_s: float) -> None:
    """Refuse new turns and serve the rest, until nothing runs or the time is over."""
    app[TURNS].refuse()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await app[TURNS].idle()


def end_superseded(config: Config) -> NoReturn:
    """Another server has our place and our volume: whatever was written from now on would be wrong. Never returns."""
    kill_all([config.state_dir / "runners", config.state_dir / "terminals"])
    os._exit(EX_SOFTWARE)


def stop_on_signal() -> asyncio.Event:
    """Set at the first SIGTERM or SIGINT. A second signal ends all at once.

    Leaving at once is safe, only rude to clients: what they have seen is on disk, agents have their runners.
    """
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


def end_within(grace_s: float, stop: asyncio.Event, code: int = 0) -> None:
    """Begin the end; when it takes longer than `grace_s`, leave with this exit code."""
    stop.set()
    # An alarm also fires while the interpreter waits for a stuck thread, when no task runs any more.
    signal.signal(signal.SIGALRM, lambda *_: give_up(grace_s, code))
    signal.setitimer(signal.ITIMER_REAL, max(grace_s, 0.001))


def give_up(grace_s: float, code: int) -> None:
    log.warning("not everything stopped within SHUTDOWN_GRACE, leaving", extra={"grace_s": grace_s})
    os._exit(code)
