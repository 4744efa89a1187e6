"""The sockets that a server listens on: addresses, a Unix socket, or those that systemd hands over."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from agentsrv.errors import StartupError

BACKLOG = 1024
UNIX = "unix:"
LOOPBACKS = ("127.0.0.1", "::1")
FIRST_HANDED_OVER = 3
"""The first descriptor that systemd hands over (sd_listen_fds(3))."""
NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
TRIES = 20


async def open_sockets(host: str, port: int, environment: Mapping[str, str]) -> list[socket.socket]:
    """Listening sockets, the one to tell people of first. Raises StartupError.

    `host`: an address or name, or `unix:` and a path. A loopback address means both of them, so that no other
    user of the machine can take the one that `localhost` happens to mean. Sockets from systemd win.
    """
    if handed_over := sockets_of_systemd(environment):
        return handed_over
    try:
        if host.startswith(UNIX):
            return [unix_socket(Path(host.removeprefix(UNIX)))]
        if is_loopback(host):
            return loopback_sockets(port, first=host)
        return await address_sockets(host, port)
    except (OSError, UnicodeError) as exc:  # the latter: no name of a machine can be so
        number, reason = getattr(exc, "errno", None), getattr(exc, "strerror", None) or str(exc)
        raise StartupError(
            f"cannot listen on HOST={host} PORT={port}: {reason}; {advice(host, number)}"
        ) from exc


def advice(host: str, number: int | None) -> str:
    """What to do about an error of this number."""
    if host.startswith(UNIX):
        return "set HOST to the path of a socket that can be made"
    by_number = {errno.EADDRINUSE: "stop what does, or set PORT", errno.EACCES: "set PORT to 1024 or more"}
    return by_number.get(number or 0, "set HOST to an address of this machine")


def sockets_of_systemd(environment: Mapping[str, str]) -> list[socket.socket]:
    """Those of a `.socket` unit; they listen already. None are meant for us unless LISTEN_PID says so."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "")
    if not count.isdecimal() or not 0 < int(count) <= 64:
        raise StartupError("LISTEN_FDS must be the number of sockets that are handed over")
    found = [socket.socket(fileno=FIRST_HANDED_OVER + number) for number in range(int(count))]
    for listener in found:
        listener.setblocking(False)
        listener.set_inheritable(False)
    return found


def unix_socket(path: Path) -> socket.socket:
    """For the server's user and group. What an earlier server has left there is taken away, and nothing else."""
    if not path.is_absolute():
        raise StartupError(f"HOST={UNIX}{path}: give an absolute path")
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise StartupError(f"another server listens on {path}; stop it, or set HOST")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o660)
        return listening(listener)
    except OSError:
        listener.close()
        raise


def loopback_sockets(port: int, first: str) -> list[socket.socket]:
    """Both loopback addresses, on the same port. `port` 0: one that is free on both."""
    for _ in range(TRIES if port == 0 else 1):
        opened: list[socket.socket] = []
        try:
            for address in sorted(LOOPBACKS, key=lambda address: address != first):
                try:
                    opened.append(bound(address, port if not opened else opened[0].getsockname()[1]))
                except OSError as exc:
                    if exc.errno not in NOT_HERE:
                        raise
            return [listening(listener) for listener in opened]
        except OSError:
            for listener in opened:
                listener.close()
            if port:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free on both loopback addresses")


async def address_sockets(host: str, port: int) -> list[socket.socket]:
    """One for each address of `host`."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [listening(bound(address, port)) for address in addresses]


def bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ip_address(address.partition("%")[0]).version == 6 else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener


def listening(listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    listener.listen(BACKLOG)
    return listener


def is_loopback(host: str) -> bool:
    return host == "localhost" or host in LOOPBACKS


def url_of(listener: socket.socket) -> str:
    """Where it is, as people write it. Loopback by its number: a name might lead elsewhere."""
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
