"""The server as a model with a memory: OpenAI's Responses and Conversations.

A response is a turn, a conversation a session, and their ids say so. Nothing is kept besides: what a response has come
to, and each event of its stream with its `sequence_number`, follows from the log, so that a stream that was cut goes on
where it was, whatever has become of the server meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from agentsrv.errors import Conflict, invalid_field
from agentsrv.faces.chat import Chat, Wanted
from agentsrv.faces.responses_words import (
    ENDS,
    Event,
    Output,
    conversation_id,
    no_item,
    response_of,
    session_of,
    status_of,
    turn_of,
    turn_of_item,
    user_item,
)
from agentsrv.jsontext import as_object
from agentsrv.model import Outcome, Seq, Session, SessionId, Turn, TurnId, TurnStatus
from agentsrv.turns.history import History
from agentsrv.turns.service import TurnService
from agentsrv.turns.sessions import SessionService

PAGE = 100


class Place(Struct, frozen=True):
    """Which conversation a response is of, in the words of its client."""

    previous_response_id: str | None = None
    conversation: str | None = None


class Numbered(NamedTuple):
    """Events of a stream, and the `sequence_number` of the first one."""

    first: int
    events: list[Event]


class Responses:
    def __init__(self, chat: Chat, turns: TurnService, sessions: SessionService, history: History) -> None:
        self._chat = chat
        self._turns = turns
        self._sessions = sessions
        self._history = history

    # Responses

    async def begin(self, wanted: Wanted, place: Place) -> Turn:
        """Give the prompt to the agent. Raises what `Prompts.send` does, and Conflict (`response_superseded`)."""
        if place.previous_response_id and place.conversation:
            raise invalid_field("previous_response_id", "leave it out where `conversation` is given")
        session_id = wanted.session_id
        if place.conversation:
            session_id = (await self._sessions.get(session_of(place.conversation))).id
        elif place.previous_response_id:
            session_id = await self._session_after(place.previous_response_id, wanted.message_id)
        return await self._chat.begin(replace(wanted, session_id=session_id))

    async def _session_after(self, previous_id: str, message_id: str | None) -> SessionId:
        """An agent's memory is one line: nobody can go on from a response that others have followed."""
        previous = await self._turns.get(turn_of(previous_id))
        (newest, *_), _ = await self._turns.list_turns(
            session_id=previous.session_id, status=None, limit=1, cursor=None
        )
        is_repeated = message_id is not None and newest.message_id == message_id
        # What others say in the session, or its agent begins by itself, is no response and part of what is remembered.
        is_response = (await self._turns.get(newest.id)).options.notes is not None
        if newest.id != previous.id and is_response and not is_repeated:
            raise Conflict(
                f"{previous_id} is not the last response of its conversation; go on from that one, or begin anew",
                code="response_superseded",
            )
        return previous.session_id

    async def get(self, response_id: str) -> Turn:
        """The turn that a response is. Raises NotFound (`job_not_found`)."""
        return await self._turns.get(turn_of(response_id))

    async def view(self, turn: Turn) -> dict[str, Any]:
        """The response as it is now. Raises NotFound."""
        session = await self._sessions.get(turn.session_id)
        turn = await self._turns.get(turn.id)
        _, items = await self._items_of(session, turn)
        return response_of(turn, session.agent, items)

    async def ended(self, turn: Turn) -> dict[str, Any]:
        """The response once it has ended; as it is, when the server stops before."""
        async with aclosing(self._turns.follow_turn(turn, 0)) as chunks:
            async for _ in chunks:
                pass
        return await self.view(turn)

    async def events(self, turn: Turn, after: int = -1) -> AsyncGenerator[Numbered, None]:
        """The events of its stream that come after one, some at once, to the last one."""
        number = 0
        async with aclosing(self._all_events(turn)) as groups:
            async for group in groups:
                skipped = max(after + 1 - number, 0)
                if skipped < len(group):
                    yield Numbered(number + skipped, group[skipped:])
                number += len(group)

    async def _all_events(self, turn: Turn) -> AsyncGenerator[list[Event], None]:
        session = await self._sessions.get(turn.session_id)
        output = Output(turn, session.agent)
        begun = response_of(replace(turn, status=TurnStatus.RUNNING, outcome=None), session.agent, [])
        yield [{"type": f"response.{word}", "response": begun} for word in ("created", "in_progress")]
        async with aclosing(self._values(session, turn)) as found:
            async for _, values in found:
                events = [event for value in values for event in output.read(value)]
                if values and values[-1].get("done"):
                    turn = await self._turns.get(turn.id)
                    yield (
                        events
                        + output.end(turn.outcome or Outcome(turn.status))
                        + [_last(turn, session, output)]
                    )
                    return
                yield events

    async def _values(
        self, session: Session, turn: Turn
    ) -> AsyncGenerator[tuple[Seq, list[dict[str, Any]]], None]:
        """What the turn tells, by the chunk: its last event, and the values."""
        follow = partial(self._turns.follow_turn, turn)
        found = self._history.updates(session, follow, 0, first=turn.first_seq or None)
        async with aclosing(found) as chunks:
            async for seen, told in chunks:
                yield seen, [value for _, values in told for value in values if isinstance(value, dict)]

    async def cancel(self, response_id: str) -> dict[str, Any]:
        """End it, whether it runs or waits. Raises NotFound."""
        return await self.view(await self._turns.cancel(turn_of(response_id)))

    async def delete(self, response_id: str) -> None:
        """Delete it with its session, which has nothing else.

        Raises NotFound, Conflict (`response_in_conversation`).
        """
        turn = await self.get(response_id)
        others, _ = await self._turns.list_turns(
            session_id=turn.session_id, status=None, limit=2, cursor=None
        )
        if len(others) > 1:
            raise Conflict(
                f"{response_id} is part of a conversation, which is not forgotten in parts; "
                f"delete {conversation_id(turn.session_id)}",
                code="response_in_conversation",
            )
        await self._sessions.delete(turn.session_id, force=True)

    # Conversations

    async def create_conversation(
        self, *, model: str | None, cwd: str | None, metadata: dict[str, str]
    ) -> Session:
        """Its agent is that of `model`, or the server's default. Raises what `SessionService.create` does."""
        agent = model.partition("/")[0] if model else None
        return await self._sessions.create(
            session_id=None, agent=agent, cwd=cwd, model=None, name=None, metadata=metadata
        )

    async def conversation(self, conversation: str) -> Session:
        """Raises NotFound (`session_not_found`)."""
        return await self._sessions.get(session_of(conversation))

    async def note(self, conversation: str, metadata: dict[str, str]) -> Session:
        """Set its metadata. Raises NotFound."""
        return await self._sessions.update(session_of(conversation), metadata=metadata)

    async def delete_conversation(self, conversation: str) -> None:
        """With all its responses. Raises NotFound."""
        await self._sessions.delete(session_of(conversation), force=True)

    async def items(
        self, conversation: str, *, limit: int, after: str | None, is_newest_first: bool
    ) -> tuple[list[dict[str, Any]], bool]:
        """Some of what was said and done, and whether there is more. Raises NotFound."""
        session = await self.conversation(conversation)
        turns = await self._turn_ids(session)
        if not is_newest_first:
            turns.reverse()
        if after:
            if (start := turn_of_item(after)) not in turns:
                raise no_item(after)
            turns = turns[turns.index(start) :]
        found: list[dict[str, Any]] = []
        for turn_id in turns:
            said, done = await self._items_of(session, await self._turns.get(turn_id))
            items = said + done if not is_newest_first else (said + done)[::-1]
            found += _behind(items, after) if after and turn_id == turns[0] else items
            if len(found) > limit:
                break
        return found[:limit], len(found) > limit

    async def _turn_ids(self, session: Session) -> list[TurnId]:
        """All of the session, the newest first."""
        found: list[TurnId] = []
        cursor = None
        while True:
            page, cursor = await self._turns.list_turns(
                session_id=session.id, status=None, limit=PAGE, cursor=cursor
            )
            found += [turn.id for turn in page]
            if cursor is None:
                return found

    async def _items_of(
        self, session: Session, turn: Turn
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What was said to the agent in a turn so far, and what that has said and done."""
        said: list[dict[str, Any]] = []
        output = Output(turn, session.agent)
        if (last := self._turns.last_seq(turn)) >= turn.first_seq > 0:
            async with aclosing(self._values(session, turn)) as found:
                async for seen, values in found:
                    for value in values:
                        update = as_object(value.get("update"))
                        if update.get("sessionUpdate") == "user_message_chunk":
                            said.append(user_item(turn.id, update, len(said)))
                        output.read(value)
                    if seen >= last:
                        break
        if turn.status.is_final:
            output.end(turn.outcome or Outcome(turn.status))
        return said, output.items


def _behind(items: list[dict[str, Any]], after: str) -> list[dict[str, Any]]:
    ids = [item["id"] for item in items]
    if after not in ids:
        raise no_item(after)
    return items[ids.index(after) + 1 :]


def conversation_view(session: Session) -> dict[str, Any]:
    """A conversation as clients see it."""
    return {
        "id": conversation_id(session.id),
        "object": "conversation",
        "created_at": session.created_at // 1000,
        "metadata": session.metadata,
    }


def _last(turn: Turn, session: Session, output: Output) -> Event:
    response = response_of(turn, session.agent, output.items)
    return {"type": f"response.{ENDS[status_of(turn)]}", "response": response}
