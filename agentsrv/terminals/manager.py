"""All terminals of a server: opens, finds, ends them, and takes them over from an earlier server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec.structs import asdict

from agentsrv.config import Config
from agentsrv.errors import Forbidden, LimitReached, NotFound, StorageFull, Unavailable
from agentsrv.fleet.homes import Homes
from agentsrv.model import RunnerId, TerminalId
from agentsrv.programs import child_environment, is_executable
from agentsrv.runner.attach import attach
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.records import parse, read_record
from agentsrv.runner.room import runner_room
from agentsrv.runner.spec import RunnerError, RunnerSpec
from agentsrv.runner.zygote import Zygote
from agentsrv.tasks import Tasks
from agentsrv.terminals.ring import Ring
from agentsrv.terminals.terminal import END_GRACE_S, Attention, Terminal, TerminalInfo, Viewer
from agentsrv.terminals.tokens import Grant
from agentsrv.threads import Threads

log = logging.getLogger(__name__)

FIRST_SIZE = (80, 24)
"""Until a viewer says what it has."""
ATTACH_AT_ONCE = 16
TIDY_UP_S = 1.0
NO_SHELLS = frozenset({"false", "nologin", "sync"})


class TerminalManager:
    """At most MAX_TERMINALS terminals. `find_directory` checks a path from outside, each time it is used."""

    def __init__(
        self,
        config: Config,
        zygote: Zygote,
        threads: Threads,
        find_directory: Callable[[str | None], Awaitable[Path]],
        homes: Homes,
    ) -> None:
        self._homes = homes
        self._threads = threads
        self._config = config
        self._zygote = zygote
        self.find_directory = find_directory
        self._room = runner_room(config.state_dir / "terminals", "ring|info")
        self._tasks = Tasks("terminals")
        self._terminals: dict[TerminalId, Terminal] = {}
        self._opening = asyncio.Lock()
        self._attention = Attention()
        self._is_draining = False

    async def recover(self) -> None:
        """Take over the terminals that an earlier server left to their runners; clear away what ended."""
        slots = asyncio.Semaphore(ATTACH_AT_ONCE)

        async def take_over(directory: Path) -> None:
            async with slots:
                await self._take_over(directory)

        await self._threads.state.run(self._room.prepare)
        await asyncio.gather(*map(take_over, await self._threads.state.run(self._room.members)))

    async def attach(self, grant: Grant) -> Viewer:
        """A viewer of the terminal that `grant` names, which is opened when it is not there yet.

        Raises NotFound (to watch, where nothing is), Forbidden (another deployment's), LimitReached, Unavailable,
        StorageFull, and what
        `find_directory` does.
        """
        if self._is_draining:
            raise Unavailable("the server is shutting down; try again soon", code="draining")
        terminal = self._terminals.get(grant.terminal_id)
        if terminal is None:
            async with self._opening:
                terminal = self._terminals.get(grant.terminal_id) or await self._open(grant)
        if terminal.info.deployment_id != grant.deployment_id:
            raise Forbidden(
                f"terminal {grant.terminal_id} is another deployment's; choose another terminalId",
                code="wrong_deployment",
            )
        return terminal.attach(may_write=not grant.is_read_only)

    def list_terminals(self) -> list[Terminal]:
        """Oldest first."""
        return sorted(self._terminals.values(), key=lambda terminal: terminal.info.created_at)

    async def end(self, terminal_id: TerminalId) -> None:
        """Return when the shell and all that it started are gone. Raises NotFound."""
        await self.find(terminal_id).end()

    def has(self, terminal_id: TerminalId) -> bool:
        return terminal_id in self._terminals

    def find(self, terminal_id: TerminalId) -> Terminal:
        """Raises NotFound."""
        if (terminal := self._terminals.get(terminal_id)) is None:
            raise _not_found(terminal_id)
        return terminal

    def drain(self) -> None:
        """Open and attach no more, and dismiss every viewer."""
        self._is_draining = True
        for terminal in self._terminals.values():
            for viewer in terminal.viewers:
                viewer.dismiss()

    async def close(self) -> None:
        """Leave the shells to their runners, for the next server."""
        self.drain()
        for terminal in self._terminals.values():
            terminal.leave_running()
        self._terminals.clear()
        await self._tasks.join(TIDY_UP_S)
        await self._tasks.close()

    # ---- opening

    async def _open(self, grant: Grant) -> Terminal:
        if grant.is_read_only:
            raise _not_found(grant.terminal_id)
        if len(self._terminals) >= self._config.max_terminals:
            raise LimitReached(
                f"there are {len(self._terminals)} terminals; end one first", code="too_many_terminals"
            )
        info = TerminalInfo(
            id=grant.terminal_id,
            deployment_id=grant.deployment_id,
            shell=find_shell(self._config),
            cwd=str(await self.find_directory(grant.cwd)),
            created_at=time.time_ns() // 1_000_000,
        )
        await self._homes.claim_terminal(grant.terminal_id)
        directory = self._room.path / uuid.uuid4().hex
        try:
            await self._threads.state.run(prepare, directory, info)
            handle = await self._zygote.spawn(self._spec(directory, info))
        except BaseException as exc:
            self._discard(directory)
            self._release(grant.terminal_id)
            if isinstance(exc, OSError) or (isinstance(exc, RunnerError) and exc.about == "disk"):
                raise StorageFull(f"a terminal needs space in STATE_DIR: {exc}") from exc
            if isinstance(exc, RunnerError):
                raise Unavailable(
                    f"the shell could not be started: {exc}", code="terminal_unavailable"
                ) from exc
            raise
        return self._adopt(info, handle)

    def _spec(self, directory: Path, info: TerminalInfo) -> RunnerSpec:
        environment = child_environment(self._config.environment, self._config.agent_env)
        return RunnerSpec(
            id=RunnerId(directory.name),
            argv=(info.shell, *self._config.terminal_shell[1:]),
            # As a login shell, unless it has arguments of its own: with the PATH of the user's profile.
            name="" if self._config.terminal_shell[1:] else f"-{Path(info.shell).name}",
            cwd=info.cwd,
            env={
                **environment,
                "SHELL": info.shell,
                "TERM": "xterm-256color",
                "COLORTERM": "truecolor",
                "DEPLOYMENT_ID": info.deployment_id,
                "TERMINAL_ID": info.id,
            },
            directory=directory,
            quota_bytes=0,
            orphan_s=self._config.terminal_linger_s,
            grace_s=END_GRACE_S,
            pty=FIRST_SIZE,
            user=self._config.agent_user,
        )

    async def _take_over(self, directory: Path) -> None:
        found = await attach(directory, self._threads.processes, expects_pty=True)
        info = await self._threads.state.run(read_info, directory)
        if isinstance(found, RunnerHandle) and found.has_pty and info is not None:
            try:
                self._adopt(info, found).begin()
                return
            except (OSError, ValueError) as exc:
                # No terminal, or no ring: a shell may write to all of these.
                log.warning("the terminal %s cannot be taken over: %s", directory.name, exc)
        if isinstance(found, RunnerHandle):
            await found.kill(0.0)
        self._discard(directory)

    def _adopt(self, info: TerminalInfo, handle: RunnerHandle) -> Terminal:
        terminal = Terminal(
            info,
            handle,
            Ring(handle.directory / "ring"),
            attention=self._attention,
            folding=self._threads.folding,
            linger_s=self._config.terminal_linger_s,
            on_idle=lambda terminal: self._tasks.spawn(terminal.end(), name=f"end:{terminal.info.id}"),
            on_end=self._ended,
        )
        self._terminals[info.id] = terminal
        return terminal

    def _ended(self, terminal: Terminal) -> None:
        if self._terminals.get(terminal.info.id) is terminal:
            del self._terminals[terminal.info.id]
            self._release(terminal.info.id)
        self._discard(terminal.handle.directory)

    def _release(self, terminal_id: TerminalId) -> None:
        self._tasks.spawn(self._homes.release_terminal(terminal_id), name=f"release:{terminal_id}")

    def _discard(self, directory: Path) -> None:
        remove = self._threads.state.run(self._room.remove, directory.name)
        self._tasks.spawn(remove, name=f"discard:{directory.name}")


def prepare(directory: Path, info: TerminalInfo) -> None:
    """Make a terminal's directory. Blocking. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True)
    Ring.create(directory / "ring")
    (directory / "info").touch(mode=0o600)
    (directory / "info").write_text(json.dumps(asdict(info)))


def read_info(directory: Path) -> TerminalInfo | None:
    """None when the server was killed before it had written it, or it is of another version. Blocking."""
    try:
        return parse(read_record(directory / "info"), TerminalInfo)
    except ValueError:
        return None


def find_shell(config: Config) -> str:
    """The program of TERMINAL_SHELL, else the user's shell, else what every system has."""
    if config.terminal_shell:
        return config.terminal_shell[0]
    own = Path(config.environment.get("SHELL") or os.devnull)
    if own.is_absolute() and own.name not in NO_SHELLS and is_executable(own):
        return str(own)
    return "/bin/bash" if is_executable(Path("/bin/bash")) else "/bin/sh"


def _not_found(terminal_id: TerminalId) -> NotFound:
    return NotFound(
        f"there is no terminal {terminal_id}; GET /terminals lists all", code="terminal_not_found"
    )
