"""A session's log as ACP (Agent Client Protocol) notifications: the same for every agent.

An event gives none, one or several of them. What the server itself says has no counterpart in ACP and passes on
as it is, in our own shapes. The fold begins anew with each turn, so who comes in the middle of one needs its
events from the first one on, and nothing that was before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct, field

from agentsrv.agents.updates import (
    CallFields,
    Recent,
    StopReason,
    Update,
    UpdateReader,
    as_id,
    as_objects,
    as_text,
    image_block,
    text_block,
    tool_call_update,
    user_message_chunk,
)
from agentsrv.jsontext import as_object, load_object, raw_event
from agentsrv.model import Chunk, Decision, Seq, SessionId, Source, TurnId, TurnStatus
from agentsrv.projections.states import dumps, loads

log = logging.getLogger(__name__)

Value = dict[str, Any] | msgspec.Raw
"""One notification, or an event of our own."""

Told = tuple[Seq, list[Value]]
"""What an event has to tell."""

OURS = frozenset(
    {
        "error",
        "raw",
        "gap",
        "prompt_dropped",
        "permission_request",
        "permission_resolved",
        "timer",
        "background_ended",
    }
)
"""The types of events that the server makes, or makes of an agent's line."""

MESSAGES = frozenset({"error", "raw", "system"})
"""Those of them that belong to the conversation, and not to its course."""

QUESTIONS = frozenset({"permission_request", "permission_resolved"})

LIMITS: frozenset[StopReason] = frozenset({"max_tokens", "max_turn_requests", "refusal"})
"""Why a turn may fail and ACP knows a word for it."""

REMEMBER = "allow-session"
OPTIONS = (
    {"optionId": "allow", "name": "Allow", "kind": "allow_once"},
    {"optionId": REMEMBER, "name": "Allow for this session", "kind": "allow_always"},
    {"optionId": "deny", "name": "Deny", "kind": "reject_once"},
)

_decode = msgspec.json.Decoder().decode


class _Turn(Struct):
    """How far the fold of a turn has come. `asked`: the calls that questions are about, which nobody has answered."""

    id: TurnId | None
    reader: UpdateReader
    open_calls: Recent[str] = field(default_factory=Recent)
    asked: Recent[str] = field(default_factory=Recent)


