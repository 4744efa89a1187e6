"""A git worker's work in a child of this process: it begins at once, where a worker starts an interpreter."""

from __future__ import annotations

import os
import signal
import socket

import msgspec

from agentsrv.workspace.git.program import configure_libgit2, serve
from agentsrv.workspace.git.protocol import ANSWER, FAILED, OK, Request, decode_error
from agentsrv.workspace.paths import Workspace

TIMEOUT_S = 60


class GitChildren:
    """As GitWorkers to who asks: what is done is the same, and so is how a writing child confines itself."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    async def ask(self, request: Request) -> bytes:
        kind, body = self._answer(request)
        if kind == FAILED:
            raise decode_error(body)
        assert kind == OK, body.decode()
        return body

    def _answer(self, request: Request) -> tuple[int, bytes]:
        ours, theirs = socket.socketpair()
        if (child := os.fork()) == 0:
            try:
                self._serve(theirs, msgspec.json.encode(request))
            finally:
                os._exit(0)
        theirs.close()
        ours.settimeout(TIMEOUT_S)
        with ours, ours.makefile("rb") as answers:
            head, body = answers.read(ANSWER.size), answers.read()
        os.waitpid(child, 0)
        return ANSWER.unpack(head)[1], body

    def _serve(self, connection: socket.socket, data: bytes) -> None:
        signal.signal(signal.SIGALRM, lambda *_: None)
        configure_libgit2()
        serve(self._workspace, data, connection)
