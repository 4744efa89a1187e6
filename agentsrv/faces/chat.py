"""The server as a model: OpenAI's chat completions, for chat programs and everything else that speaks them.

https://platform.openai.com/docs/api-reference/chat. A model is an agent, or `agent/model`. A conversation is a
session: the agent remembers it, so of a session that is there only the last user message is the prompt. What the
agent thinks and does between its words is `reasoning_content`, which chat programs show folded.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import groupby
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from agentsrv.agents import AgentRegistry
from agentsrv.agents.updates import Recent
from agentsrv.errors import invalid_field
from agentsrv.model import PermissionMode, SessionId, Turn, TurnOptions, TurnStatus
from agentsrv.turns.history import History
from agentsrv.turns.prompts import Prompt, Prompts
from agentsrv.turns.service import TurnService
from agentsrv.turns.sessions import SessionService

FINISH_REASONS = {
    "end_turn": "stop",
    "cancelled": "stop",
    "max_tokens": "length",
    "max_turn_requests": "length",
    "refusal": "content_filter",
}

TOKENS_IN = (
    "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "inputTokens",
)  # fmt: skip
TOKENS_OUT = ("output_tokens", "outputTokens")
TOKENS_CACHED = ("cache_read_input_tokens", "cachedInputTokens")
"""What agents call them in the usage of a turn. Codex's `inputTokens` are all, cached ones included."""

RULING = ("system", "developer")
"""Whose messages are rules."""

Field = Literal["content", "reasoning_content"]


class Delta(NamedTuple):
    """Some more of the answer."""

    field: Field
    text: str


class Message(Struct, frozen=True):
    """One of a conversation. `images` are `data:` URLs."""

    role: str
    text: str
    images: tuple[str, ...] = ()


class Wanted(Struct, frozen=True, kw_only=True):
    """What a client asks for. Without `session_id` the conversation begins here, with all its messages.

    `field` is what the client's protocol calls the messages; `notes` is what it wants to be told again.
    """

    model: str
    messages: Sequence[Message]
    session_id: SessionId | None = None
    cwd: str | None = None
    effort: str | None = None
    permission_mode: PermissionMode | None = None
    output_schema: dict[str, Any] | None = None
    mcp_servers: dict[str, Any] | None = None
    message_id: str | None = None
    notes: dict[str, Any] | None = None
    field: str = "messages"


class Chat:
    """Turns as completions."""

    def __init__(
        self,
        prompts: Prompts,
        turns: TurnService,
        sessions: SessionService,
        history: History,
        agents: AgentRegistry,
    ) -> None:
        self._prompts = prompts
        self._turns = turns
        self._sessions = sessions
        self._history = history
        self._agents = agents

    async def models(self) -> list[str]:
        """Each agent that can be used, and each of its models behind its name."""
        usable = [info for info in await self._agents.describe() if info.is_usable]
        return [name for info in usable for name in (info.name, *(f"{info.name}/{m}" for m in info.models))]

    async def begin(self, wanted: Wanted) -> Turn:
        """Give the prompt to the agent. Raises what `Prompts.send` does."""
        agent, _, model = wanted.model.partition("/")
        self._agents.get(agent)
        session_id = wanted.session_id or SessionId(f"chat-{uuid.uuid4()}")
        is_new = not await self._sessions.has(session_id)
        said = [message for message in wanted.messages if message.role not in RULING]
        if not said or said[-1].role != "user" or not said[-1].text.strip():
            raise invalid_field(wanted.field, "the last one must be of the user, and say something")
        rules = "\n\n".join(message.text for message in wanted.messages if message.role in RULING)
        options = TurnOptions(
            model=model or None,
            effort=wanted.effort,
            system_prompt=rules or None,
            output_schema=wanted.output_schema,
            mcp_servers=wanted.mcp_servers,
            partial_messages=True,
            notes=wanted.notes,
        )
        prompt = Prompt(
            session_id=session_id,
            text=_with_history(said) if is_new else said[-1].text,
            agent=agent,
            cwd=wanted.cwd if is_new else None,
            permission_mode=wanted.permission_mode,
            options=options,
            images=said[-1].images,
            message_id=wanted.message_id,
        )
        return (await self._prompts.send(prompt)).turn

    async def deltas(self, turn: Turn) -> AsyncGenerator[list[Delta], None]:
        """The agent's words as they come, and what it does between them; to the end of the turn.

        What has come at once is told in as few pieces as can be.
        """
        session = await self._sessions.get(turn.session_id)
        reader = _Reader(is_shaped=turn.options.output_schema is not None)
        follow = partial(self._turns.follow_turn, turn)
        async with aclosing(self._history.updates(session, follow, 0, first=turn.first_seq)) as updates:
            async for _, told in updates:
                found = [reader.read(value) for _, values in told for value in values]
                yield _joined([delta for delta in found if delta is not None])
        outcome = (await self._turns.get(turn.id)).outcome
        if reader.is_shaped and outcome is not None and outcome.structured_output is not None:
            yield [Delta("content", msgspec.json.encode(outcome.structured_output).decode())]


