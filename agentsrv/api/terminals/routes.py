"""The routes of terminals."""

from __future__ import annotations

from secrets import token_hex

from aiohttp import web

from agentsrv.api.audit import KEY_NAME, note
from agentsrv.api.bodies import read_body
from agentsrv.api.credentials import CALLER
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.fields import given
from agentsrv.api.hop import is_hop
from agentsrv.api.keys import HOLDERS, KEYRING, TERMINAL_TOKENS, TERMINALS
from agentsrv.api.operations import NO_BODY, Operation
from agentsrv.api.schemas.terminals import (
    CreateTerminalToken,
    OpenTerminal,
    ResizeTerminal,
    TerminalEnded,
    TerminalList,
    TerminalResized,
    TerminalTokenView,
    TerminalView,
)
from agentsrv.api.terminals.connection import Connection
from agentsrv.api.terminals.handshake import Socket, redeem, token_of
from agentsrv.api.urls import read_query
from agentsrv.errors import AuthenticationFailed, InvalidInput, NotFound
from agentsrv.model import NAME, TerminalId
from agentsrv.terminals.terminal import Terminal
from agentsrv.terminals.tokens import Grant


async def create_terminal_token(request: web.Request) -> web.Response:
    """A token that opens one WebSocket to a terminal, which begins then if it does not run yet."""
    body = await read_body(request, CreateTerminalToken)
    cwd = given(body.cwd)
    if cwd is not None:
        cwd = str(await request.app[TERMINALS].find_directory(cwd))
    grant = Grant(
        terminal_id=TerminalId(given(body.terminal_id) or token_hex(16)),
        deployment_id=body.deployment_id,
        cwd=cwd,
        is_read_only=body.read_only,
        made_with=request[CALLER].name,
        key=_key_of(request),
    )
    _note(request, grant)
    token, expires_at = await request.app[TERMINAL_TOKENS].issue(grant)
    return json_response(
        TerminalTokenView(
            token=token,
            expires_at=timestamp(expires_at * 1000),
            deployment_id=grant.deployment_id,
            terminal_id=grant.terminal_id,
        )
    )


def _key_of(request: web.Request) -> bytes:
    """The hash of the key, if its end ends the terminal's sockets. Nothing of the settings' key is in a token; keys of
    who comes by another server of the fleet are that one's to know.
    """
    key: bytes = request[CALLER].hash
    return b"" if is_hop(request) or request.app[KEYRING].is_own(key) else key


def _note(request: web.Request, grant: Grant) -> None:
    note(request, terminal=grant.terminal_id, deployment=grant.deployment_id, readOnly=grant.is_read_only)


async def list_terminals(request: web.Request) -> web.Response:
    """The terminals that run, oldest first, with and without sockets."""
    views = [terminal_view(terminal) for terminal in request.app[TERMINALS].list_terminals()]
    return json_response(TerminalList(terminals=views, count=len(views), timestamp=timestamp()))


def terminal_view(terminal: Terminal) -> TerminalView:
    cols, rows = terminal.size
    return TerminalView(
        terminal_id=terminal.info.id,
        deployment_id=terminal.info.deployment_id,
        shell=terminal.info.shell,
        cwd=terminal.info.cwd,
        pid=terminal.handle.pid,
        cols=cols,
        rows=rows,
        clients=len(terminal.viewers),
        created_at=timestamp(terminal.info.created_at),
    )


async def delete_terminal(request: web.Request) -> web.Response:
    """End a terminal; the answer comes when its shell and all that it started are gone."""
    terminal_id = terminal_id_of(request)
    await request.app[TERMINALS].end(terminal_id)
    return json_response(TerminalEnded(terminal_id=terminal_id, timestamp=timestamp()))


async def resize_terminal(request: web.Request) -> web.Response:
    """Say which size the windows have whose sockets cannot say it (`encoding=raw`)."""
    body = await read_body(request, ResizeTerminal)
    terminal = request.app[TERMINALS].find(terminal_id_of(request))
    terminal.resize(body.cols, body.rows)
    cols, rows = terminal.size
    return json_response(
        TerminalResized(terminal_id=terminal.info.id, cols=cols, rows=rows, timestamp=timestamp())
    )


def terminal_id_of(request: web.Request) -> TerminalId:
    text = request.match_info["terminal_id"]
    if not NAME.match(text):
        raise NotFound("no such terminal: the id in the path is not one", code="terminal_not_found")
    return TerminalId(text)


async def open_terminal(request: web.Request) -> web.StreamResponse:
    """A WebSocket that shows a terminal.

    It needs a token of `POST /terminal/token`: as `?token=`, as `Authorization: Bearer`, or among the
    subprotocols that it offers.
    """
    ws = Socket(request)
    if not ws.is_asked_for():
        raise InvalidInput("ask for an upgrade to a WebSocket, version 13", code="not_a_websocket")
    token = token_of(request)
    query = read_query(request, OpenTerminal)
    grant = await redeem(request, token)
    request[KEY_NAME] = grant.made_with
    _note(request, grant)
    if grant.key and not await request.app[KEYRING].is_good(grant.key):
        raise AuthenticationFailed("the key that this token was made with has ended", code="invalid_token")
    viewer = await request.app[TERMINALS].attach(grant)
    try:
        with request.app[HOLDERS].held(grant.key, request):
            await ws.prepare(request)
            viewer.is_mute = query.encoding == "raw"
            if isinstance(query.cols, int) and isinstance(query.rows, int):
                viewer.resize(query.cols, query.rows)
            await Connection(request, ws, viewer, encoding=query.encoding).run()
    finally:
        viewer.close()
    return ws


# fmt: off
ROUTES = (
    Operation("POST", "/terminal/token", create_terminal_token, {200: TerminalTokenView}, (503,),
              body=CreateTerminalToken),
    Operation("GET", "/ws/terminal", open_terminal, {101: NO_BODY}, (401, 403, 404, 429, 503, 507),
              query=OpenTerminal, is_public=True),
    Operation("GET", "/terminals", list_terminals, {200: TerminalList}),
    Operation("PUT", "/terminals/{terminal_id}/size", resize_terminal, {200: TerminalResized}, (404,),
              body=ResizeTerminal),
    Operation("DELETE", "/terminals/{terminal_id}", delete_terminal, {200: TerminalEnded}, (404,)),
)
# fmt: on
