"""What `GET /activity` tells: one message of these a frame."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from agentsrv.api.schemas.jobs import JobView
from agentsrv.api.schemas.permissions import PermissionView
from agentsrv.api.schemas.sessions import SessionView


class SessionActivity(SessionView, kw_only=True, rename="camel"):
    """A session, and what goes on in it. `doing` is the tool that runs.

    `costUsd` is that of its jobs that have ended, where their agent tells it.
    """

    status: Literal["idle", "queued", "running", "waiting", "failed"]
    doing: str | UnsetType = UNSET
    last_job: JobView | UnsetType = UNSET
    last_event_id: int
    pending_permissions: int
    queued: int
    cost_usd: float | UnsetType = UNSET


class ActivitySnapshot(Struct, kw_only=True, tag_field="type", tag="snapshot"):
    """`unreachable`, in a fleet: the servers that are not in it."""

    sessions: list[SessionActivity]
    permissions: list[PermissionView]
    unreachable: list[str] | UnsetType = UNSET


class ActivitySession(Struct, kw_only=True, tag_field="type", tag="session"):
    session: SessionActivity


class ActivitySessionDeleted(Struct, kw_only=True, rename="camel", tag_field="type", tag="session_deleted"):
    session_id: str


class ActivityPermission(Struct, kw_only=True, tag_field="type", tag="permission"):
    permission: PermissionView


class ActivityResolved(Struct, kw_only=True, rename="camel", tag_field="type", tag="permission_resolved"):
    task_id: str
    request_id: str
