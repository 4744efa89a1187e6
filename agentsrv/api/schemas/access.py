"""Keys of devices, tickets, and the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from agentsrv.api.schemas.kinds import TitleText


class CreateToken(Struct, kw_only=True):
    name: TitleText


class RedeemCode(Struct, kw_only=True):
    code: Annotated[str, Meta(min_length=1, max_length=100)]
    name: TitleText


class TokenMade(Struct, kw_only=True, rename="camel"):
    """`token` is told this once."""

    id: str
    name: str
    token: str
    expires_at: str | None


class TokenView(Struct, kw_only=True, rename="camel"):
    """`expires_at`: when it ends if it is not used until then."""

    id: str
    name: str
    scopes: list[str]
    created_at: str
    used_at: str
    expires_at: str | None


class TokenList(Struct, kw_only=True):
    tokens: list[TokenView]
    count: int
    timestamp: str


class TokenRevoked(Struct, kw_only=True):
    id: str
    timestamp: str
    deleted: bool = True


class CodeMade(Struct, kw_only=True, rename="camel"):
    """Good once, at `POST /auth/codes/redeem`."""

    code: str
    expires_at: str


class TicketMade(Struct, kw_only=True, rename="camel"):
    """Good for one GET, as `?ticket=`."""

    ticket: str
    expires_at: str


class ReadAudit(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: Annotated[int, Meta(ge=0)] = 2**62


class AuditView(Struct, kw_only=True):
    """`key` is what the key is called, `action` the name of the operation, `status` how it was answered."""

    id: int
    at: str
    key: str
    address: str
    action: str
    target: str
    status: int
    details: dict[str, Any]


class AuditList(Struct, kw_only=True, rename="camel"):
    entries: list[AuditView]
    count: int
    next_cursor: int | None
    timestamp: str
