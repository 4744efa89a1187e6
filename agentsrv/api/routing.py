"""Which server of a fleet answers a request: the home of what it is about, whichever server got it.

Nothing is passed on twice. What is decided here only saves the home a refusal: that no id has two homes is held where
sessions are made (`turns` claims each).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import Any

from aiohttp import ClientResponse, hdrs, web
from aiohttp.typedefs import Handler

from agentsrv.api import everywhere, hop, merge
from agentsrv.api.acp import CONNECTION_HEADER
from agentsrv.api.bodies import peek_body, require_valid
from agentsrv.api.forward import Forwarder, NotThere, owner_unreachable, require_understood
from agentsrv.api.keys import ABOUT_SESSION, BODIES, CONFIG, TERMINALS, TURNS
from agentsrv.api.operations import Group
from agentsrv.api.peek import (
    SESSION_HEADER,
    Peek,
    ToolCall,
    conversation_of,
    peek_at,
    server_of_token,
    session_in_header,
    tool_call_in,
)
from agentsrv.api.splice import splice
from agentsrv.errors import AgentsrvError, Conflict, InvalidInput, NotFound, Unavailable, invalid_field
from agentsrv.faces.responses_words import CONVERSATION, RESPONSE
from agentsrv.fleet.homes import session_key, terminal_key
from agentsrv.fleet.names import number_in
from agentsrv.fleet.redis_homes import RedisHomes
from agentsrv.fleet.registry import Registry
from agentsrv.model import NAME, SESSION_ID, SessionId, TerminalId, TurnId

Body = bytes | bytearray | None
"""What has been read of a request already."""

JOB = "j:"
"""Before the id of a job of an earlier form, of which only its home knows where it is."""


class Rule(Enum):
    """How the home of a request is found. A route without a rule is answered where it arrives.

    CONTINUED, RESPONSE, CONVERSATION and OPENED are those of OpenAI's protocols.
    """

    SESSION = auto()
    PLACED = auto()
    TASK = auto()
    TERMINAL = auto()
    TOKEN = auto()
    SOCKET = auto()
    WORKSPACE = auto()
    LIST = auto()
    CONTINUED = auto()
    RESPONSE = auto()
    CONVERSATION = auto()
    OPENED = auto()
    ACTIVITY = auto()
    TOOL = auto()
    CONNECTION = auto()
    """Of ACP: nobody reads on the way what is said on it."""


BY_NAME = {
    "create_session": Rule.PLACED,
    "generate": Rule.PLACED,
    "create_response": Rule.CONTINUED,
    "create_completion": Rule.CONTINUED,
    "create_conversation": Rule.OPENED,
    "create_terminal_token": Rule.TOKEN,
    "open_terminal": Rule.SOCKET,
    "watch_activity": Rule.ACTIVITY,
    "mcp": Rule.TOOL,
    **dict.fromkeys(merge.LISTS, Rule.LIST),
}
BY_PARAMETER = {
    "{session_id}": Rule.SESSION,
    "{task_id}": Rule.TASK,
    "{terminal_id}": Rule.TERMINAL,
    "{response_id}": Rule.RESPONSE,
    "{conversation_id}": Rule.CONVERSATION,
}
BY_TAG = {"files": Rule.WORKSPACE, "git": Rule.WORKSPACE, "faces": Rule.CONNECTION}

ABOUT_ONE = frozenset({Rule.SESSION, Rule.TASK, Rule.RESPONSE, Rule.CONVERSATION, Rule.TOOL})
NOT_THERE = frozenset({404, 409})
BEGINS = frozenset({Rule.PLACED, Rule.CONTINUED, Rule.OPENED})
"""What may make a session."""


def rules(groups: tuple[Group, ...]) -> dict[Handler, Rule]:
    """By handler."""
    found = {}
    for group in groups:
        for operation in group.operations:
            named = (rule for part, rule in BY_PARAMETER.items() if part in operation.path)
            rule = BY_NAME.get(operation.name) or next(named, None) or BY_TAG.get(group.tag)
            if rule is not None:
                found[operation.handler] = rule
    return found


class Router:
    """Of one server of a fleet. `has_session`: is it in our database, or about to be?"""

    def __init__(
        self,
        homes: RedisHomes,
        registry: Registry,
        forwarder: Forwarder,
        has_session: Callable[[SessionId], Awaitable[bool]],
        rules: Mapping[Handler, Rule],
    ) -> None:
        self._homes = homes
        self._me = homes.name
        self._registry = registry
        self._forwarder = forwarder
        self._has_session = has_session
        self._rules = rules

    @web.middleware
    async def to_its_home(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The innermost: the caller is known, and what may be asked of anybody has been."""
        self.require_me(request)
        rule = self._rules.get(request.match_info.handler)
        if rule is None:
            return await handler(request)
        return await self.route(request, handler, rule)

    def require_me(self, request: web.Request) -> None:
        """Raises Unavailable (`owner_unreachable`) when it is not meant for us, but for who had our address before."""
        if hop.is_for_another(request, self._me):
            raise owner_unreachable(request.headers[hop.TO])

    async def route(self, request: web.Request, handler: Handler, rule: Rule) -> web.StreamResponse:
        if hop.is_hop(request):
            return await self._at_home(request, handler, rule)
        match rule:
            case Rule.SESSION:
                return await self._to_session(request, handler, request.match_info["session_id"])
            case Rule.PLACED | Rule.OPENED:
                return await self._to_place(request, handler)
            case Rule.TASK:
                return await self._to_task(request, handler, request.match_info["task_id"])
            case Rule.RESPONSE:
                task_id = request.match_info["response_id"].removeprefix(RESPONSE)
                return await self._to_task(request, handler, task_id)
            case Rule.CONVERSATION:
                session_id = request.match_info["conversation_id"].removeprefix(CONVERSATION)
                return await self._to_session(request, handler, session_id)
            case Rule.CONTINUED:
                return await self._to_continued(request, handler)
            case Rule.TERMINAL:
                key = terminal_key(request.match_info["terminal_id"])
                return await self._go(request, handler, key, await self._locate(request, key))
            case Rule.TOKEN:
                return await self._to_new_terminal(request, handler)
            case Rule.SOCKET:
                return await self._to_socket(request, handler)
            case Rule.WORKSPACE:
                return await self._to_workspace(request, handler)
            case Rule.LIST:
                return await self._to_all(request, handler)
            case Rule.ACTIVITY:
                return await everywhere.watch(request, self._registry, self._forwarder)
            case Rule.TOOL:
                return await self._to_tool(request, handler)
            case Rule.CONNECTION:
                return await self._to_connection(request, handler)

    # By what the request says

    async def _to_session(
        self, request: web.Request, handler: Handler, session_id: str, body: Body = None
    ) -> web.StreamResponse:
        if not SESSION_ID.match(session_id):
            return await handler(request)
        key = session_key(session_id)
        return await self._go(request, handler, key, await self._locate(request, key), body)

    async def _to_continued(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A response: where the one before it is at home, or its conversation; else as a new prompt."""
        if SESSION_HEADER in request.headers:
            return await self._to_place(request, handler)
        body = await peek_body(request)
        peek = peek_at(request, body)
        if isinstance(before := peek.previous_response_id, str):
            return await self._to_task(request, handler, before.removeprefix(RESPONSE), body)
        named = peek.conversation.get("id") if isinstance(peek.conversation, dict) else peek.conversation
        if isinstance(named, str):
            return await self._to_session(request, handler, named.removeprefix(CONVERSATION), body)
        return await self._to_place(request, handler, conversation_of(request, peek))

    async def _to_place(
        self, request: web.Request, handler: Handler, named: str | None = None
    ) -> web.StreamResponse:
        """A prompt, or a new session: where it is at home, or where there is room. `named`: by more than its body."""
        body = None
        if (session_id := session_in_header(request)) is None:
            body = await peek_body(request)
            peek = peek_at(request, body)
            session_id, server = named or peek.session_id, self._named(peek.server)
        else:
            server = ""
        key = session_key(session_id) if session_id else ""
        home = await self._locate(request, key) if key else None
        if home is not None and server not in ("", home):
            home = await self._known_now(key, home)
        if home is None:
            if request.headers.get("Last-Event-ID") or request.query.get("lastEventId"):
                return await handler(request)  # Whoever comes back begins nothing.
            if body:
                await require_valid(request, body, request.app[BODIES][request.match_info.handler])
            home = await self._placed(key, server)
        if server not in ("", home):
            raise Conflict(
                f"session {session_id} is at home on server {home}, not {server}; leave out server",
                code="server_mismatch",
                extra={"server": home},
            )
        if home == self._me:
            return await self._begin(request, handler, session_id)
        return await self._go(request, handler, key, home, body)

    async def _to_task(
        self, request: web.Request, handler: Handler, task_id: str, body: Body = None
    ) -> web.StreamResponse:
        number = number_in(task_id)
        key = f"{JOB}{task_id}"
        home = self._registry.named_by(number) if number else None
        if home is None:
            home = self._homes.known(key) or await self._find_job(request, key)
        return await self._go(request, handler, key, home, body)

    async def _to_new_terminal(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await peek_body(request)
        peek = peek_at(request, body)
        if isinstance(peek.terminal, str) and NAME.match(peek.terminal):
            key = terminal_key(peek.terminal)
            if (home := await self._locate(request, key)) is not None:
                return await self._go(request, handler, key, home, body)
        return await self._go(request, handler, "", await self._workplace(request, peek), body)

    async def _to_socket(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        home = server_of_token(request)
        if home in (None, self._me) or self._registry.peer(home or "") is None:
            return await handler(request)
        return await splice(request, self._forwarder, home or "")

    async def _to_tool(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A call of MCP: where its job or its session is at home; a prompt that begins one, where there is room."""
        body = None
        if (session_id := session_in_header(request)) is not None:
            call = ToolCall(session_id, begins=True)
        else:
            body = await peek_body(request)
            call = tool_call_in(body)
        if call.task_id is not None:
            return await self._to_task(request, handler, call.task_id, body)
        key = session_key(call.session_id) if call.session_id else ""
        home = await self._locate(request, key) if key else None
        if home is None and call.begins:
            # Only chosen: it takes its id itself, when nothing is wrong with the call.
            home = await self._placed("", "")
        return await self._go(request, handler, key, home, body)

    async def _to_connection(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """ACP: what is said of a connection goes to the server that has it."""
        home = await self._home_of_connection(request)
        if home in (None, self._me):
            return await handler(request)
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return await splice(request, self._forwarder, home or "")
        return await self._go(request, handler, "", home)

    async def _home_of_connection(self, request: web.Request) -> str | None:
        """A new one is made where its session is, else here, unless this server takes no sessions."""
        if (connection := request.headers.get(CONNECTION_HEADER)) is not None:
            number = number_in(connection)
            return self._registry.named_by(number) if number else None
        if (session_id := session_in_header(request)) is not None:
            home = await self._locate(request, session_key(session_id))
            if home is not None:
                return home
        return self._me if self._registry.own_load().accepts else await self._placed("", "")

    async def _to_workspace(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = None
        peek = Peek()
        if request.app[BODIES].get(request.match_info.handler) is not None:
            body = await peek_body(request)
            peek = peek_at(request, body)
        return await self._go(request, handler, "", await self._workplace(request, peek), body)

    async def _to_all(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if session_id := request.query.get("session_id"):
            return await self._to_session(request, handler, session_id)
        return await merge.answer(request, handler, self._registry.others(), self._forwarder)

    # Where that is

    async def _go(
        self,
        request: web.Request,
        handler: Handler,
        key: str,
        home: str | None,
        body: Body = None,
    ) -> web.StreamResponse:
        """Answer here, or pass it on."""
        for _ in range(2):
            if home in (None, self._me):
                request[ABOUT_SESSION] = home is not None and key[:2] in (session_key(""), JOB)
                return await handler(request)
            try:
                return await self._forwarder.pass_on(request, home or "", body, partial(self._has_moved, key))
            except NotThere:
                # It was deleted there, and made anew elsewhere.
                home = await self._locate(request, key)
        raise Unavailable("this changes its home all the time; try again", code="owner_unreachable")

    async def _has_moved(self, key: str, answer: ClientResponse) -> bool:
        """Is its home another one than the one that we thought it is, and that has answered?

        For sessions and terminals; jobs are where they are. Who has a session says so, also where it is not 404.
        """
        is_told = not key.startswith(session_key("")) or hop.SERVER in answer.headers
        before = self._homes.known(key)
        if (answer.status not in NOT_THERE and is_told) or before is None or key.startswith(JOB):
            return False
        return await self._known_now(key, before) != before

    async def _known_now(self, key: str, before: str) -> str | None:
        """The home, looked up although we know one; that one when it cannot be."""
        self._homes.disremember(key)
        try:
            return await self._looked_up(key)
        except Unavailable:
            self._homes.remember(key, before)
            return before

    async def _locate(self, request: web.Request, key: str) -> str | None:
        """The home of a session or a terminal; None: nobody has it. Raises Unavailable when that is not known."""
        if (known := self._homes.known(key)) is not None:
            return known
        if await self._is_here(request, key):
            return self._me
        try:
            return await self._looked_up(key)
        except Unavailable as exc:
            return await self._ask_all(request, key, exc)

    async def _looked_up(self, key: str) -> str | None:
        """What the book says; one that is incomplete may be whole in a moment."""
        try:
            return await self._homes.find(key)
        except Unavailable as exc:
            if exc.code != "directory_incomplete":
                raise
            await self._registry.look()
            return await self._homes.find(key)

    async def _is_here(self, request: web.Request, key: str) -> bool:
        kind, id_ = key[:2], key[2:]
        if kind == JOB:
            return await _has_job(request, TurnId(id_))
        if kind == terminal_key(""):
            return request.app[TERMINALS].has(TerminalId(id_))
        return await self._has_session(SessionId(id_))

    async def _ask_all(self, request: web.Request, key: str, why: Unavailable) -> str | None:
        """The home, when the book does not tell: somebody says that it has this, or all say that they do not."""
        others = self._registry.others()
        found = await asyncio.gather(*(merge.has(self._forwarder, peer, key) for peer in others))
        for peer, has in zip(others, found, strict=True):
            if has:
                self._homes.remember(key, peer.name)
                return peer.name
        silent = [peer.name for peer, has in zip(others, found, strict=True) if has is None]
        known = {self._me, *(peer.name for peer in others)}
        if silent or not known.issuperset(self._registry.view.missing):
            raise why
        return None

    async def _find_job(self, request: web.Request, key: str) -> str | None:
        if await self._is_here(request, key):
            return self._me
        silent = Unavailable(
            "not all servers of the fleet answer, and this job may be on one that does not; try again later",
            code="directory_incomplete",
        )
        return await self._ask_all(request, key, silent)

    async def _placed(self, key: str, server: str) -> str:
        try:
            return await self._homes.place(key, server)
        except Unavailable as exc:
            if exc.code == "directory_incomplete":
                await self._registry.look()
                return await self._homes.place(key, server)
            # An id that the server makes is nobody else's.
            accepting = [peer for peer in self._registry.accepting() if peer.is_understood]
            if key or exc.code == "no_server" or not accepting:
                raise
            return server or accepting[0].name

    async def _workplace(self, request: web.Request, peek: Peek) -> str | None:
        """Whose files and directories are meant."""
        if server := self._named(request.query.get("server", peek.server)):
            return server
        session_id = session_in_header(request) or request.query.get("session_id", peek.session_id)
        if session_id is not None:
            is_id = SESSION_ID.match(session_id) is not None
            home = await self._locate(request, session_key(session_id)) if is_id else None
            if home is not None:
                return home
            raise NotFound(f"there is no session {session_id}", code="session_not_found")
        if request.app[CONFIG].workspace_shared:
            return self._me
        accepting = self._registry.accepting()
        if len(accepting) == 1:
            return accepting[0].name
        if not self._registry.others():
            return self._me
        raise InvalidInput(
            "this fleet's servers have files of their own: say whose with session_id or server",
            code="server_required",
        )

    def _named(self, server: Any) -> str:
        """A server of the fleet that the client has named; empty when it has not. Raises InvalidInput, Unavailable."""
        if server is None:
            return ""
        if server == self._me:
            return self._me
        if not isinstance(server, str) or (peer := self._registry.peer(server)) is None:
            raise invalid_field("server", "is none of this fleet's servers; GET /servers lists them")
        require_understood(peer)
        return server

    # At home

    async def _at_home(self, request: web.Request, handler: Handler, rule: Rule) -> web.StreamResponse:
        # A list would be empty: only who has the session says that it is about one.
        listed = SessionId(request.query.get("session_id", "")) if rule is Rule.LIST else None
        request[ABOUT_SESSION] = rule in ABOUT_ONE or (listed is not None and await self._has_session(listed))
        if rule not in BEGINS:
            return await handler(request)
        session_id = session_in_header(request)
        if session_id is None:
            peek = peek_at(request, await peek_body(request))
            session_id = conversation_of(request, peek) if rule is Rule.CONTINUED else peek.session_id
        return await self._begin(request, handler, session_id)

    async def _begin(
        self, request: web.Request, handler: Handler, session_id: str | None
    ) -> web.StreamResponse:
        """What may make a session. An id that was placed here and is not taken is free again."""
        request[ABOUT_SESSION] = True
        try:
            response = await handler(request)
        except AgentsrvError:
            await self._abandon(session_id)
            raise
        if response.status >= 400:
            await self._abandon(session_id)
        return response

    async def _abandon(self, session_id: str | None) -> None:
        if session_id is not None and not await self._has_session(SessionId(session_id)):
            await self._homes.abandon(SessionId(session_id))


async def _has_job(request: web.Request, turn_id: TurnId) -> bool:
    try:
        await request.app[TURNS].get(turn_id)
    except NotFound:
        return False
    return True
