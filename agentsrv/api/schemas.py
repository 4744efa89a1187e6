"""What bodies, queries and answers look like. The OpenAPI document is made from these classes.

A field with `UNSET` may be left out; null is not a way to leave it out. Unknown fields are ignored, so that a
client of an earlier or later version keeps working.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentsrv.model import MODEL_PATTERN, SESSION_ID_PATTERN, PermissionMode, TurnStatus
from agentsrv.turns.requests import IfBusy
from agentsrv.workspace.grep import LineMatch
from agentsrv.workspace.images import InlineImage
from agentsrv.workspace.walk import Entry

MESSAGE_ID_PATTERN = r"^[!-~]{1,200}\Z"

# The description of a pattern goes on from "must be".
SessionIdText = Annotated[
    str,
    Meta(
        pattern=SESSION_ID_PATTERN,
        description="1 to 128 letters, digits, dots, dashes and underscores, a letter or digit first",
    ),
]
ModelText = Annotated[
    str, Meta(pattern=MODEL_PATTERN, description="the name of a model, in ASCII and without blanks")
]
NameText = Annotated[str, Meta(min_length=1, max_length=200)]
PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
PathOrEmptyText = Annotated[str, Meta(max_length=4096)]
RevisionText = Annotated[str, Meta(max_length=1024)]
# Longer than a path may be: a `file:` URI needs three characters for a byte.
FilePathText = Annotated[str, Meta(max_length=13_000)]
# A path in the workspace, or a `data:` URL.
ImageText = Annotated[str, Meta(min_length=1)]
SearchText = Annotated[str, Meta(max_length=1000)]
DepthNumber = Annotated[int, Meta(ge=1)]
CursorText = Annotated[str, Meta(min_length=1, max_length=500)]
MessageIdText = Annotated[
    str, Meta(pattern=MESSAGE_ID_PATTERN, description="1 to 200 ASCII characters without blanks")
]
SeqText = Annotated[str, Meta(pattern=r"^[0-9]{0,18}\Z", description="the id of an event, a whole number")]
AgentText = Literal["claude-code", "codex"]
Format = Literal["native", "acp"]


# Bodies


class CreateSession(Struct, kw_only=True, rename="camel"):
    session_id: SessionIdText | UnsetType = UNSET
    agent: AgentText = "claude-code"
    cwd: PathText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET
    name: NameText | UnsetType = UNSET


class ForkSession(Struct, kw_only=True, rename="camel"):
    session_id: SessionIdText | UnsetType = UNSET
    name: NameText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET


class UpdateSession(Struct, kw_only=True):
    name: NameText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET


class Generate(Struct, kw_only=True):
    session_id: SessionIdText
    # At most 8 MiB, which is checked in bytes.
    prompt: Annotated[str, Meta(pattern=r"\S", description="more than white space")]
    agent: AgentText | UnsetType = UNSET
    cwd: PathText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET
    background: bool = False
    use_worktree: bool = False
    images: Annotated[list[ImageText | InlineImage], Meta(max_length=20)] | UnsetType = UNSET
    message_id: MessageIdText | UnsetType = UNSET
    permission_mode: PermissionMode | UnsetType = UNSET
    effort: Literal["low", "medium", "high", "xhigh", "max"] | UnsetType = UNSET
    system_prompt: Annotated[str, Meta(min_length=1, max_length=100_000)] | UnsetType = UNSET
    max_turns: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    max_budget_usd: Annotated[float, Meta(gt=0, le=1_000_000)] | UnsetType = UNSET
    mcp_servers: dict[str, dict[str, Any]] | UnsetType = UNSET
    output_schema: dict[str, Any] | UnsetType = UNSET
    # Its default depends on the format.
    partial_messages: bool | UnsetType = UNSET
    format: Format = "native"
    if_busy: IfBusy = IfBusy.REJECT
    on_disconnect: Literal["continue", "cancel"] = "continue"


class AnswerPermission(Struct, kw_only=True, rename="camel"):
    decision: Literal["allow", "deny"]
    remember: Literal["session"] | UnsetType = UNSET
    message: Annotated[str, Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    updated_input: dict[str, Any] | UnsetType = UNSET


class ArrangeQueue(Struct, kw_only=True, rename="camel"):
    task_ids: Annotated[list[str], Meta(max_length=10_000)]


class MakeDirectory(Struct, kw_only=True):
    path: FilePathText
    parents: bool = False


class MoveEntry(Struct, kw_only=True):
    source: FilePathText = field(name="from")
    target: FilePathText = field(name="to")
    overwrite: bool = False


class Stop(Struct, kw_only=True):
    session_id: str | UnsetType = UNSET


class CreateTerminalToken(Struct, kw_only=True, rename="camel"):
    deployment_id: SessionIdText
    terminal_id: SessionIdText | UnsetType = UNSET
    cwd: PathText | UnsetType = UNSET
    read_only: bool = False


# Queries: every value is text in the URL


class ListSessions(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000
    cursor: CursorText | UnsetType = UNSET
    agent: AgentText | UnsetType = UNSET


class DeleteSession(Struct, kw_only=True):
    force: bool = False
    worktree: Literal["remove"] | UnsetType = UNSET


class ListMessages(Struct, kw_only=True):
    format: Format = "native"
    limit: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    after: Annotated[int, Meta(ge=0)] = 0


class Follow(Struct, kw_only=True):
    format: Format = "native"
    after: SeqText = ""


class GetJob(Struct, kw_only=True):
    wait: Annotated[int, Meta(ge=0, le=300)] = 0


class ListJobs(Struct, kw_only=True):
    session_id: SessionIdText | UnsetType = UNSET
    status: TurnStatus | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: CursorText | UnsetType = UNSET


class OpenTerminal(Struct, kw_only=True):
    # `token` is read elsewhere: it may also come in a header.
    encoding: Literal["json", "binary"] = "json"


class ListFiles(Struct, kw_only=True, rename="camel"):
    path: FilePathText = ""
    include_files: bool = False
    max_depth: DepthNumber | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1)] = 100_000
    include_ignored: bool = False
    details: bool = False


class SearchFiles(Struct, kw_only=True, rename="camel"):
    q: SearchText | UnsetType = UNSET
    root: FilePathText = ""
    path: SearchText = ""
    include_files: bool = False
    max_depth: DepthNumber | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=5000)] = 200
    include_ignored: bool = False


class GrepFiles(Struct, kw_only=True, rename="camel"):
    q: Annotated[str, Meta(pattern=r"^[^\r\n]+\Z", max_length=1000, description="one line of text")]
    path: FilePathText = ""
    ignore_case: bool = True
    max_depth: DepthNumber | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    include_ignored: bool = False


class FileQuery(Struct, kw_only=True):
    path: FilePathText


class DeleteEntry(Struct, kw_only=True):
    path: FilePathText
    recursive: bool = False


class ArchiveDirectory(Struct, kw_only=True, rename="camel"):
    path: FilePathText = ""
    include_ignored: bool = True


class WatchDirectory(Struct, kw_only=True, rename="camel"):
    path: FilePathText = ""
    max_depth: DepthNumber | UnsetType = UNSET


class DiffQuery(Struct, kw_only=True):
    path: PathOrEmptyText = ""
    base: RevisionText = ""
    head: RevisionText = ""
    staged: bool = False
    context: Annotated[int, Meta(ge=0, le=1000)] = 3
    merge_base: bool = False
    # May come several times.
    paths: Annotated[list[PathText], Meta(max_length=1000)] = []
    summary: bool = False
    copies: bool = False


class RemoveWorktreeQuery(Struct, kw_only=True):
    path: FilePathText
    force: bool = False


# Answers


class ForkedFrom(Struct, kw_only=True, rename="camel"):
    session_id: str
    event_id: int


class SessionView(Struct, kw_only=True, rename="camel"):
    id: str
    name: str | None
    agent: str
    cwd: str
    model: str | None
    internal_session_id: str | None
    created_at: str
    updated_at: str
    is_streaming: bool
    active_task_id: str | None
    worktree: str | None
    forked_from: ForkedFrom | None


class SessionList(Struct, kw_only=True, rename="camel"):
    sessions: list[SessionView]
    count: int
    next_cursor: str | None
    timestamp: str


class SessionDeleted(Struct, kw_only=True, rename="camel"):
    session_id: str
    timestamp: str
    deleted: bool = True


class MessageList(Struct, kw_only=True, rename="camel"):
    """`last_event_id` is that of the last message: the next page comes after it."""

    session_id: str
    messages: list[Any]
    count: int
    last_event_id: int
    timestamp: str


class JobAccepted(Struct, kw_only=True, rename="camel"):
    """`status` is `running` when the prompt has joined a turn that runs."""

    task_id: str
    session_id: str
    status: Literal["queued", "running"] = "queued"


class PermissionOption(Struct, kw_only=True):
    """An answer that may be given, in the fields of one."""

    decision: Literal["allow", "deny"]
    remember: Literal["session"] | UnsetType = UNSET


class PermissionView(Struct, kw_only=True, rename="camel"):
    """What an agent waits for. `expires_at` null: there is no time limit."""

    request_id: str
    task_id: str
    session_id: str
    kind: Literal["permission", "question"]
    tool: str
    title: str
    input: dict[str, Any]
    tool_call_id: str | None
    options: list[PermissionOption]
    created_at: str
    expires_at: str | None


class PermissionList(Struct, kw_only=True):
    permissions: list[PermissionView]
    count: int
    timestamp: str


class PermissionAnswered(Struct, kw_only=True, rename="camel"):
    request_id: str
    task_id: str
    decision: Literal["allow", "deny"]
    remember: Literal["session"] | UnsetType = UNSET
    timestamp: str


class QueuedView(Struct, kw_only=True, rename="camel"):
    """`position` counts from 1, which is next."""

    task_id: str
    position: int
    prompt: str
    created_at: str


class QueueList(Struct, kw_only=True, rename="camel"):
    session_id: str
    queue: list[QueuedView]
    count: int
    timestamp: str


class JobsCancelled(Struct, kw_only=True, rename="camel"):
    session_id: str
    task_ids: list[str]
    timestamp: str
    cancelled: bool = True


class JobView(Struct, kw_only=True, rename="camel"):
    task_id: str
    session_id: str
    status: TurnStatus
    created_at: str
    started_at: str | UnsetType = UNSET
    finished_at: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    first_event_id: int
    last_event_id: int
    stop_reason: str | UnsetType = UNSET
    usage: dict[str, Any] | UnsetType = UNSET
    cost_usd: float | UnsetType = UNSET
    structured_output: Any = UNSET


class JobList(Struct, kw_only=True, rename="camel"):
    jobs: list[JobView]
    count: int
    next_cursor: str | None
    timestamp: str


class Stopped(Struct, kw_only=True, rename="camel"):
    session_id: str
    task_id: str
    timestamp: str
    stopped: bool = True


class AgentView(Struct, kw_only=True, rename="camel"):
    """What is installed, or in `problem` why it cannot be used. `credentials` are names.

    `usable`: available, and there are credentials. `modelEfforts` has the models whose agent tells.
    """

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


class AgentList(Struct, kw_only=True):
    agents: list[AgentView]
    count: int
    timestamp: str


class TerminalTokenView(Struct, kw_only=True, rename="camel"):
    token: str
    expires_at: str
    deployment_id: str
    terminal_id: str


class TerminalView(Struct, kw_only=True, rename="camel"):
    """`clients`: how many sockets show it now. `pid` is the shell's."""

    terminal_id: str
    deployment_id: str
    shell: str
    cwd: str
    pid: int
    cols: int
    rows: int
    clients: int
    created_at: str