class Acp:
    """The fold for one follower. `messages_only`: whole messages alone, for a reader of history; `has_questions`: and
    what was asked and answered between them.

    Events up to `after` are folded and not told of. `state` is what another fold of this session and kind had
    come to at an event of the same turn: what follows that event is to be read here.
    """

    def __init__(
        self,
        session_id: SessionId,
        make_reader: Callable[[], UpdateReader],
        *,
        after: Seq = 0,
        messages_only: bool = False,
        has_questions: bool = False,
        state: bytes | None = None,
    ) -> None:
        self._session_id = session_id
        self._make_reader = make_reader
        self._after = after
        self._messages_only = messages_only
        self._ours = MESSAGES | QUESTIONS if has_questions else MESSAGES
        self._turn: _Turn = _Turn(None, make_reader()) if state is None else loads(state)

    def state(self) -> bytes:
        """What the fold has come to, for others to go on from. Bounded, as the fold is."""
        return dumps(self._turn)

    def read(self, chunk: Chunk) -> list[Told]:
        """What each event has to tell, but for events that have nothing."""
        # What comes between two turns belongs to the one before.
        if chunk.turn_id is not None and chunk.turn_id != self._turn.id:
            self._turn = _Turn(chunk.turn_id, self._make_reader())
        found: list[Told] = []
        for seq, line in enumerate(chunk.lines(), chunk.first_seq):
            values = self._values(chunk.source, line)
            # What has no place in the log has the seq 0, and is news to everybody.
            if values and not 0 < seq <= self._after:
                found.append((seq, values))
        return found

    def _values(self, source: Source, line: bytes) -> list[Value]:
        try:
            message = _load(line)
            if message is None:
                return [msgspec.Raw(raw_event(line))]
            if source is not Source.AGENT or as_text(message.get("type")) in OURS:
                return self._our_values(message, line)
            return self._told(self._turn.reader.read(message))
        except Exception as exc:
            # Not its message: that may quote the line. A hostile line must not end the stream for ever.
            log.error("session %s has an event that is beyond us: %s", self._session_id, type(exc).__name__)
            return []

    def _our_values(self, message: dict[str, Any], line: bytes) -> list[Value]:
        match message.get("type"):
            case "user":
                return self._told(_user_chunks(message))
            case _ if message.get("done"):
                return self._done(message)
            case type_ if self._messages_only:
                return [msgspec.Raw(line)] if as_text(type_) in self._ours else []
            case "permission_request" if message.get("kind") == "permission":
                return [message | {"request": self._request(message)}]
            case "permission_resolved":
                return [*self._told(self._resolved(message)), msgspec.Raw(line)]
            case _:
                return [msgspec.Raw(line)]

    def _request(self, event: dict[str, Any]) -> dict[str, Any]:
        """A question as ACP asks it (`session/request_permission`); the answer goes to our own route."""
        call_id = as_id(event.get("toolCallId")) or as_id(event.get("requestId"))
        self._turn.asked[as_id(event.get("requestId"))] = call_id
        if call_id in self._turn.open_calls:
            self._turn.open_calls[call_id] = "pending"
        named: CallFields = {"title": as_text(event.get("title"))}
        call = {"toolCallId": call_id, **named, **self._turn.reader.asked(event), "status": "pending"}
        options = [option for option in OPTIONS if option["optionId"] != REMEMBER or event.get("allowance")]
        return {"sessionId": self._session_id, "toolCall": call, "options": options}

    def _resolved(self, event: dict[str, Any]) -> list[Update]:
        """What an answer does to the call that it is about: allowed, it goes on; refused, the agent says so.

        A call that the question alone has told of ends with it.
        """
        call_id = self._turn.asked.pop(as_id(event.get("requestId")))
        is_allowed = event.get("decision") == Decision.ALLOW
        if call_id is None:
            return []
        if call_id not in self._turn.open_calls:
            return [tool_call_update(call_id, {"status": "completed" if is_allowed else "failed"})]
        return [tool_call_update(call_id, {"status": "in_progress"})] if is_allowed else []

    def _done(self, message: dict[str, Any]) -> list[Value]:
        """Calls that nobody will tell the end of have failed; a command in the background may go on."""
        has_worked = message.get("status") == TurnStatus.COMPLETED
        ended = [
            tool_call_update(call_id, {"status": "failed"})
            for call_id, status in self._turn.open_calls.items()
            if not has_worked or status == "pending"
        ]
        values = self._told([*self._turn.reader.rest(), *ended])
        if not self._messages_only:
            reason = _stop_reason(as_text(message.get("status")), self._turn.reader.stop_reason)
            values.append(message if reason is None else message | {"stopReason": reason})
        return values

    def _told(self, updates: list[Update]) -> list[Value]:
        for update in updates:
            self._note_call(update)
        return [{"sessionId": self._session_id, "update": update} for update in updates]

    def _note_call(self, update: Update) -> None:
        if (call_id := update.get("toolCallId")) is None or (status := update.get("status")) is None:
            return
        if status in ("pending", "in_progress"):
            self._turn.open_calls[call_id] = status
        else:
            self._turn.open_calls.pop(call_id)


def _load(line: bytes) -> dict[str, Any] | None:
    try:
        message = _decode(line)
    except (ValueError, RecursionError):
        return load_object(line)
    return message if isinstance(message, dict) else None


def _user_chunks(message: dict[str, Any]) -> list[Update]:
    """A prompt: its text and images, in the shape that they have for every agent."""
    message_id = as_text(message.get("uuid")) or None
    content = as_object(message.get("message")).get("content")
    if isinstance(content, str):
        # Of the earlier server.
        return [user_message_chunk(text_block(content), message_id)]
    found: list[Update] = []
    for block in as_objects(content):
        source = as_object(block.get("source"))
        if block.get("type") == "text":
            found.append(user_message_chunk(text_block(as_text(block.get("text"))), message_id))
        elif block.get("type") == "image" and source.get("type") == "base64":
            image = image_block(as_text(source.get("data")), as_text(source.get("media_type")))
            found.append(user_message_chunk(image, message_id))
    return found


def _stop_reason(status: str, said: StopReason | None) -> StopReason | None:
    """Why a turn ended, in ACP's words; it has none for one that failed."""
    match status:
        case TurnStatus.COMPLETED:
            return said or "end_turn"
        case TurnStatus.CANCELLED:
            return "cancelled"
        case _:
            return said if said in LIMITS else None
