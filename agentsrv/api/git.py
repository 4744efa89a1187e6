"""Git as clients see it: which repositories there are, and what has changed in one."""

from __future__ import annotations

import asyncio
import time

from aiohttp import hdrs, web

from agentsrv.api.bodies import read_optional_body
from agentsrv.api.encode import json_response, timestamp, worktree_view
from agentsrv.api.fields import given
from agentsrv.api.keys import CONFIG, GIT, SESSIONS, TURNS, WORKTREES
from agentsrv.api.operations import Operation
from agentsrv.api.refusals import attended
from agentsrv.api.schemas.git import (
    CleanedWorktree,
    CleanUpWorktrees,
    DiffQuery,
    DiffView,
    Merge,
    Merged,
    RemoveWorktreeQuery,
    RepositoryList,
    WorktreeList,
    WorktreeRemoved,
    WorktreesCleaned,
)
from agentsrv.api.urls import read_query, session_id_of
from agentsrv.model import SessionId, TurnId
from agentsrv.workspace.git.protocol import DiffRequest, FindRepositories, Request

SLICE_BYTES = 256 * 1024
DAY_MS = 24 * 3600 * 1000


async def list_repositories(request: web.Request) -> web.StreamResponse:
    """The git repositories and linked worktrees of the workspace: roots first, then their worktrees."""
    return await _answer(request, FindRepositories())


async def get_diff(request: web.Request) -> web.StreamResponse:
    """What has changed in a repository, by file, hunk and line.

    Without `head`: `base` (HEAD) against the working tree, untracked files included, or with `staged` against
    the index. `turn:<taskId>` is the beginning of a job as `base`, its end as `head`; `session:<id>` that of a session.
    """
    query = read_query(request, DiffQuery)
    question = DiffRequest(
        path=query.path or await _directory_of(request, query.base or query.head),
        base=query.base or None,
        head=query.head or None,
        staged=query.staged,
        context=query.context,
        merge_base=query.merge_base,
        paths=query.paths,
        summary=query.summary,
        copies=query.copies,
        ignore_whitespace=query.ignore_whitespace,
        ignore_blank_lines=query.ignore_blank_lines,
        submodules=query.submodules,
    )
    return await _answer(request, question)


async def _directory_of(request: web.Request, revision: str) -> str:
    """Where the session works that a diff is about. Raises NotFound."""
    kind, _, name = revision.partition(":")
    if kind == "turn":
        kind, name = "session", (await request.app[TURNS].get(TurnId(name))).session_id
    return (await request.app[SESSIONS].get(SessionId(name))).cwd if kind == "session" else ""


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


async def clean_up_worktrees(request: web.Request) -> web.Response:
    """Remove the worktrees whose sessions are gone and that nobody has used for long, to the trash.

    One in which something would be lost is kept, unless with `force`. With `dryRun` nothing is removed.
    """
    body = await read_optional_body(request, CleanUpWorktrees)
    done = await request.app[WORKTREES].clean_up(
        older_than_ms=round(time.time() * 1000) - round(body.older_than_days * DAY_MS),
        force=body.force,
        is_dry=body.dry_run,
    )
    views = [
        CleanedWorktree(path=each.worktree.path, branch=each.branch, reason=each.kept_because)
        for each in done
    ]
    return json_response(
        WorktreesCleaned(
            removed=[view for view in views if view.reason is None],
            kept=[view for view in views if view.reason is not None],
            dry_run=body.dry_run,
            timestamp=timestamp(),
        )
    )


async def merge(request: web.Request) -> web.Response:
    """Take the commits of the session's worktree into another branch, all or nothing.

    409 `merge_conflicts` names the files that do not fit together; nothing has changed then.
    """
    body = await read_optional_body(request, Merge)
    session = await request.app[SESSIONS].get(session_id_of(request))
    request.app[TURNS].require_idle(session.id)
    done = await request.app[WORKTREES].merge(
        session, into=given(body.into), how=body.how, message=given(body.message)
    )
    return json_response(
        Merged(
            merged=done.commit != done.before,
            into=done.into,
            branch=done.branch,
            how=body.how,
            commit=done.commit,
            before=done.before,
            fast_forward=done.is_fast_forward,
            timestamp=timestamp(),
        )
    )


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
    async with attended(request):
        return await request.app[GIT].ask(question)


# fmt: off
ROUTES = (
    Operation("GET", "/git/repositories", list_repositories, {200: RepositoryList}, (503,)),
    Operation("GET", "/git/worktrees", list_worktrees, {200: WorktreeList}, (503,)),
    Operation("DELETE", "/git/worktrees", remove_worktree, {200: WorktreeRemoved}, (404, 409, 422, 503, 507),
              query=RemoveWorktreeQuery),
    Operation("POST", "/git/worktrees/clean-up", clean_up_worktrees, {200: WorktreesCleaned}, (503, 507),
              body=CleanUpWorktrees, is_body_required=False),
    Operation("POST", "/sessions/{session_id}/merge", merge, {200: Merged}, (404, 409, 422, 503, 507),
              body=Merge, is_body_required=False),
    Operation("GET", "/git/diff", get_diff, {200: DiffView}, (404, 422, 503), query=DiffQuery),
)
# fmt: on
