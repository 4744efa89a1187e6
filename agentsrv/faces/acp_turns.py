"""What happens in the sessions that an ACP connection has opened, and what is asked there, told to its client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from msgspec import Struct, field

from agentsrv.agents import AgentRegistry
from agentsrv.errors import AgentsrvError
from agentsrv.faces.acp_words import RpcError, as_dict, end_of, form_of
from agentsrv.faces.listing import Listing
from agentsrv.faces.rpc import INTERNAL
from agentsrv.jsontext import as_object
from agentsrv.model import PermissionMode, Seq, Session, SessionId, Turn, TurnId
from agentsrv.tasks import Tasks
from agentsrv.turns.history import History
from agentsrv.turns.prompts import Prompts
from agentsrv.turns.service import TurnService
from agentsrv.turns.sessions import SessionService

ASK = "ask-"
"""How the ids of our requests begin."""

Messages = Sequence[Mapping[str, Any]]
"""What is told at once, in this order."""

Send = Callable[[Messages], Awaitable[None]]


class Means(Struct, frozen=True):
    """The services that all connections share."""

    version: str
    max_message_bytes: int
    prompts: Prompts
    turns: TurnService
    sessions: SessionService
    listing: Listing
    history: History
    agents: AgentRegistry
    default_mode: PermissionMode


class Opened(Struct):
    """A session that a connection has opened. `following`: the turns whose news it gets, and who tells them."""

    mcp_servers: dict[str, Any] | None = None
    following: dict[TurnId, object] = field(default_factory=dict)


class Telling:
    """Of one connection. `can_be_asked`: its client shows forms."""

    def __init__(self, means: Means, send: Send, tasks: Tasks) -> None:
        self.can_be_asked = False
        self.opened: dict[SessionId, Opened] = {}
        self._means = means
        self._send = send
        self._tasks = tasks

    async def replay(self, session: Session, last: Seq) -> None:
        """Tell all that was said up to an event."""
        if last == 0:
            return
        follow = partial(self._means.turns.follow_session, session.id)
        async with aclosing(self._means.history.updates(session, follow, 0)) as updates:
            async for seen, told in updates:
                found = [_update(session.id, seq, as_dict(value)) for seq, values in told for value in values]
                await self._tell(found)
                if seen >= last:
                    return

    async def follow(self, session: Session, turn: Turn, after: Seq) -> dict[str, Any]:
        """Tell what the turn does after an event; how it ended. Raises RpcError for a turn that has failed.

        Who comes last tells it: one that was told before only waits for its end from then on.
        """
        following, me = self.opened.setdefault(session.id, Opened()).following, object()
        following[turn.id] = me
        await self._ask_again(session, turn, after)
        error: Mapping[str, Any] = {}
        async with aclosing(self._updates(session, turn, after)) as updates:
            async for _, told in updates:
                if following.get(turn.id) is me:
                    await self._tell([self._news(session.id, turn, seq, value) for seq, value in told])
                for _, value in told:
                    if value.get("type") == "error":
                        error = value
                    if value.get("done"):
                        if following.get(turn.id) is me:
                            del following[turn.id]
                        return end_of(value, error)
        raise RpcError(INTERNAL, "the server stops; the turn goes on", {"code": "draining"})

    def follow_running(self, session: Session, after: Seq) -> None:
        """What runs in the session is followed, and what it asks is asked here as well."""
        opened = self.opened[session.id]
        if (turn_id := session.active_turn_id) is not None and turn_id not in opened.following:
            opened.following[turn_id] = None
            self._tasks.spawn(self._follow_found(session, turn_id, after), name=f"follow:{turn_id}")

    def leave(self, session_id: SessionId) -> None:
        """Tell no more of the session; a prompt that waits for its turn's end is still answered."""
        if (opened := self.opened.pop(session_id, None)) is not None:
            opened.following.clear()

    async def notify(self, session_id: SessionId, update: dict[str, Any]) -> None:
        await self._send([_notification({"sessionId": session_id, "update": update})])

    async def _tell(self, messages: Iterable[dict[str, Any] | None]) -> None:
        if told := [message for message in messages if message is not None]:
            await self._send(told)

    async def _follow_found(self, session: Session, turn_id: TurnId, after: Seq) -> None:
        with suppress(AgentsrvError, RpcError):
            turn = await self._means.turns.get(turn_id)
            await self.follow(session, turn, after)

    async def _ask_again(self, session: Session, turn: Turn, last: Seq) -> None:
        """Ask what was asked up to an event and still waits, by reading the turn from its beginning."""
        ids = {asked.question.id for asked in self._means.turns.questions() if asked.turn.id == turn.id}
        if not ids or last < turn.first_seq:
            return
        async with aclosing(self._updates(session, turn, turn.first_seq - 1)) as updates:
            async for seen, told in updates:
                asked = [value for seq, value in told if seq <= last and value.get("requestId") in ids]
                await self._tell([self._question(session.id, turn, value) for value in asked])
                if seen >= last:
                    return

    async def _updates(
        self, session: Session, turn: Turn, after: Seq
    ) -> AsyncGenerator[tuple[Seq, list[tuple[Seq, dict[str, Any]]]], None]:
        """What the turn tells after an event, by the chunk: its last event, and each value with its own."""
        follow = partial(self._means.turns.follow_turn, turn)
        found = self._means.history.updates(session, follow, after, first=turn.first_seq or None)
        async with aclosing(found) as chunks:
            async for seen, told in chunks:
                yield seen, [(seq, as_dict(value)) for seq, values in told for value in values]

    def _news(
        self, session_id: SessionId, turn: Turn, seq: Seq, value: dict[str, Any]
    ) -> dict[str, Any] | None:
        """What the client is told of a value; None: nothing, as of its own words."""
        if value.get("type") == "permission_request":
            return self._question(session_id, turn, value)
        if as_object(value.get("update")).get("messageId") == turn.id:
            return None
        return _update(session_id, seq, value)

    def _question(self, session_id: SessionId, turn: Turn, event: dict[str, Any]) -> dict[str, Any] | None:
        """For a client that can be asked this; somebody else may answer first."""
        request = event.get("request")
        if isinstance(request, dict):
            method, params = "session/request_permission", request
        elif self.can_be_asked and event.get("kind") == "question":
            method, params = "elicitation/create", form_of(session_id, event)
        else:
            return None
        # It says by itself what it is about: an answer may come over a later connection.
        id_ = f"{ASK}{turn.id}/{event.get('requestId')}"
        return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def _update(session_id: SessionId, seq: Seq, value: dict[str, Any]) -> dict[str, Any] | None:
    if not (update := as_object(value.get("update"))):
        return None
    return _notification({"sessionId": session_id, "update": update, "_meta": {"agentsrv": {"eventId": seq}}})


def _notification(params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "session/update", "params": params}
