"""What the server's answers hold. Fields are those of docs/http-api.md, in Python's spelling; times are its ISO texts.

What a later server adds is ignored; what an earlier one leaves out has its default.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from agentsrv.client.errors import JobFailed

FINAL = frozenset({"completed", "failed", "cancelled", "interrupted"})
"""Statuses of a job that has ended."""


class Answer(Struct, frozen=True, kw_only=True, rename="camel"):
    """Of a server."""


class ForkedFrom(Answer, frozen=True, kw_only=True):
    """Where a fork comes from: a session, and its last event that counts."""

    session_id: str
    event_id: int


class Session(Answer, frozen=True, kw_only=True):
    """A conversation. `active_task_id` is the job that runs, `preview` how its first prompt begins."""

    id: str
    name: str | None
    agent: str
    cwd: str
    model: str | None = None
    internal_session_id: str | None = None
    created_at: str
    updated_at: str
    is_streaming: bool
    active_task_id: str | None = None
    worktree: str | None = None
    preview: str | None = None
    archived_at: str | None = None
    permission_mode: str | None = None
    effort: str | None = None
    tags: list[str] = []
    metadata: dict[str, str] = {}
    forked_from: ForkedFrom | None = None


class JobInfo(Answer, frozen=True, kw_only=True):
    """A job as it was when the server was asked. `cost_usd` is its own, where the agent tells it.

    `result` is what the agent says that it said last, cut when it is long; JobResult has all of it. Lists leave
    out what may be large.
    """

    task_id: str
    session_id: str
    status: str
    created_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    code: str | None = None
    first_event_id: int = 0
    last_event_id: int = 0
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    structured_output: Any = None
    result: str | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


class SessionActivity(Session, frozen=True, kw_only=True):
    """A session and what goes on in it: `idle`, `queued`, `running`, `waiting` for an answer, or `failed`.

    `doing` is the tool that runs.
    """

    status: str
    doing: str | None = None
    last_job: JobInfo | None = None
    pending_permissions: int = 0
    queued: int = 0
    cost_usd: float | None = None


class Permission(Answer, frozen=True, kw_only=True):
    """A question that waits, to be shown; `client.permissions` has those that can be answered."""

    request_id: str
    task_id: str
    session_id: str
    kind: str
    tool: str
    title: str
    input: dict[str, Any]
    tool_call_id: str | None = None
    created_at: str
    expires_at: str | None = None


class Activity(Answer, frozen=True, kw_only=True):
    """How all stands: the newest sessions, and everything that is asked."""

    sessions: list[SessionActivity]
    permissions: list[Permission]


class JobResult(Struct, frozen=True, kw_only=True):
    """How a job has ended. `text` is the agent's last message."""

    job: JobInfo
    text: str

    @property
    def status(self) -> str:
        return self.job.status

    @property
    def usage(self) -> dict[str, Any] | None:
        return self.job.usage

    @property
    def cost_usd(self) -> float | None:
        return self.job.cost_usd

    @property
    def structured_output(self) -> Any:
        return self.job.structured_output

    def raise_for_status(self) -> None:
        """Raises JobFailed unless the job is `completed`."""
        if self.status != "completed":
            message = self.job.error or f"the job is {self.status}"
            raise JobFailed(self.status, self.job.code or "", message)


class QueuedPrompt(Answer, frozen=True, kw_only=True):
    """A job that waits in its session; `position` 1 is the next one, `prompt` how it begins."""

    task_id: str
    position: int
    prompt: str
    created_at: str


class Timer(Answer, frozen=True, kw_only=True):
    """What a session's agent has planned. `schedule`: it comes again, as cron says it; None: once."""

    timer_id: str
    at: str
    schedule: str | None
    prompt: str


class BackgroundTask(Answer, frozen=True, kw_only=True):
    """What a session's agent has left running: a `command`, or an `agent` that helps."""

    id: str
    kind: str
    title: str


class PermissionAnswer(Answer, frozen=True, kw_only=True):
    """What was answered."""

    request_id: str
    task_id: str
    decision: str
    remember: str | None = None


class Agent(Answer, frozen=True, kw_only=True):
    """An agent of the server. `usable`: it is there, and so are credentials; else `problem` says why not."""

    name: str
    version: str | None
    path: str | None
    available: bool
    usable: bool
    problem: str | None
    credentials: list[str]
    models: list[str]
    efforts: list[str]
    model_efforts: dict[str, list[str]]
    permission_modes: list[str]
    options: list[str]


class Terminal(Answer, frozen=True, kw_only=True):
    """A shell that runs. `clients`: how many look at it."""

    terminal_id: str
    deployment_id: str
    shell: str
    cwd: str
    pid: int
    cols: int
    rows: int
    clients: int
    created_at: str


class TerminalToken(Answer, frozen=True, kw_only=True):
    """Opens one WebSocket on a terminal, within a minute."""

    token: str
    expires_at: str
    deployment_id: str
    terminal_id: str

    def __repr__(self) -> str:
        return f"TerminalToken(terminal_id={self.terminal_id!r}, expires_at={self.expires_at!r})"


