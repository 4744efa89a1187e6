"""Where a server listens."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentsrv.errors import StartupError
from agentsrv.listen import loopback_sockets, open_sockets, unix_socket, url_of


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_loopback_is_both_addresses(host: str) -> None:
    """Nobody else can listen on the one that `localhost` happens to mean."""
    found = await open_sockets(host, 0, {})
    ports = {listener.getsockname()[1] for listener in found}
    families = {listener.family for listener in found}
    for listener in found:
        listener.close()

    assert len(ports) == 1
    assert families == (
        {socket.AF_INET, socket.AF_INET6} if socket.has_dualstack_ipv6() else {socket.AF_INET}
    )


async def test_the_url_says_loopback_by_its_number() -> None:
    """What is printed cannot be resolved to anything else."""
    found = await open_sockets("localhost", 0, {})
    url = url_of(found[0])
    for listener in found:
        listener.close()

    assert url.startswith("http://127.0.0.1:")


async def test_a_port_that_is_taken_on_one_loopback_is_taken() -> None:
    """The start fails, rather than that clients give the key to somebody else."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(StartupError, match=f"HOST=::1 PORT={port}: Address already in use"):
            await open_sockets("::1", port, {})
        with pytest.raises(OSError, match="in use"):
            loopback_sockets(port, first="::1")


async def test_a_unix_socket_is_for_user_and_group(tmp_path: Path) -> None:
    """And what an earlier server has left there is not in the way."""
    path = tmp_path / "agentsrv.sock"
    unix_socket(path).close()
    [listener] = await open_sockets(f"unix:{path}", 0, {})

    assert (path.stat().st_mode & 0o777, url_of(listener)) == (0o660, f"unix:{path}")
    with pytest.raises(StartupError, match="another server listens"):
        await open_sockets(f"unix:{path}", 0, {})
    listener.close()


async def test_a_file_in_a_sockets_place_is_left_alone(tmp_path: Path) -> None:
    """The start fails; nothing of yours is removed."""
    path = tmp_path / "precious"
    path.write_text("data")

    with pytest.raises(StartupError, match="cannot listen"):
        await open_sockets(f"unix:{path}", 0, {})
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    ("host", "what_to_do"),
    [
        ("192.0.2.1", "set HOST to an address of this machine"),
        ("127.0.0.1:3000", "set HOST to an address of this machine"),
        (f"{'long' * 20}.example", "set HOST to an address of this machine"),
        ("unix:/nowhere/agentsrv.sock", "set HOST to the path of a socket that can be made"),
    ],
)
async def test_advice_about_a_wrong_host_is_about_the_host(host: str, what_to_do: str) -> None:
    """Another port would not help."""
    with pytest.raises(StartupError, match=f"cannot listen on HOST={host} .*; {what_to_do}$"):
        await open_sockets(host, 0, {})


ACTIVATED = """
import asyncio, os, sys
from agentsrv.listen import open_sockets
os.dup2(int(sys.argv[1]), 3)
activation = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
[listener] = asyncio.run(open_sockets("192.0.2.1", 1, activation))
print(listener.getsockname()[1])
"""


def test_sockets_of_systemd_are_taken() -> None:
    """A socket unit holds the port while the server starts again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.fileno()
        run = subprocess.run(
            [sys.executable, "-c", ACTIVATED, str(number)],
            pass_fds=[number], capture_output=True, text=True, timeout=60,
        )  # fmt: skip

        assert (run.stdout.strip(), run.stderr) == (str(listener.getsockname()[1]), "")


async def test_sockets_for_another_process_are_not_taken() -> None:
    """LISTEN_PID says whom they are for; who inherits the variable inherits no sockets."""
    found = await open_sockets("127.0.0.1", 0, {"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    addresses = [listener.getsockname()[0] for listener in found]
    for listener in found:
        listener.close()

    assert addresses[0] == "127.0.0.1"
