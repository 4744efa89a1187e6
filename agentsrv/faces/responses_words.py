"""A turn in the words of OpenAI's Responses API: its items, the events that tell of them, and what it all comes to.

https://platform.openai.com/docs/api-reference/responses, as the `openai` package 3.57 has it. Pure. What an agent says
are `message` items, what it thinks `reasoning`, and its calls `mcp_call`: those of tools that the model's side works
with by itself, which is what clients have no part in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from agentsrv.agents.updates import Recent
from agentsrv.errors import NotFound
from agentsrv.faces.chat import TOKENS_CACHED, finish_reason, usage_of
from agentsrv.jsontext import as_object
from agentsrv.model import Outcome, SessionId, Turn, TurnId, TurnStatus

RESPONSE, CONVERSATION = "resp_", "conv_"

MAX_KEPT = 4 * 1024 * 1024
"""Characters of a response's items, which are told again as a whole at its end. What is beyond is told once: of what
the agent has done and thought the oldest, and of what it has said only when that alone is more.
"""

ITEM_CHARACTERS = 500
"""What an item costs besides its text."""

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

ENDS = {"completed": "completed", "failed": "failed", "incomplete": "incomplete", "cancelled": "incomplete"}
"""The last event of a stream by the response's status. OpenAI has none for one that was cancelled."""


class Begun(msgspec.Struct, frozen=True):
    """What is the same in all events with a piece of one text.

    json: the object up to the piece, which is the last but its number.
    """

    type: str
    json: bytes


class Delta(msgspec.Struct, frozen=True, gc=False):
    """An event with a piece of a text, of which there are very many."""

    begun: Begun
    piece: str


Event = dict[str, Any] | Delta


def response_id(turn_id: TurnId) -> str:
    return RESPONSE + turn_id


def turn_of(response_id: str) -> TurnId:
    """Raises NotFound."""
    if not response_id.startswith(RESPONSE):
        raise NotFound(f"there is no response {response_id[:100]}", code="job_not_found")
    return TurnId(response_id.removeprefix(RESPONSE))


def conversation_id(session_id: SessionId) -> str:
    return CONVERSATION + session_id


def session_of(conversation_id: str) -> SessionId:
    """Raises NotFound."""
    if not conversation_id.startswith(CONVERSATION):
        raise NotFound(f"there is no conversation {conversation_id[:100]}", code="session_not_found")
    return SessionId(conversation_id.removeprefix(CONVERSATION))


class Output:
    """The fold over what a turn tells. `is_shaped`: its answer is data, which comes at its end; words are thoughts."""

    def __init__(self, turn: Turn, agent: str) -> None:
        self._turn_id = turn.id
        self._agent = agent
        self._is_shaped = turn.options.output_schema is not None
        self._count = 0
        self._kept = _Kept()
        self._text: _Text | None = None
        self._calls: Recent[_Call] = Recent()

    @property
    def items(self) -> list[dict[str, Any]]:
        """All that has been told; what is not done is in progress."""
        begun = [
            item for item in (self._text, *(call for _, call in self._calls.items())) if item is not None
        ]
        found = self._kept.values() | {item.index: item.value("in_progress") for item in begun}
        return [found[index] for index in sorted(found)]

    def read(self, value: Mapping[str, Any]) -> list[Event]:
        """The events of one value of the log's ACP view."""
        update = as_object(value.get("update"))
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                return self._say("reasoning" if self._is_shaped else "message", update)
            case "agent_thought_chunk":
                return self._say("reasoning", update)
            case "tool_call" | "tool_call_update":
                return self._call(update)
            case _ if value.get("type") == "permission_request":
                waits = {"content": {"text": f"[waits for an answer: {value.get('title', '')}]\n"}}
                return self._say("reasoning", waits)
            case _:
                return []

    def end(self, outcome: Outcome) -> list[Event]:
        """What is begun is done; the data of an answer that has a shape."""
        events = self._end_text()
        for call_id in [call_id for call_id, _ in self._calls.items()]:
            events += self._end_call(call_id, "incomplete")
        if self._is_shaped and outcome.structured_output is not None:
            self._text = _Text(self._next(), self._turn_id, "message", None)
            text = msgspec.json.encode(outcome.structured_output).decode()
            events += [*self._text.begin(), self._text.add(text), *self._end_text()]
        return events

    def _say(self, kind: str, update: Mapping[str, Any]) -> list[Event]:
        message_id = update.get("messageId")
        text, events = self._text, []
        if text is None or text.kind != kind or text.message_id != message_id:
            events = self._end_text()
            text = self._text = _Text(self._next(), self._turn_id, kind, message_id)
            events += text.begin()
        piece = str(as_object(update.get("content")).get("text", ""))
        return [*events, text.add(piece)]

    def _end_text(self) -> list[Event]:
        if (text := self._text) is None:
            return []
        self._text = None
        self._kept.add(text.index, text.value("completed"), text.size)
        return text.end()

    def _call(self, update: Mapping[str, Any]) -> list[Event]:
        call_id = str(update.get("toolCallId"))
        events: list[Event] = []
        if (call := self._calls.get(call_id)) is None:
            if update["sessionUpdate"] != "tool_call":
                return []
            events = self._end_text()
            call = self._calls[call_id] = _Call(self._next(), self._turn_id, self._agent)
            call.merge(update)
            events.append(_item_event("added", call.index, call.value("in_progress")))
        else:
            call.merge(update)
        if update.get("status") in ("completed", "failed"):
            events += self._end_call(call_id, str(update["status"]))
        return events

    def _end_call(self, call_id: str, status: str) -> list[Event]:
        if (call := self._calls.pop(call_id)) is None:
            return []
        value = call.value(status)
        self._kept.add(call.index, value, len(value["arguments"]) + len(value["output"] or ""))
        return [_item_event("done", call.index, value)]

    def _next(self) -> int:
        self._count += 1
        return self._count - 1