class TerminalList(Struct, kw_only=True):
    terminals: list[TerminalView]
    count: int
    timestamp: str


class TerminalEnded(Struct, kw_only=True, rename="camel"):
    terminal_id: str
    timestamp: str
    deleted: bool = True


class FileList(Struct, kw_only=True, rename="camel"):
    """`path` and `fullPath` are where it begins, or of a search what was searched for and where.

    `denied`: the server may not read that directory.
    """

    path: str
    full_path: str
    entries: list[Entry]
    count: int
    max_depth: int
    truncated: bool
    current_in_git_repo: bool
    current_git_root: str | None
    current_is_worktree: bool
    current_worktree_dir: str | None
    timestamp: str
    denied: bool | UnsetType = UNSET
    uri: str | UnsetType = UNSET


class LineList(Struct, kw_only=True, rename="camel"):
    path: str
    full_path: str
    matches: list[LineMatch]
    count: int
    truncated: bool
    timestamp: str


class FileView(Struct, kw_only=True, rename="camel"):
    path: str
    size: int
    modified_at: str
    etag: str
    timestamp: str


class UploadedFile(Struct, kw_only=True):
    path: str
    bytes: int


class FilesUploaded(Struct, kw_only=True, rename="camel"):
    path: str
    uploaded_count: int
    skipped_count: int
    files: list[UploadedFile]
    timestamp: str


