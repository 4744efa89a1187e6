"""The values that every layer speaks. Pure: no I/O, no clock, no knowledge of SQL, HTTP or any agent."""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from typing import Any, NewType

from msgspec import Struct, field

SessionId = NewType("SessionId", str)
TurnId = NewType("TurnId", str)
RunnerId = NewType("RunnerId", str)
TerminalId = NewType("TerminalId", str)

Seq = int
"""Position of an event in its session's log, from 1, without gaps. The SSE `id:`."""

Millis = int
"""Milliseconds since the Unix epoch, UTC."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"
SESSION_ID_PATTERN = r"^(?!filesystem\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"
"""`/sessions/filesystem/...` are routes of earlier clients."""
MODEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:/@\[\]-]{0,199}\Z"
NAME = re.compile(NAME_PATTERN)
SESSION_ID = re.compile(SESSION_ID_PATTERN)
MODEL = re.compile(MODEL_PATTERN)


class TurnStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATUSES


FINAL_STATUSES = frozenset(
    {TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELLED, TurnStatus.INTERRUPTED}
)


class Source(StrEnum):
    """Who wrote an event."""

    USER = "user"
    AGENT = "agent"
    SERVER = "server"


class PermissionMode(StrEnum):
    BYPASS = "bypass"
    ACCEPT_EDITS = "accept_edits"
    ASK = "ask"
    PLAN = "plan"


class Decision(StrEnum):
    """What became of a question of the agent. Users say the first two."""

    ALLOW = "allow"
    DENY = "deny"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class Answer(Struct, frozen=True):
    """What a user says to a question of the agent.

    remember: do not ask for this again in the session.
    message: for the agent, with a denial.
    updated_input: what the tool is to be called with instead; of a question, its answers.
    permission_mode: of a plan that is allowed, the mode in which it is carried out.
    """

    decision: Decision
    remember: bool = False
    message: str | None = None
    updated_input: dict[str, Any] | None = None
    permission_mode: PermissionMode | None = None


class Fork(Struct, frozen=True):
    """Where a session's conversation comes from: another one's, up to a point that the agent can name.

    `seq` is the newest event of the other session then. The rest is the agent's own: the name of the
    conversation, and of the last message (None: all of it).
    """

    session_id: str
    seq: Seq
    conversation: str
    point: str | None = None


class Session(Struct, frozen=True):
    """A durable conversation with one agent in one working directory.

    `internal_session_id` is the agent's own name for the conversation (a UUID for Claude Code).
    `generation` counts the leases ever taken; `active_turn_id` is the turn that holds the lease now.
    `worktree` is the root of the git worktree that was made for it, and `origin_cwd` where it was asked to
    work before. `allowances` name what the agent may do without asking again; `setting_sources` is
    that of each of its turns (see `TurnOptions`); `preview` is how its first prompt begins; `archived_at` is when
    its user has put it away; `permission_mode`, `effort` and `mcp_servers` are those of prompts which name none.
    `tags` and `metadata` are its user's own notes.
    """

    id: SessionId
    name: str | None
    agent: str
    cwd: str
    model: str | None
    internal_session_id: str | None
    created_at: Millis
    updated_at: Millis
    generation: int = 0
    active_turn_id: TurnId | None = None
    worktree: str | None = None
    origin_cwd: str | None = None
    preview: str | None = None
    archived_at: Millis | None = None
    fork: Fork | None = None
    allowances: tuple[str, ...] = ()
    setting_sources: tuple[str, ...] | None = None
    permission_mode: PermissionMode | None = None
    effort: str | None = None
    mcp_servers: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


DEFAULT_MODEL = "default"
"""Of a prompt: the agent's own default, and not the session's model."""

SETTING_SOURCES = ("user", "project", "local")
"""Whose settings may count for an agent: the latter two are the repository's, shared and one's own."""


class TurnOptions(Struct, frozen=True):
    """What one prompt asks of the agent, in the words that are the same for every agent.

    setting_sources: of SETTING_SOURCES; None: all in `bypass`, else the user's.
    first_mode: the permission mode in which the turn began, when that was changed since.
    notes: what a protocol's clients are told again of what they have sent; the agent knows nothing of it.
    """

    model: str | None = None
    permission_mode: PermissionMode = PermissionMode.BYPASS
    effort: str | None = None
    system_prompt: str | None = None
    max_turns: int | None = None
    max_budget_usd: float | None = None
    mcp_servers: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    partial_messages: bool = False
    setting_sources: tuple[str, ...] | None = None
    first_mode: PermissionMode | None = None
    notes: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A picture that comes with a prompt. `data` is base64, `media_type` what the file's first bytes say."""

    media_type: str
    data: bytes = dataclasses.field(repr=False)