class _Kept:
    """Items that are done, no more than MAX_KEPT of them."""

    def __init__(self) -> None:
        self._messages: deque[_Done] = deque()
        self._others: deque[_Done] = deque()
        self._size = 0

    def values(self) -> dict[int, dict[str, Any]]:
        return {done.place: done.value for done in (*self._messages, *self._others)}

    def add(self, index: int, value: dict[str, Any], size: int) -> None:
        done = _Done(index, value, size + ITEM_CHARACTERS)
        (self._messages if value["type"] == "message" else self._others).append(done)
        self._size += done.size
        while self._size > MAX_KEPT:
            self._size -= (self._others or self._messages).popleft().size


class _Done(NamedTuple):
    place: int
    value: dict[str, Any]
    size: int


class _Text:
    """A message, or a thought, that comes in pieces."""

    def __init__(self, index: int, turn_id: TurnId, kind: str, message_id: Any) -> None:
        self.index = index
        self.kind = kind
        self.message_id = message_id
        is_message = kind == "message"
        self._id = f"{'msg' if is_message else 'rs'}_{turn_id}_{index}"
        self._pieces: list[str] = []
        self.size = 0
        self._part_event = "content_part" if is_message else "reasoning_summary_part"
        self._text_event = "output_text" if is_message else "reasoning_summary_text"
        self._place = {
            "item_id": self._id,
            "output_index": index,
            "content_index" if is_message else "summary_index": 0,
        }
        self._logprobs: dict[str, Any] = {"logprobs": []} if is_message else {}
        delta = self._event(f"{self._text_event}.delta", **self._logprobs, delta="")
        self._begun = Begun(delta["type"], msgspec.json.encode(delta).removesuffix(b'""}'))

    def value(self, status: str) -> dict[str, Any]:
        item = {"id": self._id, "type": self.kind, "status": status}
        if self.kind == "message":
            return item | {"role": "assistant", "content": [self._part()]}
        return item | {"summary": [self._part()]}

    def begin(self) -> list[Event]:
        whole = self.value("in_progress")
        empty = whole | {"content" if self.kind == "message" else "summary": []}
        return [
            _item_event("added", self.index, empty),
            self._event(f"{self._part_event}.added", part=self._part()),
        ]

    def add(self, piece: str) -> Event:
        if kept := piece[: MAX_KEPT - ITEM_CHARACTERS - self.size]:
            self._pieces.append(kept)
            self.size += len(kept)
        return Delta(self._begun, piece)

    def end(self) -> list[Event]:
        part = self._part()
        return [
            self._event(f"{self._text_event}.done", text=part["text"], **self._logprobs),
            self._event(f"{self._part_event}.done", part=part),
            _item_event("done", self.index, self.value("completed")),
        ]

    def _part(self) -> dict[str, Any]:
        text = "".join(self._pieces)
        self._pieces = [text]  # It is asked for several times, and may be long.
        if self.kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "summary_text", "text": text}

    def _event(self, type_: str, **what: Any) -> dict[str, Any]:
        return {"type": f"response.{type_}", **self._place, **what}