class DirectoryMade(Struct, kw_only=True):
    path: str
    timestamp: str


class EntryDeleted(Struct, kw_only=True):
    path: str
    timestamp: str
    deleted: bool = True


class EntryMoved(Struct, kw_only=True):
    source: str = field(name="from")
    target: str = field(name="to")
    timestamp: str


class RepositoryView(Struct, kw_only=True, rename="camel"):
    """A working tree with a `.git`; `problem` says why nothing else is known of one that cannot be read.

    `root` is the main working tree, for a linked worktree another one than `path`. `branch` is null with a
    detached head; `head` is a commit, null before the first one.
    """

    name: str
    path: str
    relative_path: str
    is_worktree: bool
    is_submodule: bool
    root: str
    branch: str | None
    head: str | None
    problem: str | None


class RepositoryList(Struct, kw_only=True):
    repositories: list[RepositoryView]
    count: int
    truncated: bool
    timestamp: str


class WorktreeView(Struct, kw_only=True, rename="camel"):
    """A git worktree that was made for a session; `session_id` is null when that is gone.

    `is_dirty`: it has something that is not committed; null when that could not be found out. `problem` says why
    nothing else is known of one that cannot be read.
    """

    path: str
    relative_path: str
    root: str
    branch: str | None
    head: str | None
    session_id: str | None
    is_dirty: bool | None
    problem: str | None


