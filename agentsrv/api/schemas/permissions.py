"""What agents ask, and the answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agentsrv.model import PermissionMode


class AnswerPermission(Struct, kw_only=True, rename="camel"):
    decision: Literal["allow", "deny"]
    remember: Literal["session"] | UnsetType = UNSET
    message: Annotated[str, Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    updated_input: dict[str, Any] | UnsetType = UNSET
    permission_mode: PermissionMode | UnsetType = UNSET


class PermissionOption(Struct, kw_only=True):
    """An answer that may be given, in the fields of one."""

    decision: Literal["allow", "deny"]
    remember: Literal["session"] | UnsetType = UNSET


class Asked(Struct, kw_only=True, rename="camel"):
    """What an agent asks, wherever it is told of."""

    request_id: str
    task_id: str
    session_id: str
    kind: Literal["permission", "question"]
    tool: str
    title: str
    input: dict[str, Any]
    tool_call_id: str | None
    options: list[PermissionOption]


class PermissionView(Asked, kw_only=True, rename="camel"):
    """What an agent waits for. `expires_at` null: there is no time limit."""

    created_at: str
    expires_at: str | None


class PermissionList(Struct, kw_only=True):
    permissions: list[PermissionView]
    count: int
    timestamp: str
    unreachable: list[str] | UnsetType = UNSET


class PermissionAnswered(Struct, kw_only=True, rename="camel"):
    request_id: str
    task_id: str
    decision: Literal["allow", "deny"]
    remember: Literal["session"] | UnsetType = UNSET
    timestamp: str
