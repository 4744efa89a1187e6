"""What is known of an ACP agent's process from its lines, and of the turn that runs in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agentsrv.agents.memory import MAX_ID_CHARACTERS, MAX_RESULT_CHARACTERS
from agentsrv.agents.updates import as_id, as_objects, as_text
from agentsrv.jsontext import as_object, dump
from agentsrv.model import PermissionMode

MAX_VALUES = 500
MAX_CALL_BYTES = 256 * 1024
MAX_CALLS_BYTES = 4 * MAX_CALL_BYTES
MAX_CALLS = 256
MAX_ASKED = 100

CATEGORIES = {"mode": "mode", "model": "model", "thought_level": "effort", "thinking": "effort"}
"""Config options by their category, in our words."""

TOLD_OF_CALLS = ("title", "kind", "status", "rawInput", "content", "locations")
ENDED = frozenset({"completed", "failed"})


class Setting(msgspec.Struct):
    """What a conversation can be set to. `option`: its config option; None: it has a request of its own.

    values: by the names that people may use, which are the values themselves and how the agent calls them.
    """

    option: str | None = None
    current: str | None = None
    default: str | None = None
    values: dict[str, str] = msgspec.field(default_factory=dict)


class Process(msgspec.Struct):
    """Holds between turns.

    pending: the request before the prompt whose answer has not come. `can`: what the agent has said it can do.
    counted: the usage that was told last; None: nobody has told any since the conversation was brought back.
    """

    permission_mode: PermissionMode = PermissionMode.BYPASS
    conversation: str | None = None
    is_replaying: bool = False
    pending: str | None = None
    can: set[str] = msgspec.field(default_factory=set)
    is_initialized: bool = False
    settings: dict[str, Setting] = msgspec.field(default_factory=dict)
    counted: dict[str, int] | None = None


class TurnState(msgspec.Struct):
    """`said`: the message that is being written. `calls`: what is known of calls that have not ended, and `sizes` of
    its JSON; `open`: their kinds.

    asked: requests of the agent that nobody has answered, as JSON of their ids. `notices`: how often it has spoken for
    itself since the last call; `said_after`: as many of them came before the message.
    """

    prompt_id: str | None = None
    is_prompted: bool = False
    said: str = ""
    message_id: str = ""
    has_worked: bool = False
    usage: dict[str, int] = msgspec.field(default_factory=dict)
    calls: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    open: dict[str, str] = msgspec.field(default_factory=dict)
    asked: list[str] = msgspec.field(default_factory=list)
    notices: int = 0
    said_after: int = 0

    def say(self, words: str, message_id: str) -> None:
        if message_id != self.message_id or self.notices > self.said_after:
            self.said, self.message_id, self.said_after = "", message_id, self.notices
        room = MAX_RESULT_CHARACTERS + 1 - len(self.said)
        self.said += words[: max(room, 0)]

    def note_call(self, update: Mapping[str, Any]) -> None:
        """Put together what is told of a call, piece by piece; of too many the latest are known."""
        self.said, self.notices, self.said_after = "", 0, 0
        if not (call_id := as_id(update.get("toolCallId"))):
            return
        told = {name: update[name] for name in TOLD_OF_CALLS if update.get(name)}
        call = self.calls.pop(call_id, {}) | told
        self.sizes.pop(call_id, None)
        self.open.pop(call_id, None)
        if call.get("status") in ENDED:  # Nobody asks about it any more.
            return
        if (size := len(dump(call))) > MAX_CALL_BYTES:
            call = {name: call[name] for name in ("kind", "status") if name in call}
            size = len(dump(call))
        if size <= MAX_CALL_BYTES:
            self.calls[call_id], self.sizes[call_id] = call, size
        while len(self.calls) > MAX_CALLS or sum(self.sizes.values()) > MAX_CALLS_BYTES:
            oldest = next(iter(self.calls))
            del self.calls[oldest], self.sizes[oldest]
        if len(self.open) < MAX_CALLS:
            self.open[call_id] = as_text(call.get("kind"))[:MAX_ID_CHARACTERS] or "tool"

    def note_asked(self, name: str) -> None:
        if len(self.asked) < MAX_ASKED and len(name) <= MAX_ID_CHARACTERS:
            self.asked.append(name)


def settings_of(session: Mapping[str, Any], mode_option: str | None) -> dict[str, Setting]:
    """What the answer to `session/new` says of modes, models and efforts. `mode_option` stands for its modes."""
    found: dict[str, Setting] = {}
    for option in as_objects(session.get("configOptions")):
        kind = CATEGORIES.get(as_text(option.get("category")))
        if mode_option is not None and kind in ("mode", None):
            kind = "mode" if option.get("id") == mode_option else None
        if kind is not None and kind not in found and (id_ := as_id(option.get("id"))):
            found[kind] = _setting(option.get("currentValue"), option.get("options"), "value", id_)
    modes, models = as_object(session.get("modes")), as_object(session.get("models"))
    if modes and mode_option is None:
        found["mode"] = _setting(modes.get("currentModeId"), modes.get("availableModes"), "id")
    if models and "model" not in found:
        found["model"] = _setting(models.get("currentModelId"), models.get("availableModels"), "modelId")
    return found


def settings_now(before: Mapping[str, Setting], told: dict[str, Setting]) -> dict[str, Setting]:
    """What a conversation can be set to from now on: with another model there may be other efforts, or none.

    The defaults are those that it began with.
    """
    for kind, setting in before.items():
        if kind in told:
            told[kind].default = setting.default
        else:
            told[kind] = setting if setting.option is None else Setting(default=setting.default)
    return told


def _setting(current: Any, values: Any, key: str, option: str | None = None) -> Setting:
    known: dict[str, str] = {}
    listed = as_objects(values)
    # Values may come in groups.
    listed += [value for group in listed for value in as_objects(group.get("options"))]
    for value in listed[:MAX_VALUES]:
        if own := as_id(value.get(key)):
            known.setdefault(as_id(value.get("name")) or own, own)
            known[own] = own
    now = as_id(current) or None
    return Setting(option, now, now, known)
