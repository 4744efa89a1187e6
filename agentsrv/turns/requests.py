"""What clients ask of turns, and the turns that are made of it."""

from __future__ import annotations

import json
import uuid
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import fields

from agentsrv.errors import unsupported
from agentsrv.eventlog import now_ms
from agentsrv.jsontext import dump
from agentsrv.model import (
    Image,
    Seq,
    SessionId,
    Turn,
    TurnId,
    TurnOptions,
    TurnStatus,
)
from agentsrv.store.prompts import QueuedPrompt
from agentsrv.turns.setup import NO_WISH, WorktreeWish

STEERING = uuid.UUID("5b8d1c5e-3b0e-5c0a-9a44-6f1d7f0a2c11")
"""The namespace of the ids of steering prompts."""


class IfBusy(StrEnum):
    """What becomes of a prompt to a session in which a turn runs."""

    REJECT = "reject"
    QUEUE = "queue"
    STEER = "steer"


class IfLost(StrEnum):
    """What becomes of a prompt whose agent has lost the session's conversation."""

    REJECT = "reject"
    RESTART = "restart"
    REBUILD = "rebuild"


class StartTurn(Struct, frozen=True):
    """What a client asks for. `agent` and `cwd` None: the session's own, or the defaults for a new one.

    `is_mode_given`: the permission mode is the client's, and not the server's default.
    """

    session_id: SessionId
    prompt: str
    agent: str | None = None
    cwd: str | None = None
    options: TurnOptions = field(default_factory=TurnOptions)
    message_id: str | None = None
    images: tuple[Image, ...] = ()
    if_busy: IfBusy = IfBusy.REJECT
    if_lost: IfLost = IfLost.REJECT
    use_worktree: bool = False
    worktree: WorktreeWish = NO_WISH
    is_mode_given: bool = False


class Started(Struct, frozen=True):
    """The turn that has the prompt; it may be `queued`.

    `is_new` is False when the same `message_id` came before, or when the prompt has joined a turn that ran
    already. Then its event is the first one after `after`.
    """

    turn: Turn
    is_new: bool
    after: Seq = 0


def new_turn(
    session_id: SessionId, options: TurnOptions, message_id: str | None, turn_id: TurnId | None = None
) -> Turn:
    now = now_ms()
    return Turn(
        id=turn_id or TurnId(str(uuid.uuid4())),
        session_id=session_id,
        generation=0,
        status=TurnStatus.RUNNING,
        created_at=now,
        started_at=now,
        message_id=message_id,
        options=options,
    )


def queued_again(turn: Turn, event: bytes, turn_id: TurnId) -> QueuedPrompt:
    """What was added to a turn and not read in it, as a prompt of its own under the same rules."""
    again = new_turn(turn.session_id, turn.options, None, turn_id)
    message = json.loads(event)
    text = message["message"]["content"][0]["text"]
    renamed = dump({**message, "uuid": again.id})
    return QueuedPrompt(again.id, turn.session_id, text, renamed, turn.options, None, again.created_at)


def message_uuid(request: StartTurn) -> str:
    """What a steering prompt is called: the same for the same `message_id`."""
    if request.message_id is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(STEERING, f"{request.session_id} {request.message_id}"))


def require_same_options(running: TurnOptions, request: StartTurn) -> None:
    """A turn that runs cannot be changed. Raises InvalidInput (`unsupported_option`)."""
    ignored = {"partial_messages", "notes"} | (set() if request.is_mode_given else {"permission_mode"})
    for option in fields(TurnOptions):
        if option.name in ignored:
            continue
        value = getattr(request.options, option.name)
        if value is not None and value != getattr(running, option.name):
            raise unsupported(option.name, "a prompt that steers a running turn cannot change this")