class DeviceToken(Answer, frozen=True, kw_only=True):
    """A device's own key, shown this once. It may do what the one may that it was made with, and ends with it."""

    id: str
    name: str
    token: str
    expires_at: str | None = None

    def __repr__(self) -> str:
        return f"DeviceToken({self.name!r})"


class Key(Answer, frozen=True, kw_only=True):
    """A named key, without its secret. `expires_at`: when it ends if it is not used until then."""

    id: str
    name: str
    scopes: list[str]
    created_at: str
    used_at: str
    expires_at: str | None = None


class Entry(Answer, frozen=True, kw_only=True):
    """A file, directory, link or something else. `uri` is there when the name is not UTF-8."""

    name: str
    path: str
    type: str
    in_git_repo: bool
    git_root: str | None = None
    size: int | None = None
    modified_at: str | None = None
    target_type: str | None = None
    ignored: bool = False
    denied: bool = False
    mount: bool = False
    uri: str | None = None


class Listing(Answer, frozen=True, kw_only=True):
    """What is below a directory, or what was found. `truncated`: there is more."""

    path: str
    full_path: str
    entries: list[Entry]
    count: int
    truncated: bool


class LineMatch(Answer, frozen=True, kw_only=True):
    """A line that has what was looked for; `line` and `column` count from 1."""

    path: str
    line: int
    column: int
    text: str


class Matches(Answer, frozen=True, kw_only=True):
    """Lines of a directory's files. `truncated`: there are more."""

    path: str
    full_path: str
    matches: list[LineMatch]
    count: int
    truncated: bool


class WrittenFile(Answer, frozen=True, kw_only=True):
    """A file as it is now. Give `etag` back to change it only when nobody else has."""

    path: str
    size: int
    modified_at: str
    etag: str


class UploadedFile(Answer, frozen=True, kw_only=True):
    path: str
    bytes: int


class Upload(Answer, frozen=True, kw_only=True):
    """`skipped_count`: files that were there already and were kept."""

    path: str
    uploaded_count: int
    skipped_count: int
    files: list[UploadedFile]


class Repository(Answer, frozen=True, kw_only=True):
    """A git working tree. `problem` says why nothing else is known of one that cannot be read."""

    name: str
    path: str
    relative_path: str
    is_worktree: bool
    is_submodule: bool
    root: str
    branch: str | None
    head: str | None
    problem: str | None


class Worktree(Answer, frozen=True, kw_only=True):
    """A working tree that was made for a session; `session_id` is None when that is gone."""

    path: str
    relative_path: str
    root: str
    branch: str | None
    head: str | None
    session_id: str | None
    is_dirty: bool | None
    last_used_at: str | None = None
    problem: str | None


class CleanedWorktree(Answer, frozen=True, kw_only=True):
    """`reason` says why one was kept."""

    path: str
    branch: str | None
    reason: str | None


class CleanUp(Answer, frozen=True, kw_only=True):
    """What became of worktrees that nobody uses; with `dry_run` what would."""

    removed: list[CleanedWorktree]
    kept: list[CleanedWorktree]
    dry_run: bool


class Merged(Answer, frozen=True, kw_only=True):
    """`merged` is False when `into` had it all; `commit` is where `into` is now, `before` where it was."""

    merged: bool
    into: str
    branch: str
    how: str
    commit: str
    before: str
    fast_forward: bool


class DiffLine(Answer, frozen=True, kw_only=True):
    """A line without its end. `content_base64` has the exact bytes of one that is not UTF-8."""

    type: str
    content: str
    content_base64: str | None = None
    old_line: int | None = None
    new_line: int | None = None


class DiffHunk(Answer, frozen=True, kw_only=True):
    """Lines that belong together, and where they stand in the old and the new file."""

    old_start: int
    old_lines: int
    new_start: int
    new_lines: int
    lines: list[DiffLine]


class DiffFile(Answer, frozen=True, kw_only=True):
    """What became of one path. `truncated`, `binary`, `unreadable`: why there are no hunks."""

    old_path: str | None
    old_uri: str | None = None
    old_mode: str | None
    new_path: str | None
    new_uri: str | None = None
    new_mode: str | None
    status: str
    additions: int
    deletions: int
    similarity: int | None
    binary: bool
    conflicted: bool
    truncated: bool
    unreadable: bool
    invalid_utf8: bool
    hunks: list[DiffHunk]

    @property
    def path(self) -> str:
        return self.new_path or self.old_path or ""


class DatabaseHealth(Answer, frozen=True, kw_only=True):
    connected: bool


class RedisHealth(Answer, frozen=True, kw_only=True):
    configured: bool
    connected: bool


class Health(Answer, frozen=True, kw_only=True):
    """`status` is `healthy` or `degraded`."""

    status: str
    timestamp: str
    version: str
    database: DatabaseHealth
    redis: RedisHealth
