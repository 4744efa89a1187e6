"""Prompts as clients give them, whatever protocol they speak: defaults, limits and pictures, on the way to a turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing

from msgspec import Struct, field
from msgspec.structs import replace

from agentsrv.agents import AgentRegistry
from agentsrv.config import Config
from agentsrv.errors import NotFound, TooLarge, invalid_field
from agentsrv.model import PermissionMode, Seq, SessionId, Source, Turn, TurnOptions
from agentsrv.turns.requests import IfBusy, IfLost, Started, StartTurn
from agentsrv.turns.service import TurnService
from agentsrv.turns.setup import NO_WISH, WorktreeWish
from agentsrv.workspace.files.images import InlineImage
from agentsrv.workspace.files.service import FileService

PAGE = 100
MAX_PROMPT_BYTES = 8 * 1024 * 1024
MAX_SYSTEM_PROMPT = 100_000
MAX_MESSAGE_ID = 200
"""In characters. Protocols that can say so themselves refuse longer ones earlier."""


class Prompt(Struct, frozen=True, kw_only=True):
    """What a client says; None: nothing about this. `images` are paths in the workspace, `data:` URLs, or data.

    `permission_mode` is here and not in `options`, where there is always one.
    """

    session_id: SessionId
    text: str
    agent: str | None = None
    cwd: str | None = None
    permission_mode: PermissionMode | None = None
    options: TurnOptions = field(default_factory=TurnOptions)
    images: Sequence[str | InlineImage] = ()
    message_id: str | None = None
    if_busy: IfBusy = IfBusy.REJECT
    if_lost: IfLost = IfLost.REJECT
    use_worktree: bool = False
    worktree: WorktreeWish = NO_WISH


class Prompts:
    """The one way in for prompts of every protocol."""

    def __init__(
        self, *, config: Config, agents: AgentRegistry, files: FileService, turns: TurnService
    ) -> None:
        self._default_mode = config.default_permission_mode
        self._agents = agents
        self._files = files
        self._turns = turns

    async def send(self, prompt: Prompt) -> Started:
        """Start the turn, or let the prompt wait or join one. Raises what `TurnService.start` does, and TooLarge.

        The images are left alone when the `message_id` has come before: the files may be gone since.
        """
        request = self._request(prompt)
        if not prompt.images or await self._is_known(prompt):
            return await self._turns.start(request)
        async with self._files.images(prompt.images) as images:
            return await self._turns.start(replace(request, images=images))

    async def resume(self, prompt: Prompt, seen: Seq) -> Turn:
        """The turn that this prompt has started, for a client that comes back with an event of it. Starts nothing.

        The same prompt: the same `message_id`, or the same words in the turn that the event is of. Raises
        NotFound (`job_not_found`), InvalidInput for an event that lies ahead.
        """
        if prompt.message_id is not None:
            turn = await self._turns.find_started(prompt.session_id, prompt.message_id)
        else:
            turn = await self._turn_at(prompt.session_id, seen)
        if turn is not None and seen > (last := self._turns.last_seq(turn)):
            raise invalid_field("Last-Event-ID", f"{seen} lies ahead of the newest event, {last}")
        if turn is None or not (prompt.message_id or await self._has_said(turn, prompt.text, seen)):
            raise NotFound(
                f"no job of session {prompt.session_id} has this prompt and event {seen}; "
                "leave out Last-Event-ID to start one",
                code="job_not_found",
            )
        return turn

    async def _turn_at(self, session_id: SessionId, seq: Seq) -> Turn | None:
        """The turn of the session that event `seq` is of."""
        cursor = None
        while True:
            found, cursor = await self._turns.list_turns(
                session_id=session_id, status=None, limit=PAGE, cursor=cursor
            )
            for turn in found:
                if 0 < turn.first_seq <= seq:
                    return turn
            if cursor is None:
                return None

    async def _has_said(self, turn: Turn, text: str, seen: Seq) -> bool:
        """Is this a prompt of the turn, of those up to event `seen`?"""
        async with aclosing(self._turns.follow_turn(turn, 0)) as chunks:
            async for chunk in chunks:
                if chunk.source is Source.USER and text in map(_text_of, chunk.lines()):
                    return True
                if chunk.last_seq >= seen:
                    break
        return False

    async def _is_known(self, prompt: Prompt) -> bool:
        if prompt.message_id is None:
            return False
        return await self._turns.find_started(prompt.session_id, prompt.message_id) is not None

    def _request(self, prompt: Prompt) -> StartTurn:
        _require_size(prompt.text)
        _require_length("system_prompt", prompt.options.system_prompt, MAX_SYSTEM_PROMPT)
        _require_length("message_id", prompt.message_id, MAX_MESSAGE_ID)
        options = replace(
            prompt.options,
            model=self._agents.prompted_model(prompt.options.model),
            permission_mode=prompt.permission_mode or self._default_mode,
        )
        return StartTurn(
            session_id=prompt.session_id,
            prompt=prompt.text,
            agent=prompt.agent,
            cwd=prompt.cwd,
            options=options,
            message_id=prompt.message_id,
            if_busy=prompt.if_busy,
            if_lost=prompt.if_lost,
            use_worktree=prompt.use_worktree,
            worktree=prompt.worktree,
            is_mode_given=prompt.permission_mode is not None,
        )


def _text_of(event: bytes) -> str:
    """What a user's message says, without its images."""
    blocks = json.loads(event)["message"]["content"]
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def _require_size(text: str) -> None:
    if len(text) > MAX_PROMPT_BYTES or len(text.encode()) > MAX_PROMPT_BYTES:
        raise TooLarge(f"the prompt is larger than {MAX_PROMPT_BYTES} bytes; put what is long into a file")


def _require_length(name: str, text: str | None, most: int) -> None:
    if len(text or "") > most:
        raise invalid_field(name, f"has more than {most} characters")