class Outcome(Struct, frozen=True):
    """How a turn ended. `usage` is the agent's own object; `cost_usd` is of this turn alone.

    `result` is what the agent said last, when it has done its work.
    """

    status: TurnStatus
    error: str | None = None
    error_code: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    structured_output: Any = None
    result: str | None = None


class Lease(Struct, frozen=True):
    """The right to write to a session, as of `generation`. The database refuses an older one."""

    session_id: SessionId
    generation: int


class Turn(Struct, frozen=True):
    """One prompt and all that the agent does until it is done with it. On the wire: a job, its id a `taskId`.

    `first_seq` is its user message, `last_seq` its `done` event (None while it runs).
    """

    id: TurnId
    session_id: SessionId
    generation: int
    status: TurnStatus
    created_at: Millis
    started_at: Millis | None = None
    finished_at: Millis | None = None
    first_seq: Seq = 0
    last_seq: Seq | None = None
    message_id: str | None = None
    options: TurnOptions = field(default_factory=TurnOptions)
    outcome: Outcome | None = None

    @property
    def lease(self) -> Lease:
        return Lease(self.session_id, self.generation)


class Chunk(Struct):
    """Consecutive events of one session that were written together.

    `data` is their JSON, each followed by one newline, exactly as the agent wrote it.
    Events are stored, kept and sent by the chunk, because a row, a wake-up or a write per event
    costs ten times more (docs/decisions/0003). `rendered` caches what followers are sent.
    """

    session_id: SessionId
    turn_id: TurnId | None
    source: Source
    created_at: Millis
    first_seq: Seq
    last_seq: Seq
    data: bytes
    rendered: bytes | None = None

    def lines(self) -> list[bytes]:
        """The events' JSON, oldest first; the first one has seq `first_seq`."""
        return self.data.split(b"\n")[:-1]

    def after(self, seq: Seq) -> Chunk:
        """This chunk without the events up to and including `seq`."""
        if seq < self.first_seq:
            return self
        kept = self.lines()[seq - self.first_seq + 1 :]
        data = b"\n".join(kept) + b"\n"
        return Chunk(
            self.session_id, self.turn_id, self.source, self.created_at, seq + 1, self.last_seq, data
        )


class Scope(StrEnum):
    """What a key may do. `admin`: everything."""

    READ = "read"
    PROMPT = "prompt"
    ANSWER = "answer"
    FILES = "files"
    TERMINALS = "terminals"
    ADMIN = "admin"


@dataclasses.dataclass(frozen=True, slots=True)
class AccessKey:
    """A named key. `parent`: the hash of the key it was made with. `idle_ms`: it ends so long after its last use."""

    id: str
    name: str
    hash: bytes = dataclasses.field(repr=False)
    scopes: frozenset[Scope]
    parent: bytes | None
    created_at: Millis
    expires_at: Millis | None
    idle_ms: Millis | None
    used_at: Millis
    revoked_at: Millis | None = None

    @property
    def ends_at(self) -> Millis | None:
        """When it is good no more, if nobody uses it until then."""
        ends = [self.expires_at, None if self.idle_ms is None else self.used_at + self.idle_ms]
        return min((end for end in ends if end is not None), default=None)

    def is_good(self, now: Millis) -> bool:
        return self.revoked_at is None and (self.ends_at is None or now < self.ends_at)


class AuditEntry(Struct, frozen=True):
    """What somebody has done: `action` is the name of the operation, `status` how it was answered."""

    at: Millis
    key: str
    address: str
    action: str
    target: str
    status: int
    details: dict[str, Any]
