"""Sessions: what is asked of them and how they look."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentsrv.api.schemas.kinds import (
    AgentText,
    CursorText,
    Format,
    ModelText,
    PathText,
    ServerText,
    SessionIdText,
    TitleOrEmptyText,
    TitleText,
)
from agentsrv.model import PermissionMode

SourcesList = Annotated[
    list[Literal["user", "project", "local"]],
    Meta(
        max_length=3,
        description="whose settings count for the agent; `project` and `local` are the repository's",
    ),
]


Effort = Literal["low", "medium", "high", "xhigh", "max"]

Servers = dict[str, dict[str, Any]]

Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\s,](?:[^,\r\n]*[^\s,])?\Z")]

Tags = Annotated[list[Tag], Meta(max_length=32, description="words of one's own, to find the session by")]

MetadataKey = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]

Metadata = Annotated[
    dict[MetadataKey, Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16, description="notes of one's own; sessions are found by them"),
]


class CreateSession(Struct, kw_only=True, rename="camel"):
    session_id: SessionIdText | UnsetType = UNSET
    agent: AgentText | UnsetType = UNSET
    cwd: PathText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET
    name: TitleOrEmptyText | UnsetType = UNSET
    trust_repository: bool | UnsetType = field(default=UNSET, name="trust_repository")
    setting_sources: SourcesList | UnsetType = field(default=UNSET, name="setting_sources")
    permission_mode: PermissionMode | UnsetType = field(default=UNSET, name="permission_mode")
    effort: Effort | UnsetType = UNSET
    mcp_servers: Servers | UnsetType = field(default=UNSET, name="mcp_servers")
    tags: Tags | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    server: ServerText | UnsetType = UNSET
    warm: Annotated[bool, Meta(description="start its agent now, for the first prompt")] | UnsetType = UNSET


class ForkSession(Struct, kw_only=True, rename="camel"):
    session_id: SessionIdText | UnsetType = UNSET
    name: TitleText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET


class UpdateSession(Struct, kw_only=True):
    name: TitleOrEmptyText | UnsetType = UNSET
    model: ModelText | UnsetType = UNSET
    cwd: PathText | UnsetType = UNSET
    trust_repository: bool | UnsetType = UNSET
    setting_sources: SourcesList | UnsetType | None = UNSET
    archived: bool | UnsetType = UNSET
    permission_mode: PermissionMode | UnsetType | None = UNSET
    effort: Effort | UnsetType | None = UNSET
    mcp_servers: Servers | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class ListSessions(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000
    cursor: CursorText | UnsetType = UNSET
    agent: AgentText | UnsetType = UNSET
    cwd: PathText | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    tag: Tag | UnsetType = UNSET
    metadata: (
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}=[\s\S]{0,512}\Z", description="`key=value`")]
        | UnsetType
    ) = UNSET


class RemoveAllowances(Struct, kw_only=True):
    allowance: Annotated[str, Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET


class AllowanceList(Struct, kw_only=True):
    allowances: list[str]
    count: int
    timestamp: str


class DeleteSession(Struct, kw_only=True):
    force: bool = False
    worktree: Literal["remove"] | UnsetType = UNSET


class ListMessages(Struct, kw_only=True):
    format: Format = "native"
    limit: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    after: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    before: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    times: bool = False
    questions: bool = False


class ForkedFrom(Struct, kw_only=True, rename="camel"):
    session_id: str
    event_id: int


class SessionView(Struct, kw_only=True, rename="camel"):
    id: str
    name: str
    agent: str
    cwd: str
    model: str | None
    internal_session_id: str
    created_at: str
    updated_at: str
    is_streaming: bool
    active_task_id: str | None
    worktree: str | None
    preview: str | None
    """How its first prompt begins."""
    archived_at: str | None
    setting_sources: list[str] | None
    permission_mode: PermissionMode | None
    effort: str | None
    mcp_servers: list[str] | None
    """Their names: what is behind them may be secret."""
    tags: list[str]
    metadata: dict[str, str]
    forked_from: ForkedFrom | None


class SessionList(Struct, kw_only=True, rename="camel"):
    sessions: list[SessionView]
    count: int
    next_cursor: str | None
    timestamp: str
    unreachable: list[str] | UnsetType = UNSET


class SessionDeleted(Struct, kw_only=True, rename="camel"):
    session_id: str
    timestamp: str
    deleted: bool = True


class MessageList(Struct, kw_only=True, rename="camel"):
    """`last_event_id` is that of the last message: the next page comes after it.

    `first_event_id` is that of the first one, when pages are read backwards: the next one comes before it. `event_ids`
    has the event of each message then, and up to `up_to_event_id` there are no others.
    """

    session_id: str
    messages: list[Any]
    count: int
    first_event_id: int | UnsetType = UNSET
    last_event_id: int
    event_ids: list[int] | UnsetType = UNSET
    up_to_event_id: int | UnsetType = UNSET
    timestamp: str