class _Reader:
    """What is made of the updates of one turn. `is_shaped`: its answer is not words, but comes at its end."""

    def __init__(self, *, is_shaped: bool) -> None:
        self.is_shaped = is_shaped
        self._is_between = False
        """Has something been done since the agent's last words?"""
        self._has_spoken = False
        self._titles: Recent[str] = Recent()

    def read(self, value: dict[str, Any] | msgspec.Raw) -> Delta | None:
        if isinstance(value, msgspec.Raw):
            return None
        update = value.get("update", {})
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                gap = "\n\n" if self._is_between and self._has_spoken else ""
                self._has_spoken, self._is_between = True, False
                return Delta("reasoning_content" if self.is_shaped else "content", gap + _text_of(update))
            case "agent_thought_chunk":
                return Delta("reasoning_content", _text_of(update))
            case "tool_call" | "tool_call_update":
                self._is_between = True
                return self._titled(str(update["toolCallId"]), update.get("title"))
            case _ if value.get("type") == "permission_request":
                return Delta("reasoning_content", f"\n[waits for an answer: {value.get('title', '')}]\n")
            case _:
                return None

    def _titled(self, call_id: str, title: str | None) -> Delta | None:
        """A call is told of once, and again when more of it is known."""
        if title is None or self._titles.get(call_id) == title:
            return None
        self._titles[call_id] = title
        return Delta("reasoning_content", f"\n[{title}]\n")


def _joined(deltas: list[Delta]) -> list[Delta]:
    """The same with neighbours of one field as one."""
    groups = groupby(deltas, lambda delta: delta.field)
    return [Delta(field, "".join(delta.text for delta in group)) for field, group in groups]


def chunk_of(
    turn: Turn, model: str, delta: dict[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    """One `chat.completion.chunk`."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {**_head(turn, model, "chat.completion.chunk"), "choices": [choice]}


def usage_chunk(turn: Turn, model: str) -> dict[str, Any]:
    """The last one, for who asks for it."""
    return {**_head(turn, model, "chat.completion.chunk"), "choices": [], "usage": usage_of(turn)}


def completion_of(turn: Turn, model: str, message: dict[str, Any]) -> dict[str, Any]:
    """A whole `chat.completion`."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason(turn)}
    return {**_head(turn, model, "chat.completion"), "choices": [choice], "usage": usage_of(turn)}


def finish_reason(turn: Turn) -> str | None:
    """None where the turn has failed, and there is no reason that a client would know."""
    reason = None if turn.outcome is None else turn.outcome.stop_reason
    if turn.status is TurnStatus.COMPLETED:
        return FINISH_REASONS.get(reason or "end_turn", "stop")
    return "stop" if turn.status is TurnStatus.CANCELLED else FINISH_REASONS.get(reason or "")


def usage_of(turn: Turn) -> dict[str, int]:
    """What the turn has used, in the words of this protocol."""
    usage = (turn.outcome and turn.outcome.usage) or {}
    counts = {name: count for name, count in usage.items() if isinstance(count, int)}
    taken = sum(counts.get(name, 0) for name in TOKENS_IN)
    made = sum(counts.get(name, 0) for name in TOKENS_OUT)
    return {"prompt_tokens": taken, "completion_tokens": made, "total_tokens": taken + made}


def _head(turn: Turn, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{turn.id}", "object": kind, "created": turn.created_at // 1000, "model": model}


def _text_of(update: dict[str, Any]) -> str:
    return str(update.get("content", {}).get("text", ""))


def _with_history(said: Sequence[Message]) -> str:
    """The last message; before it, for an agent that was not there, what was said earlier."""
    *earlier, last = said
    if not earlier:
        return last.text
    told = "\n\n".join(f"{message.role}: {message.text}" for message in earlier)
    return f"The conversation so far:\n\n{told}\n\nThe user now says:\n\n{last.text}"


def model_view(name: str) -> dict[str, Any]:
    """A model as `GET /models` lists it."""
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "agentsrv"}
