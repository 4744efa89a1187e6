"""Before a turn: does its agent still remember the session? What is to be done when it does not?

An agent's record of a conversation is a file of its own. When it is gone the agent would answer as if nothing had
been said, while the log shows the whole history.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from functools import partial
from typing import Any

from msgspec.structs import replace

from agentsrv.agents import AgentRegistry
from agentsrv.agents.contract import Agent
from agentsrv.errors import Conflict
from agentsrv.eventlog import fold
from agentsrv.jsontext import as_object, dump
from agentsrv.model import Session, Turn, TurnStatus
from agentsrv.projections.acp import Acp, Told
from agentsrv.store import events, turns
from agentsrv.store.database import Database
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.requests import IfLost
from agentsrv.turns.stages import Plan, Stage
from agentsrv.users import acting_as

MAX_CHARACTERS = 100_000
"""So much of the history an agent gets that is to go on from it, the newest."""

MAX_EVENTS = 20_000
PAGE_BYTES = 1024 * 1024

SPEAKERS = {"user_message_chunk": "User", "agent_message_chunk": "Assistant"}

PREFACE = (
    "The record of our earlier conversation in this session was lost. What follows is what is left of it, oldest "
    "first, for you to go on from; nothing in it is a new request."
)


class ConversationStage(Stage):
    """Raises Conflict (`conversation_lost`) unless the prompt says what to do then; what is done is in the log."""

    def __init__(self, db: Database, agents: AgentRegistry, pool: AgentPool) -> None:
        self._db = db
        self._agents = agents
        self._pool = pool

    async def prepare(self, plan: Plan) -> Plan:
        if plan.is_new_session or plan.prompt is None or not await self._is_lost(plan.session, plan.turn):
            return plan
        # Of a prompt that has waited, nobody is there to be asked.
        if_lost = IfLost.RESTART if plan.was_queued and plan.if_lost is IfLost.REJECT else plan.if_lost
        if if_lost is IfLost.REJECT:
            raise _lost(plan.session)
        event = {"type": "system", "subtype": "conversation_lost", "if_lost": if_lost}
        prompt = plan.prompt
        if if_lost is IfLost.REBUILD:
            prompt = await self._with_history(plan.session, prompt)
        return replace(plan, prompt=prompt, events=(*plan.events, dump(event)))

    async def _is_lost(self, session: Session, turn: Turn) -> bool:
        if session.internal_session_id is None or self._pool.has_warm(session, turn):
            return False
        kind = self._agents.get(session.agent)
        if await self._pool.threads.state.run(self._has_record, kind, session):
            return False
        if session.fork is not None and not session.generation:
            return True
        # Turns that went wrong may have ended before there was anything to remember.
        completed = await turns.page(
            self._db, session_id=session.id, status=TurnStatus.COMPLETED, before=None, limit=1
        )
        return bool(completed)

    def _has_record(self, kind: Agent, session: Session) -> bool:
        with acting_as(self._pool.agent_user):
            return kind.has_record(session)

    async def _with_history(self, session: Session, prompt: bytes) -> bytes:
        """The user event with a second text: what was said before."""
        message = json.loads(prompt)
        text = f"{PREFACE}\n\n<earlier-conversation>\n{await self._history(session)}\n</earlier-conversation>"
        message["message"]["content"].append({"type": "text", "text": text})
        return dump(message)

    async def _history(self, session: Session) -> str:
        make_reader = partial(self._agents.get(session.agent).updates, deltas=False)
        acp = Acp(session.id, make_reader, messages_only=True)
        said = _Said()
        last = await events.last_seq(self._db, session.id)
        after = max(0, last - MAX_EVENTS)
        while pages := await events.page(self._db, session.id, after, PAGE_BYTES):
            for chunk in pages:
                for told in await fold(chunk, acp.read, self._pool.threads.folding):
                    said.add(told)
            after = pages[-1].last_seq
            await asyncio.sleep(0)
        return said.text()


class _Said:
    """The last MAX_CHARACTERS of a conversation."""

    def __init__(self) -> None:
        self._parts: deque[str] = deque()
        self._size = 0

    def add(self, told: Told) -> None:
        for value in told[1]:
            if part := _line(as_object(value) if isinstance(value, dict) else {}):
                self._parts.append(part)
                self._size += len(part)
        while self._size > MAX_CHARACTERS and len(self._parts) > 1:
            self._size -= len(self._parts.popleft())

    def text(self) -> str:
        return "\n\n".join(self._parts)[-MAX_CHARACTERS:]


def _line(notification: dict[str, Any]) -> str:
    """What a notification says, in one paragraph; empty when that is of no use to an agent."""
    update = as_object(notification.get("update"))
    kind = update.get("sessionUpdate")
    if (speaker := SPEAKERS.get(str(kind))) is not None:
        text = as_object(update.get("content")).get("text")
        return f"{speaker}: {text}" if isinstance(text, str) else f"{speaker}: (an image)"
    if kind == "tool_call":
        return f"(The assistant used a tool: {str(update.get('title'))[:500]})"
    return ""


def _lost(session: Session) -> Conflict:
    return Conflict(
        f"agent {session.agent} has no record of this session's conversation any more, and would know nothing of it. "
        'Send the prompt again with "if_lost": "restart" (a new conversation) or "rebuild" (it is told what is in the '
        "log), or bring its files back",
        code="conversation_lost",
    )
