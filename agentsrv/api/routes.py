"""Every URL. The router, the OpenAPI document and the check for a key are made from this one table."""

from __future__ import annotations

import asyncio

from aiohttp import web

from agentsrv.api import (
    agents,
    env,
    files,
    generate,
    git,
    health,
    jobs,
    openapi,
    permissions,
    queue,
    sessions,
    terminal,
)
from agentsrv.api import schemas as s
from agentsrv.api.decode import MAX_LARGE_BODIES, continue_later
from agentsrv.api.keys import CONFIG, LARGE_BODIES, OPERATIONS, PARSING, PUBLIC, STREAMED
from agentsrv.api.middleware import add_headers
from agentsrv.api.openapi import BYTES, EVENT_STREAM, FORM, GZIP, HTML, JSON, NO_BODY, Operation

# fmt: off
ROUTES = (
    Operation("GET", "/", health.welcome, {200: s.Welcome}, is_public=True),
    Operation("GET", "/health", health.health, {200: s.HealthView, 503: s.HealthView}, is_public=True),
    Operation("GET", "/health/ready", health.ready, {200: s.Ready}, (503,)),
    Operation("GET", "/openapi.json", openapi.openapi, {200: JSON}, is_public=True),
    Operation("GET", "/docs", openapi.docs, {200: HTML}, is_public=True),

    Operation("GET", "/sessions", sessions.list_sessions, {200: s.SessionList}, query=s.ListSessions),
    Operation("POST", "/sessions", sessions.create_session, {201: s.SessionView}, (409, 507),
              body=s.CreateSession),
    Operation("GET", "/sessions/{session_id}", sessions.get_session, {200: s.SessionView}, (404,)),
    Operation("PUT", "/sessions/{session_id}", sessions.update_session, {200: s.SessionView}, (404, 507),
              body=s.UpdateSession),
    Operation("DELETE", "/sessions/{session_id}", sessions.delete_session, {200: s.SessionDeleted},
              (404, 409, 422, 503, 507), query=s.DeleteSession),
    Operation("POST", "/sessions/{session_id}/fork", sessions.fork_session, {201: s.SessionView},
              (404, 409, 507), body=s.ForkSession, is_body_required=False),
    Operation("GET", "/sessions/{session_id}/messages", sessions.list_messages, {200: s.MessageList}, (404,),
              query=s.ListMessages),
    Operation("GET", "/sessions/{session_id}/events", sessions.follow_session, {200: EVENT_STREAM},
              (404, 410), query=s.Follow, headers=("Last-Event-ID",)),

    Operation("POST", "/generate/v2", generate.generate, {200: EVENT_STREAM, 202: s.JobAccepted},
              (404, 409, 422, 429, 503, 507), body=s.Generate, headers=("Idempotency-Key",)),
    Operation("GET", "/generate/v2/jobs", jobs.list_jobs, {200: s.JobList}, query=s.ListJobs),
    Operation("GET", "/generate/v2/jobs/{task_id}", jobs.get_job, {200: s.JobView}, (404,), query=s.GetJob),
    Operation("GET", "/generate/v2/jobs/{task_id}/stream", jobs.follow_job, {200: EVENT_STREAM, 204: NO_BODY},
              (404, 410), query=s.Follow, headers=("Last-Event-ID",)),
    Operation("GET", "/generate/v2/jobs/{task_id}/permissions", permissions.list_job_permissions,
              {200: s.PermissionList}, (404,)),
    Operation("POST", "/generate/v2/jobs/{task_id}/permissions/{request_id}", permissions.answer_permission,
              {200: s.PermissionAnswered}, (404, 409, 507), body=s.AnswerPermission),
    Operation("GET", "/permissions", permissions.list_permissions, {200: s.PermissionList}),
    Operation("GET", "/sessions/{session_id}/queue", queue.list_queue, {200: s.QueueList}, (404,)),
    Operation("PUT", "/sessions/{session_id}/queue", queue.arrange_queue, {200: s.QueueList}, (404, 409, 507),
              body=s.ArrangeQueue),
    Operation("DELETE", "/sessions/{session_id}/queue", queue.clear_queue, {200: s.JobsCancelled}, (404, 507)),
    Operation("DELETE", "/sessions/{session_id}/queue/{task_id}", queue.cancel_queued, {200: s.JobsCancelled},
              (404, 507)),
    Operation("DELETE", "/generate/{session_id}/stop", generate.stop, {200: s.Stopped}, (404, 503),
              body=s.Stop, is_body_required=False),

    Operation("POST", "/terminal/token", terminal.create_terminal_token, {200: s.TerminalTokenView}, (503,),
              body=s.CreateTerminalToken),
    Operation("GET", "/ws/terminal", terminal.open_terminal, {101: NO_BODY}, (401, 404, 429, 503, 507),
              query=s.OpenTerminal, is_public=True),
    Operation("GET", "/terminals", terminal.list_terminals, {200: s.TerminalList}),
    Operation("DELETE", "/terminals/{terminal_id}", terminal.delete_terminal, {200: s.TerminalEnded}, (404,)),

    Operation("GET", "/filesystem/files", files.list_files, {200: s.FileList}, (404, 429), query=s.ListFiles),
    Operation("GET", "/filesystem/search", files.search_files, {200: s.FileList}, (404, 429), query=s.SearchFiles),
    Operation("GET", "/filesystem/grep", files.grep_files, {200: s.LineList}, (404, 429), query=s.GrepFiles),
    Operation("GET", "/filesystem/watch", files.watch_directory, {200: EVENT_STREAM}, (404, 429, 503),
              query=s.WatchDirectory),
    Operation("GET", "/filesystem/archive", files.archive_directory, {200: GZIP}, (404, 429),
              query=s.ArchiveDirectory),
    Operation("GET", "/filesystem/content", files.read_file, {200: BYTES, 206: BYTES, 304: NO_BODY},
              (404, 416, 429), query=s.FileQuery, headers=("Range", "If-None-Match", "If-Range")),
    Operation("PUT", "/filesystem/content", files.write_file, {200: s.FileView, 201: s.FileView},
              (409, 412, 429, 507), body=BYTES, query=s.FileQuery, headers=("If-Match", "If-None-Match")),
    Operation("POST", "/filesystem/upload", files.upload_files, {201: s.FilesUploaded}, (409, 429, 507),
              body=FORM),
    Operation("POST", "/filesystem/directory", files.make_directory, {201: s.DirectoryMade}, (404, 409, 507),
              body=s.MakeDirectory),
    Operation("POST", "/filesystem/move", files.move_entry, {200: s.EntryMoved}, (404, 409, 507),
              body=s.MoveEntry),
    Operation("DELETE", "/filesystem/entry", files.delete_entry, {200: s.EntryDeleted}, (404, 409),
              query=s.DeleteEntry),

    Operation("GET", "/git/repositories", git.list_repositories, {200: s.RepositoryList}, (503,)),
    Operation("GET", "/git/worktrees", git.list_worktrees, {200: s.WorktreeList}, (503,)),
    Operation("DELETE", "/git/worktrees", git.remove_worktree, {200: s.WorktreeRemoved}, (404, 409, 422, 503, 507),
              query=s.RemoveWorktreeQuery),
    Operation("GET", "/git/diff", git.get_diff, {200: s.DiffView}, (404, 422, 503), query=s.DiffQuery),

    Operation("GET", "/agents", agents.list_agents, {200: s.AgentList}),
    Operation("GET", r"/env/{names:[\s\S]*}", env.check_environment, {200: JSON}, (400,)),
)
# fmt: on


def setup(app: web.Application) -> None:
    """Add the routes, and the headers that every answer has, to an application that holds CONFIG."""
    app[OPERATIONS] = ROUTES
    app[PUBLIC] = frozenset(op.handler for op in ROUTES if op.is_public)
    app[LARGE_BODIES] = asyncio.Semaphore(MAX_LARGE_BODIES)
    app[PARSING] = asyncio.Lock()
    app[STREAMED] = frozenset(op.handler for op in ROUTES if isinstance(op.body, str))
    # Where earlier clients look for files. First, so that `filesystem` is not taken for a session.
    for op in ROUTES:
        if op.path.startswith("/filesystem/"):
            _add(app, op, f"/sessions{op.path}")
    for op in ROUTES:
        _add(app, op, op.path, name=op.name)
    # Load balancers like to add the slash.
    app.router.add_get("/health/", health.health)
    app.on_response_prepare.append(add_headers(app[CONFIG]))


def _add(app: web.Application, op: Operation, path: str, *, name: str | None = None) -> None:
    for method in ("GET", "HEAD") if op.method == "GET" else (op.method,):
        app.router.add_route(method, path, op.handler, name=name, expect_handler=continue_later)
