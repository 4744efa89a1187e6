"""Terminals and the tokens that open them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agentsrv.api.schemas.kinds import NameText, PathText, ServerText, SessionIdText


class CreateTerminalToken(Struct, kw_only=True, rename="camel"):
    deployment_id: NameText
    terminal_id: NameText | UnsetType = UNSET
    cwd: PathText | UnsetType = UNSET
    read_only: bool = False
    session_id: SessionIdText | UnsetType = UNSET
    server: ServerText | UnsetType = UNSET


class OpenTerminal(Struct, kw_only=True):
    # `token` is read elsewhere: it may also come in a header.
    encoding: Literal["json", "binary", "raw"] = "json"
    cols: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    rows: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET


class ResizeTerminal(Struct, kw_only=True):
    cols: Annotated[int, Meta(ge=1, le=1000)]
    rows: Annotated[int, Meta(ge=1, le=1000)]


class TerminalResized(Struct, kw_only=True, rename="camel"):
    """The size that the terminal has now: that of the smallest window that shows it."""

    terminal_id: str
    cols: int
    rows: int
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
    unreachable: list[str] | UnsetType = UNSET


class TerminalEnded(Struct, kw_only=True, rename="camel"):
    terminal_id: str
    timestamp: str
    deleted: bool = True
