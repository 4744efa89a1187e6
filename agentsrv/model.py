"""The values that every layer speaks. Pure: no I/O, no clock, no knowledge of SQL, HTTP or any agent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

SessionId = NewType("SessionId", str)
TurnId = NewType("TurnId", str)
RunnerId = NewType("RunnerId", str)
TerminalId = NewType("TerminalId", str)

Seq = int
"""Position of an event in its session's log, from 1, without gaps. The SSE `id:`."""

Millis = int
"""Milliseconds since the Unix epoch, UTC."""

SESSION_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"
MODEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:/@\[\]-]{0,199}\Z"
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What a user says to a question of the agent.

    remember: do not ask for this again in the session.
    message: for the agent, with a denial.
    updated_input: what the tool is to be called with instead; of a question, its answers.
    """

    decision: Decision
    remember: bool = False
    message: str | None = None
    updated_input: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a session's conversation comes from: another one's, up to a point that the agent can name.

    `seq` is the newest event of the other session then. The rest is the agent's own: the name of the
    conversation, and of the last message (None: all of it).
    """

    session_id: str
    seq: Seq
    conversation: str
    point: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A durable conversation with one agent in one working directory.

    `internal_session_id` is the agent's own name for the conversation (a UUID for Claude Code).
    `generation` counts the leases ever taken; `active_turn_id` is the turn that holds the lease now.
    `worktree` is the root of the git worktree that was made for it, and `origin_cwd` where it was asked to
    work before. `allowances` name what the agent may do without asking again.
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
    fork: Fork | None = None
    allowances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What one prompt asks of the agent, in the words that are the same for every agent."""

    model: str | None = None
    permission_mode: PermissionMode = PermissionMode.BYPASS
    effort: str | None = None
    system_prompt: str | None = None
    max_turns: int | None = None
    max_budget_usd: float | None = None
    mcp_servers: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    partial_messages: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that comes with a prompt. `data` is base64, `media_type` what the file's first bytes say."""

    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended. `usage` is the agent's own object; `cost_usd` is of this turn alone."""

    status: TurnStatus
    error: str | None = None
    error_code: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    structured_output: Any = None


@dataclass(frozen=True, slots=True)
class Turn:
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


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a session, as of `generation`. The database refuses an older one."""

    session_id: SessionId
    generation: int


@dataclass(slots=True)
class Chunk:
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
