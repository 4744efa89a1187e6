"""The zygote: keeps one spare forked and hands it the next request."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from agentsrv import linux
from agentsrv.runner.child.frames import FAILED, frame
from agentsrv.runner.child.runner import Runner
from agentsrv.runner.child.start import reset_signals

RESPAWN_PAUSE_S = 0.1
"""Between two spares when the first one died without having done anything."""


def receive(control: socket.socket) -> socket.socket | None:
    """Take one request: the socket that came with it. None when the server is gone."""
    while True:
        data, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        for _, _, fds in ancillary:
            return socket.socket(fileno=int.from_bytes(fds[:4], sys.byteorder))


def be_spare(control: socket.socket, taken: int, umask: int) -> NoReturn:
    """In the forked child: wait for a request and be its runner. On `taken` it says that it waits no more."""

    def release() -> None:
        with contextlib.suppress(BrokenPipeError):  # The zygote was killed. This runner does not need it.
            os.write(taken, b"1")
        os.close(taken)

    try:
        runner = Runner(umask, release)
        server = receive(control)
        control.close()
        if server is not None:
            runner.run(server)
    finally:
        os._exit(0)


def refuse_one(control: socket.socket, exc: OSError) -> bool:
    """Answer one request without a runner, because there can be no new process. False: the server is gone."""
    server = receive(control)
    if server is None:
        return False
    failure = {"about": "runner", "message": f"cannot start another process: {exc.strerror}"}
    with server:
        server.sendall(frame(FAILED, json.dumps(failure).encode()))
    return True


def is_readable(control: socket.socket, timeout_s: float) -> bool:
    return bool(select.select([control], [], [], timeout_s)[0])


def is_closed(control: socket.socket) -> bool:
    poll = select.poll()
    poll.register(control, 0)
    return bool(poll.poll(0))


def be_zygote(control: socket.socket, umask: int) -> None:
    """Keep one spare forked until the server closes the control socket."""
    linux.set_name("agentsrv-zygote")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Runners are reaped by the kernel.
    control.send(b"1")
    while True:
        taken, taken_end = os.pipe()
        try:
            pid = os.fork()
        except OSError as exc:
            os.close(taken)
            os.close(taken_end)
            if is_readable(control, RESPAWN_PAUSE_S) and not refuse_one(control, exc):
                return
            continue
        if pid == 0:
            os.close(taken)
            be_spare(control, taken_end, umask)
        os.close(taken_end)
        is_taken = os.read(taken, 1)
        os.close(taken)
        if is_closed(control):
            return
        if not is_taken:
            time.sleep(RESPAWN_PAUSE_S)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    reset_signals()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # The server may have raised its own; there are programs that a high one slows down, or that use select().
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), hard))
    # Agents run as the same user. What passes through a runner, a key perhaps, is not theirs to look up in its
    # memory, nor in a core dump. Their own exec undoes this for them.
    linux.forbid_inspection()
    # No collection: it would touch, and so copy, pages that runners share with the zygote.
    gc.disable()
    gc.freeze()
    be_zygote(control, umask=os.umask(0o077))
