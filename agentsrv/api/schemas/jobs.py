"""Prompts, the jobs that are made of them, and those that wait."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentsrv.api.schemas.kinds import (
    AgentText,
    CursorText,
    Format,
    ImageText,
    MessageIdText,
    ModelText,
    PathText,
    RevisionText,
    SeqText,
    ServerText,
    SessionIdText,
)
from agentsrv.model import PermissionMode, TurnStatus
from agentsrv.turns.prompts import MAX_SYSTEM_PROMPT
from agentsrv.turns.requests import IfBusy, IfLost
from agentsrv.workspace.files.images import MAX_IMAGES, InlineImage


class WorktreeOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """`base`: where its new branch begins; `branch`: one that there is; `copy`: patterns of files git does not have."""

    base: Annotated[RevisionText, Meta(min_length=1)] | UnsetType = UNSET
    branch: Annotated[RevisionText, Meta(min_length=1)] | UnsetType = UNSET
    copy: Annotated[list[PathText], Meta(max_length=100)] | UnsetType = UNSET
    setup: Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=100)] | UnsetType = UNSET
    setup_timeout: Annotated[float, Meta(gt=0, le=1800)] | UnsetType = UNSET


class Generate(Struct, kw_only=True):
    session_id: SessionIdText
    # At most 8 MiB, which is checked in bytes.
    prompt: Annotated[str, Meta(pattern=r"\S", description="more than white space")]
    agent: AgentText | UnsetType = UNSET
    cwd: PathText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET
    background: bool = False
    use_worktree: bool = False
    worktree: WorktreeOptions | UnsetType = UNSET
    images: Annotated[list[ImageText | InlineImage], Meta(max_length=MAX_IMAGES)] | UnsetType = UNSET
    message_id: MessageIdText | UnsetType = UNSET
    permission_mode: PermissionMode | UnsetType = UNSET
    effort: Literal["low", "medium", "high", "xhigh", "max"] | UnsetType = UNSET
    system_prompt: Annotated[str, Meta(min_length=1, max_length=MAX_SYSTEM_PROMPT)] | UnsetType = UNSET
    max_turns: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    max_budget_usd: Annotated[float, Meta(gt=0, le=1_000_000)] | UnsetType = UNSET
    mcp_servers: dict[str, dict[str, Any]] | UnsetType = UNSET
    output_schema: dict[str, Any] | UnsetType = UNSET
    # Its default depends on the format.
    partial_messages: bool | UnsetType = UNSET
    format: Format = "native"
    if_busy: IfBusy = IfBusy.REJECT
    if_lost: IfLost = IfLost.REJECT
    server: ServerText | UnsetType = UNSET
    on_disconnect: Literal["continue", "cancel"] = "continue"


class ComeBack(Struct, kw_only=True):
    last_event_id: SeqText = field(name="lastEventId", default="")


class Follow(ComeBack, kw_only=True):
    format: Format = "native"
    after: SeqText = ""
    times: bool = False


class Stop(Struct, kw_only=True):
    """With `task_id` only that job is stopped, and not another one that runs by now."""

    session_id: str | UnsetType = UNSET
    task_id: str | UnsetType = UNSET


class Stopped(Struct, kw_only=True, rename="camel"):
    session_id: str
    task_id: str
    timestamp: str
    stopped: bool = True


class JobAccepted(Struct, kw_only=True, rename="camel"):
    """`status`: `queued` for a new job; that of the job for a message that came before, or has joined one."""

    task_id: str
    session_id: str
    status: TurnStatus


class GetJob(Struct, kw_only=True):
    wait: Annotated[int, Meta(ge=0, le=300)] = 0


class ListJobs(Struct, kw_only=True):
    session_id: SessionIdText | UnsetType = UNSET
    status: TurnStatus | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: CursorText | UnsetType = UNSET


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
    result: str | UnsetType = UNSET


class JobList(Struct, kw_only=True, rename="camel"):
    jobs: list[JobView]
    count: int
    next_cursor: str | None
    timestamp: str
    unreachable: list[str] | UnsetType = UNSET


class ArrangeQueue(Struct, kw_only=True, rename="camel"):
    task_ids: Annotated[list[str], Meta(max_length=10_000)]


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
