"""What is known of a `codex app-server` from its lines, and of the turn that runs in it."""

from __future__ import annotations

from typing import Any

import msgspec

from agentsrv.jsontext import dump
from agentsrv.model import Outcome, PermissionMode

MAX_CALL_BYTES = 1024 * 1024
MAX_CALLS_BYTES = 4 * MAX_CALL_BYTES
MAX_CALLS = 256


class Process(msgspec.Struct):
    """Holds between turns. `commands` and `helpers` work, though nobody may wait for them: names by id.
    `terminals`: what Codex calls the processes of commands.
    """

    thread_id: str | None = None
    permission_mode: PermissionMode = PermissionMode.BYPASS
    commands: dict[str, str] = msgspec.field(default_factory=dict)
    helpers: dict[str, str] = msgspec.field(default_factory=dict)
    terminals: dict[str, str] = msgspec.field(default_factory=dict)


class TurnState(msgspec.Struct):
    """`calls`: the items that have begun and not ended, whose details questions leave out; `sizes`: of their JSON.
    `total`: the counts that were told last, by their hash. `ended`: how the turn has ended while a message to it is
    not answered yet. `taken`: messages to it that are in the thread, and behind which the model has said nothing yet.
    `likely`: how it seems to have ended, while its end has not been told. `halted`: (message, code) when a hook has
    kept the model from its work, and it has said nothing since.
    """

    prompt_id: str | None = None
    turn_id: str | None = None
    usage: dict[str, int] = msgspec.field(default_factory=dict)
    total: str = ""
    calls: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    steered: set[str] = msgspec.field(default_factory=set)
    steers_answered: set[str] = msgspec.field(default_factory=set)
    taken: set[str] = msgspec.field(default_factory=set)
    ended: Outcome | None = None
    likely: Outcome | None = None
    halted: tuple[str, str] | None = None

    def note_call(self, id_: str, item: dict[str, Any]) -> None:
        """Remember an item; of one that is too large its paths alone, and of too many the latest."""
        size = len(dump(item))
        if size > MAX_CALL_BYTES:
            item = _without_contents(item)
            size = len(dump(item))
        self.forget_call(id_)
        self.calls[id_], self.sizes[id_] = item, size
        while len(self.calls) > MAX_CALLS or sum(self.sizes.values()) > MAX_CALLS_BYTES:
            self.forget_call(next(iter(self.calls)))

    def forget_call(self, id_: str) -> None:
        self.calls.pop(id_, None)
        self.sizes.pop(id_, None)

    def all_taken(self) -> list[str]:
        """The model has spoken, and has read these; or it will not, and has not. Each is told once."""
        taken, self.taken = sorted(self.taken), set()
        return taken


def _without_contents(item: dict[str, Any]) -> dict[str, Any]:
    changes = item.get("changes")
    kept = [
        {name: change[name] for name in ("path", "kind") if name in change}
        for change in (changes if isinstance(changes, list) else [])
        if isinstance(change, dict)
    ]
    return {"type": item.get("type"), "changes": kept[:1000], "truncated": True}