class WorktreeList(Struct, kw_only=True):
    worktrees: list[WorktreeView]
    count: int
    timestamp: str


class WorktreeRemoved(Struct, kw_only=True):
    """`branch` went with it; null when it is kept, for somebody else uses it or it was another one."""

    path: str
    branch: str | None
    timestamp: str
    deleted: bool = True


class DiffLineView(Struct, kw_only=True, rename="camel"):
    """A line without its end. `content_base64` has the exact bytes of one that is not UTF-8."""

    type: Literal["context", "add", "del"]
    content: str
    content_base64: str | UnsetType = UNSET
    old_line: int | None
    new_line: int | None


class DiffHunkView(Struct, kw_only=True, rename="camel"):
    old_start: int
    old_lines: int
    new_start: int
    new_lines: int
    lines: list[DiffLineView]


class DiffFileView(Struct, kw_only=True, rename="camel"):
    """One path. `similarity` is a percentage, of renamed files; the URIs are there for names that are not UTF-8.

    `truncated`: over a limit, so there are no hunks. `unreadable`: the content could not be had.
    """

    old_path: str | None
    old_uri: str | UnsetType = UNSET
    old_mode: str | None
    new_path: str | None
    new_uri: str | UnsetType = UNSET
    new_mode: str | None
    status: Literal["modified", "added", "deleted", "renamed", "copied", "typechange"]
    additions: int
    deletions: int
    similarity: int | None
    binary: bool
    conflicted: bool
    truncated: bool
    unreadable: bool
    invalid_utf8: bool
    hunks: list[DiffHunkView]


class DiffView(Struct, kw_only=True, rename="camel"):
    """`head` is null for the working tree and the index; the ids are those of commits."""

    repo_path: str
    relative_path: str
    base: str
    head: str | None
    base_id: str | None
    head_id: str | None
    files: list[DiffFileView]
    truncated: bool
    timestamp: str


class DatabaseHealth(Struct, kw_only=True):
    connected: bool


class RedisHealth(Struct, kw_only=True):
    configured: bool
    connected: bool


class HealthView(Struct, kw_only=True):
    status: Literal["healthy", "degraded"]
    timestamp: str
    version: str
    database: DatabaseHealth
    redis: RedisHealth
    error: str | UnsetType = UNSET
    code: str | UnsetType = UNSET


class Ready(Struct, kw_only=True):
    timestamp: str
    status: str = "ready"


class Welcome(Struct, kw_only=True):
    message: str
    version: str
    timestamp: str


class FieldProblem(Struct, kw_only=True):
    path: str
    message: str


class ErrorBody(Struct, kw_only=True):
    """Every answer that is not 2xx: `error` for people, `code` for programs, `details` when fields are wrong.

    Some have one more field, such as the `taskId` of a busy session.
    """

    error: Annotated[
        str, Meta(examples=["session s is busy with job 6f0c; follow it, stop it, or wait for its end"])
    ]
    code: Annotated[str, Meta(examples=["session_busy"])]
    timestamp: str
    details: list[FieldProblem] | UnsetType = UNSET
