"""Processes that work with git repositories, so that the event loop does not.

libgit2 holds the interpreter's lock while it compares a thousand files, and a damaged repository can keep it
busy for ever. So it is never loaded into the server: a worker is started when the first request comes, serves
one request at a time, is killed when that takes too long, and ends when it has nothing to do.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

import agentsrv
from agentsrv.errors import AgentsrvError, Unavailable, Unprocessable
from agentsrv.linux import passing_on
from agentsrv.tasks import Tasks
from agentsrv.threads import Pool
from agentsrv.users import NEEDED
from agentsrv.workspace.git.protocol import (
    ANSWER,
    FAILED,
    LENGTH,
    OK,
    READY,
    Request,
    Settings,
    decode_error,
)
from agentsrv.workspace.paths import Workspace

logger = logging.getLogger(__name__)

MAX_WORKERS = 2
START_TIMEOUT_S = 15.0
REQUEST_TIMEOUT_S = 9.0
WAIT_TIMEOUT_S = 20.0
"""How long a request waits for a worker to be free."""
IDLE_S = 300.0
WRITE_TIMEOUT_S = 60.0
MEMORY_BYTES = 1536 * 1024 * 1024

PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from agentsrv.workspace.git.program import main
main(int(sys.argv[2]))
"""

PASSED_VARIABLES = ("LD_LIBRARY_PATH",)
"""See the zygote's."""
ENVIRONMENT = {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}


class GitWorkers:
    """At most MAX_WORKERS processes, started when they are needed. Closing twice is fine.

    `environment` is the server's; nothing but PASSED_VARIABLES is taken from it, and where the user's own git
    settings are. `processes` waits for those that were ended. Workers that `may_write` serve one request each, or
    those that are `forking` have a child do so: what a repository may have done to such a process ends with it.
    """

    def __init__(
        self,
        workspace: Workspace,
        environment: Mapping[str, str],
        processes: Pool,
        *,
        may_write: bool = False,
        is_forking: bool = False,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._settings = Settings(
            base=str(workspace.base),
            private=list(workspace.private),
            private_files=list(workspace.private_files),
            memory_bytes=MEMORY_BYTES,
            may_write=may_write,
            is_forking=is_forking,
            user=None if workspace.user is None else workspace.user.ids,
            home=(home := workspace.user.home if workspace.user else environment.get("HOME")),
            config_home=environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else None),
        )
        passed = {name: environment[name] for name in PASSED_VARIABLES if name in environment}
        # libgit2 takes what `~` means from here.
        self._environment = ENVIRONMENT | passed | ({"HOME": home} if home else {})
        self._request_timeout_s = request_timeout_s
        self._idle_s = idle_s
        self._processes = processes
        self._places = asyncio.Semaphore(MAX_WORKERS)
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._tasks = Tasks("git")

    async def ask(self, request: Request) -> bytes:
        """The answer's JSON object without its closing brace: who sends it adds the rest.

        Raises what the worker raised: Forbidden, NotFound, InvalidInput, Unprocessable. Also Unprocessable
        (`repository_too_slow`, `repository_unreadable`) when it had to be killed or died, and Unavailable when
        all workers are busy for too long or none can be started. Cancelled, it kills the worker.
        """
        try:
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                await self._places.acquire()
        except TimeoutError as exc:
            raise Unavailable("too many git requests at once; try again", retry_after_s=5) from exc
        try:
            return await self._ask_one(request)
        finally:
            self._places.release()

    async def close(self) -> None:
        for worker in list(self._workers):
            self._end(worker)
        await self._tasks.join(START_TIMEOUT_S)

    async def _ask_one(self, request: Request) -> bytes:
        while True:
            worker, is_fresh = await self._take()
            try:
                async with asyncio.timeout(self._request_timeout_s):
                    answer = await worker.ask(request)
            except TimeoutError as exc:
                self._end(worker)
                raise Unprocessable(
                    f"git had not done it within {self._request_timeout_s:g} s",
                    code="repository_too_slow",
                ) from exc
            except (EOFError, ConnectionError) as exc:
                self._end(worker)
                if is_fresh:
                    raise Unprocessable(
                        "reading the repository ended the process that did it", code="repository_unreadable"
                    ) from exc
                # It may have died of something else while it was idle: reading twice does no harm.
            except BaseException:
                self._end(worker)
                raise
            else:
                self._put_back(worker)
                return _body_of(answer)

    async def _take(self) -> tuple[_Worker, bool]:
        """A worker, and whether it is new."""
        if self._is_used_once:
            # What was killed may be in the middle of a write still.
            await self._tasks.join(START_TIMEOUT_S)
        if self._idle:
            worker = self._idle.pop()
            worker.stop_timer()
            return worker, False
        worker = _Worker(self._environment)
        self._workers.add(worker)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await worker.start(self._settings)
        except (TimeoutError, EOFError, ConnectionError) as exc:
            self._end(worker)
            raise Unavailable("the process that reads git repositories does not start") from exc
        except BaseException:
            self._end(worker)
            raise
        return worker, True

    def _put_back(self, worker: _Worker) -> None:
        if self._is_used_once:
            self._end(worker)
        elif worker in self._workers:  # Not after `close`.
            self._idle.append(worker)
            worker.start_timer(self._idle_s, lambda: self._end(worker))

    @property
    def _is_used_once(self) -> bool:
        return self._settings.may_write and not self._settings.is_forking

    def _end(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)
            worker.kill()
            # The kernel takes its time to free half a gigabyte.
            self._tasks.spawn(self._processes.run(worker.wait), name="reap")


class _Worker:
    """One process and the socket to it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        # -I: nothing from the environment, the working directory or the user's own packages. Where this very
        # package and its dependencies were found is where the worker finds them too.
        path = [str(Path(agentsrv.__file__).parents[1]), *(entry for entry in sys.path if entry[:1] == "/")]
        command = [sys.executable, "-I", "-X", "utf8", "-c", PROGRAM, json.dumps(path), str(theirs.fileno())]
        # The worker is the server's program, which its own user need not be able to read: it becomes that one itself.
        with theirs, passing_on(NEEDED.values()):
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=dict(environment),
                start_new_session=True,
            )
        self._socket = ours
        self._writer: asyncio.StreamWriter | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, settings: Settings) -> None:
        """Return when it is ready. Raises EOFError, ConnectionError."""
        self._socket.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._send(settings)
        await self._reader.readexactly(len(READY))

    async def ask(self, request: Request) -> tuple[int, bytes]:
        """The kind of the answer, and its body. Raises EOFError, ConnectionError."""
        self._send(request)
        size, kind = ANSWER.unpack(await self._reader.readexactly(ANSWER.size))
        return kind, await self._reader.readexactly(size)

    def start_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, callback)

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def kill(self) -> None:
        self.stop_timer()
        self._process.kill()
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._socket.close()

    def wait(self) -> None:
        """Blocks until the killed process is gone."""
        self._process.wait()

    def _send(self, message: object) -> None:
        assert self._writer is not None
        data = msgspec.json.encode(message)
        self._writer.write(LENGTH.pack(len(data)) + data)


def _body_of(answer: tuple[int, bytes]) -> bytes:
    kind, body = answer
    if kind == OK:
        return body
    if kind == FAILED:
        raise decode_error(body)
    logger.error("a git worker failed:\n%s", body.decode("utf-8", "replace"))
    raise AgentsrvError(
        "something went wrong while reading the repository; the log has it", code="internal_error"
    )
