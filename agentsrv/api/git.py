"""Git as clients see it: which repositories there are, and what has changed in one."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from agentsrv.api.decode import read_query
from agentsrv.api.encode import json_response, timestamp, worktree_view
from agentsrv.api.keys import CONFIG, GIT, WORKTREES
from agentsrv.api.middleware import is_gone
from agentsrv.api.schemas import DiffQuery, RemoveWorktreeQuery, WorktreeList, WorktreeRemoved
from agentsrv.workspace.git_protocol import DiffRequest, FindRepositories, Request

SLICE_BYTES = 256 * 1024
WATCH_STEP_S = 0.5
"""How soon it is noticed that the client has left, so that a worker does not go on for nobody."""


async def list_repositories(request: web.Request) -> web.StreamResponse:
    """The git repositories and linked worktrees of the workspace: roots first, then their worktrees."""
    return await _answer(request, FindRepositories())


async def get_diff(request: web.Request) -> web.StreamResponse:
    """What has changed in a repository, by file, hunk and line.

    Without `head`: `base` (HEAD) against the working tree, untracked files included, or with `staged` against
    the index.
    """
    query = read_query(request, DiffQuery)
    question = DiffRequest(
        path=query.path,
        base=query.base or None,
        head=query.head or None,
        staged=query.staged,
        context=query.context,
        merge_base=query.merge_base,
        paths=query.paths,
        summary=query.summary,
        copies=query.copies,
    )
    return await _answer(request, question)


async def list_worktrees(request: web.Request) -> web.Response:
    """The git worktrees that were made for sessions, also those whose session is gone."""
    found = await request.app[WORKTREES].list_all()
    views = [worktree_view(item) for item in found]
    return json_response(WorktreeList(worktrees=views, count=len(views), timestamp=timestamp()))


async def remove_worktree(request: web.Request) -> web.Response:
    """Remove a worktree whose session is gone, and its branch; 409 when something would be lost with them.

    `force=true` removes them all the same.
    """
    query = read_query(request, RemoveWorktreeQuery)
    removed = await request.app[WORKTREES].remove(query.path, force=query.force)
    return json_response(WorktreeRemoved(path=removed.path, branch=removed.branch, timestamp=timestamp()))


async def _answer(request: web.Request, question: Request) -> web.StreamResponse:
    """Pass on what the worker made. It is JSON already; only the closing brace is ours to add."""
    body = await _ask(request, question)
    end = f',"timestamp":"{timestamp()}"}}'.encode()
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json; charset=utf-8"})
    response.content_length = len(body) + len(end)
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    try:
        view = memoryview(body)
        for start in range(0, len(view), SLICE_BYTES):
            async with asyncio.timeout(request.app[CONFIG].stall_timeout_s):
                await response.write(view[start : start + SLICE_BYTES])
        await response.write_eof(end)
    except TimeoutError:
        # Nothing can be said any more to a client that does not read.
        if request.transport is not None:
            request.transport.abort()
    return response


async def _ask(request: web.Request, question: Request) -> bytes:
    """Raises ConnectionResetError when the client leaves; the worker is stopped then."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as scope:
            timer: asyncio.TimerHandle | None = None

            def watch() -> None:
                nonlocal timer
                if is_gone(request):
                    scope.reschedule(loop.time())
                else:
                    timer = loop.call_later(WATCH_STEP_S, watch)

            watch()
            try:
                return await request.app[GIT].ask(question)
            finally:
                if timer is not None:
                    timer.cancel()
    except TimeoutError as exc:
        raise ConnectionResetError("the client has left") from exc
