"""What streams tell: the data of their frames. In those of a job, what its agent says stands in between."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from agentsrv.api.operations import Events
from agentsrv.api.schemas.activity import (
    ActivityPermission,
    ActivityResolved,
    ActivitySession,
    ActivitySessionDeleted,
    ActivitySnapshot,
)
from agentsrv.api.schemas.background import BackgroundView
from agentsrv.api.schemas.permissions import Asked
from agentsrv.model import PermissionMode, TurnStatus
from agentsrv.workspace.files.watch import Change


class JobDone(Struct, kw_only=True, rename="camel"):
    """The last event of a job. `done` is true; `stop_reason` is there in the `acp` format."""

    done: bool
    task_id: str
    status: TurnStatus
    error: str | UnsetType = UNSET
    stop_reason: str | UnsetType = UNSET


class JobError(Struct, kw_only=True, tag_field="type", tag="error"):
    """Why the job did not succeed. `code` is stable."""

    error: str
    code: str


class AgentUpdate(Struct, kw_only=True, rename="camel"):
    """In the `acp` format, what an agent says or does: the `params` of ACP's `session/update`."""

    session_id: str
    update: dict[str, Any]


class UnreadOutput(Struct, kw_only=True, tag_field="type", tag="raw"):
    """What the agent wrote and nobody could read. `bytes` is the size of a line that was cut."""

    data: str
    truncated: bool | UnsetType = UNSET
    bytes: int | UnsetType = UNSET


class LogGap(Struct, kw_only=True, tag_field="type", tag="gap"):
    """The machine lost its power: whatever came with a higher id than `after` is void."""

    after: int


class PromptDropped(Struct, kw_only=True, rename="camel", tag_field="type", tag="prompt_dropped"):
    """A prompt that was added to a job, the user message with this uuid, is not going to be read."""

    uuid: str
    task_id: str
    reason: str


class TimerTold(Struct, kw_only=True, rename="camel", tag_field="type", tag="timer"):
    """What the agent has planned for later will not come to pass."""

    state: Literal["dropped", "cancelled"]
    timer_id: str
    at: int
    prompt: str
    reason: str | UnsetType = UNSET


class BackgroundEnded(Struct, kw_only=True, tag_field="type", tag="background_ended"):
    """What the agent had left running was ended with it."""

    tasks: list[BackgroundView]
    reason: Literal["stopped", "replaced", "limit", "exited"]


class PermissionRequest(Asked, kw_only=True, rename="camel", tag_field="type", tag="permission_request"):
    """The agent asks. `request`, in the `acp` format, has the `params` of ACP's `session/request_permission`."""

    allowance: str | None
    details: Any
    request: dict[str, Any] | UnsetType = UNSET


class PermissionResolved(Struct, kw_only=True, rename="camel", tag_field="type", tag="permission_resolved"):
    """A question is settled."""

    request_id: str
    task_id: str
    decision: Literal["allow", "deny", "timed_out", "cancelled"]
    remember: Literal["session"] | UnsetType = UNSET
    message: str | UnsetType = UNSET
    updated_input: dict[str, Any] | UnsetType = UNSET
    permission_mode: PermissionMode | UnsetType = UNSET


class WatchReady(Struct, kw_only=True, rename="camel", tag_field="type", tag="ready"):
    """What happens from here on is told."""

    path: str
    full_path: str
    truncated: bool
    timestamp: str


class WatchChanges(Struct, kw_only=True, tag_field="type", tag="changes"):
    changes: list[Change]
    timestamp: str


class WatchRefresh(Struct, kw_only=True, tag_field="type", tag="refresh"):
    """Something may have been missed: look at everything again."""

    truncated: bool
    timestamp: str


class WatchGone(Struct, kw_only=True, tag_field="type", tag="gone"):
    """The directory does not exist any more; the stream ends."""

    timestamp: str


# fmt: off
JOB_EVENTS = Events(
    "JobEvent",
    "What happens in a job: `done` last. In the `native` format its agent's messages are as the agent wrote them.",
    (JobDone, JobError, AgentUpdate, PermissionRequest, PermissionResolved, PromptDropped, TimerTold,
     BackgroundEnded, UnreadOutput, LogGap),
    are_all=False,
)
# fmt: on

ACTIVITY_EVENTS = Events(
    "ActivityEvent",
    "What happens in all sessions: first a snapshot.",
    (ActivitySnapshot, ActivitySession, ActivitySessionDeleted, ActivityPermission, ActivityResolved),
)

WATCH_EVENTS = Events(
    "WatchEvent",
    "What happens to the files below a directory: first `ready`.",
    (WatchReady, WatchChanges, WatchRefresh, WatchGone),
)
