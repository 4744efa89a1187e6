"""The program that a git worker runs: reads requests from a socket, one after the other, until it is closed.

It works on what agents made and what came from the network, so it keeps little to lose: no secrets in its
environment, no right to write a file (but for the few that make worktrees), to read one outside of the workspace or
to start a program, a limit on memory. The server kills it when a request takes too long. `workers.py` is the other end.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import traceback
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import pygit2
from pygit2.enums import ConfigLevel

from agentsrv.errors import AgentsrvError, Unprocessable
from agentsrv.linux import become, die_with_parent, gain_no_privileges
from agentsrv.workspace.git import merging, snapshot_writer, worktrees
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.protocol import (
    ANSWER,
    BROKEN,
    FAILED,
    LENGTH,
    OK,
    READY,
    DiffRequest,
    DiscardWorktree,
    DropSnapshots,
    FindRepositories,
    FindWorktrees,
    MakeWorktree,
    MergeWorktree,
    RemoveWorktree,
    Request,
    RestoreWorktree,
    Settings,
    TakeSnapshot,
    encode_error,
)
from agentsrv.workspace.git.repositories import discover
from agentsrv.workspace.git.surroundings import Surroundings
from agentsrv.workspace.paths import Workspace

EXTENSIONS = ["partialclone"]
"""What a repository may ask for besides what libgit2 knows. Objects that a partial clone left out are not
fetched: they count as unreadable."""


PATIENCE_S, NUDGE_S = 3.0, 0.02
"""How long a request goes on undisturbed, and how often it is nudged then."""


def main(descriptor: int) -> None:
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as requests:
        settings = msgspec.json.decode(_receive(requests), type=Settings)
        workspace = Workspace(
            Path(settings.base), map(Path, settings.private), map(Path, settings.private_files)
        )
        if settings.user is not None:
            become(*settings.user)
        give_up_rights(settings)
        configure_libgit2(settings.home, settings.config_home)
        surroundings = Surroundings(settings.home, settings.config_home)
        if not settings.may_write:
            # Who makes snapshots or worktrees shows nothing of what it reads; and in a tree of a thousand levels the
            # kernel's looking takes seconds.
            surroundings.confine(workspace.base)
        signal.signal(signal.SIGALRM, lambda *_: None)
        # What is there now stays, and need not be looked at by the collector again.
        gc.collect()
        gc.freeze()
        connection.sendall(READY)
        while data := _receive(requests):
            if surroundings.have_changed:
                return  # Another worker, which may read the new ones, is asked instead.
            if not settings.is_forking:
                serve(workspace, data, connection)
            elif not serve_in_child(workspace, data, connection):
                return


def serve(workspace: Workspace, data: bytes, connection: socket.socket) -> None:
    # A repository may have a named pipe where a file should be, and libgit2 waits for ever for somebody
    # to write to it. A signal ends that wait, and with it the reading of that one repository.
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S, NUDGE_S)
    kind, body = answer(workspace, data)
    signal.setitimer(signal.ITIMER_REAL, 0)
    connection.sendall(ANSWER.pack(len(body), kind))
    connection.sendall(body)


def serve_in_child(workspace: Workspace, data: bytes, connection: socket.socket) -> bool:
    """What a repository may do to the process that writes to it ends with the request. False when it died of it."""
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    try:
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        serve(workspace, data, connection)
        os._exit(0)
    finally:
        os._exit(1)


def answer(workspace: Workspace, data: bytes) -> tuple[int, bytes]:
    try:
        return OK, handle(workspace, msgspec.json.decode(data, type=Request))
    except AgentsrvError as exc:
        return FAILED, encode_error(exc)
    except MemoryError:
        exhausted = Unprocessable(
            "this takes more memory than git requests may use", code="repository_too_large"
        )
        return FAILED, encode_error(exhausted)
    except Exception:
        return BROKEN, traceback.format_exc().encode("utf-8", "replace")


def handle(workspace: Workspace, request: Request) -> bytes:
    """The answer's JSON object, without its closing brace."""
    match request:
        case DiffRequest():
            return diff(workspace, request)
        case FindRepositories():
            repositories, is_truncated = discover(workspace)
            body = {"repositories": repositories, "count": len(repositories), "truncated": is_truncated}
            return msgspec.json.encode(body)[:-1]
        case FindWorktrees():
            return msgspec.json.encode(worktrees.find_all(workspace))[:-1]
        case MergeWorktree():
            return msgspec.json.encode(merging.merge(workspace, request))[:-1]
        case TakeSnapshot():
            snapshot_writer.take(workspace, request)
            return b"{"
        case DropSnapshots():
            snapshot_writer.drop(workspace, request)
            return b"{"
        case MakeWorktree():
            return msgspec.json.encode(worktrees.make(workspace, request))[:-1]
        case DiscardWorktree():
            worktrees.discard(workspace, request)
            return b"{"
        case RestoreWorktree():
            return msgspec.json.encode(worktrees.restore(workspace, request))[:-1]
        case RemoveWorktree():
            return msgspec.json.encode(worktrees.remove(workspace, request))[:-1]


def give_up_rights(settings: Settings) -> None:
    """Nothing here needs them; should libgit2 have a hole, it leads to less."""
    die_with_parent()
    gain_no_privileges()
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: settings.memory_bytes,
    }
    if not settings.is_forking:
        limits[resource.RLIMIT_NPROC] = 0
    if not settings.may_write:
        limits[resource.RLIMIT_FSIZE] = 0
    for limit, value in limits.items():
        with suppress(ValueError):  # A lower one is set already.
            resource.setrlimit(limit, (value, value))


def configure_libgit2(home: str | None = None, config_home: str | None = None) -> None:
    """The user's own settings count, as far as they name no program: libgit2 runs none for what is done here."""
    settings = pygit2.settings
    # Containers mount repositories of other users. What the check protects from, hooks and commands in the
    # configuration, libgit2 does not run here.
    settings.owner_validation = False
    # Objects are read, not trusted; what does not inflate or parse is an error without this too.
    settings.enable_strict_hash_verification(False)
    settings.set_extensions(EXTENSIONS)
    settings.search_path[ConfigLevel.PROGRAMDATA] = ""
    settings.search_path[ConfigLevel.SYSTEM] = "/etc" if home else ""
    settings.search_path[ConfigLevel.GLOBAL] = home or ""
    settings.search_path[ConfigLevel.XDG] = f"{config_home}/git" if config_home else ""


def _receive(requests: BinaryIO) -> bytes:
    """The next message; empty when the server has closed the connection."""
    head = requests.read(LENGTH.size)
    return requests.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