class _Call:
    """A call of a tool."""

    def __init__(self, index: int, turn_id: TurnId, agent: str) -> None:
        self.index = index
        self._id = f"mcp_{turn_id}_{index}"
        self._agent = agent
        self._fields: dict[str, Any] = {}

    def merge(self, update: Mapping[str, Any]) -> None:
        self._fields |= {name: update[name] for name in ("title", "rawInput", "content") if name in update}

    def value(self, status: str) -> dict[str, Any]:
        blocks = [as_object(as_object(block).get("content")) for block in self._fields.get("content") or ()]
        texts = [str(block["text"]) for block in blocks if "text" in block]
        return {
            "id": self._id,
            "type": "mcp_call",
            "status": status,
            "server_label": self._agent,
            "name": str(self._fields.get("title") or ""),
            "arguments": msgspec.json.encode(self._fields.get("rawInput") or {}).decode(),
            "output": "\n".join(texts) if texts else None,
            "error": None,
        }


def _item_event(what: str, index: int, item: dict[str, Any]) -> Event:
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}


def response_of(turn: Turn, agent: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    """The response that a turn is."""
    notes, status = turn.options.notes or {}, status_of(turn)
    has_ended = turn.status.is_final
    model = agent if turn.options.model is None else f"{agent}/{turn.options.model}"
    return {
        "id": response_id(turn.id),
        "object": "response",
        "created_at": turn.created_at // 1000,
        "completed_at": (turn.finished_at or 0) // 1000 if status == "completed" else None,
        "status": status,
        "background": bool(notes.get("background")),
        "model": notes.get("model") or model,
        "conversation": {"id": conversation_id(turn.session_id)},
        "previous_response_id": notes.get("previous_response_id"),
        "instructions": turn.options.system_prompt,
        "metadata": notes.get("metadata") or {},
        "output": items,
        "error": _error_of(turn) if status == "failed" else None,
        "incomplete_details": _incomplete(turn) if status == "incomplete" else None,
        "usage": _usage(turn) if has_ended else None,
        "reasoning": {"effort": turn.options.effort, "summary": None},
        "text": {"format": {"type": "text" if turn.options.output_schema is None else "json_schema"}},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": None,
        "top_p": None,
        "truncation": "disabled",
        "store": True,
    }


def status_of(turn: Turn) -> str:
    match turn.status:
        case TurnStatus.QUEUED:
            return "queued"
        case TurnStatus.CANCELLED:
            return "cancelled"
        case TurnStatus.COMPLETED | TurnStatus.FAILED | TurnStatus.INTERRUPTED:
            reason = finish_reason(turn)
            if reason is None:
                return "failed"
            return "incomplete" if reason in INCOMPLETE else "completed"
        case _:
            return "in_progress"


def user_item(turn_id: TurnId, update: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What the user has said, as an item of its conversation."""
    block = as_object(update.get("content"))
    if block.get("type") == "image":
        url = f"data:{block.get('mimeType')};base64,{block.get('data')}"
        content = {"type": "input_image", "image_url": url, "detail": "auto", "file_id": None}
    else:
        content = {"type": "input_text", "text": str(block.get("text", ""))}
    return {
        "id": f"in_{turn_id}_{number}",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [content],
    }


def turn_of_item(item_id: str) -> TurnId:
    """Raises NotFound for what is no item's id."""
    kind, _, rest = item_id.partition("_")
    turn_id, _, number = rest.rpartition("_")
    if not (kind and turn_id and number.isdecimal()):
        raise no_item(item_id)
    return TurnId(turn_id)


def no_item(item_id: str) -> NotFound:
    return NotFound(f"there is no item {item_id[:100]}", code="job_not_found")


def _incomplete(turn: Turn) -> dict[str, str]:
    return {"reason": INCOMPLETE[finish_reason(turn) or ""]}


def _error_of(turn: Turn) -> dict[str, str]:
    outcome = turn.outcome or Outcome(turn.status)
    message = outcome.error or f"the job is {turn.status}"
    return {"code": outcome.error_code or str(turn.status), "message": message}


def _usage(turn: Turn) -> dict[str, Any]:
    usage = usage_of(turn)
    raw = (turn.outcome and turn.outcome.usage) or {}
    cached = sum(count for name in TOKENS_CACHED if isinstance(count := raw.get(name), int))
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
