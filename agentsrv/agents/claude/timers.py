"""What Claude Code plans: `ScheduleWakeup`, `CronCreate`, `CronDelete`, and its going off (claude 2.1.330).

Its timers live in its process. A process that resumes a session knows those of `CronCreate` again that are not
due yet; a missed one, and every wake-up, it has forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsrv.agents.memory import MAX_KNOWN, as_id
from agentsrv.agents.timers import Timer, TimerCancelled, TimerFired, TimerNews
from agentsrv.jsontext import as_object, load_object
from agentsrv.model import Millis

TOOLS = frozenset({"ScheduleWakeup", "CronCreate", "CronDelete"})
WAKEUP, CRON = "wakeup-", "cron-"
MAX_PROMPT_CHARACTERS = 64 * 1024
MAX_TIME: Millis = 1 << 52

GO_ON = "Go on with the loop that you have planned."
"""For the CLI's own marks, which mean something only to its timer."""

Call = tuple[str, dict[str, str]]


def calls_in(line: bytes) -> dict[str, Call]:
    """The uses of such tools in a message of the model, by id: the tool, and what is needed of its input."""
    message = as_object((load_object(line) or {}).get("message"))
    content = message.get("content")
    found: dict[str, Call] = {}
    for block in map(as_object, content[:MAX_KNOWN] if isinstance(content, list) else ()):
        id_, name, given = as_id(block.get("id")), block.get("name"), as_object(block.get("input"))
        prompt = given.get("prompt")
        if (
            id_ is None
            or name not in TOOLS
            or (isinstance(prompt, str) and len(prompt) > MAX_PROMPT_CHARACTERS)
        ):
            continue
        found[id_] = (
            name,
            {key: given[key] for key in ("prompt", "cron", "id") if isinstance(given.get(key), str)},
        )
    return found


def news_of(call: Call, line: bytes) -> TimerNews | None:
    """What the result of such a call says; nothing when it has failed."""
    name, given = call
    said = as_object((load_object(line) or {}).get("tool_use_result"))
    if not said:
        return None
    if name == "CronDelete":
        return TimerCancelled(f"{CRON}{given['id']}") if "id" in given else None
    if name == "ScheduleWakeup" and said.get("stopped") is True:
        return TimerCancelled(WAKEUP)
    return _planned(name, given, said)


def _planned(name: str, given: Mapping[str, str], said: Mapping[str, Any]) -> Timer | None:
    at = _time(said.get("scheduledFor" if name == "ScheduleWakeup" else "nextFireAt"))
    prompt = given.get("prompt", "")
    prompt = GO_ON if prompt.startswith("<<autonomous-loop") else prompt
    if at is None or not prompt.strip():
        return None
    if name == "ScheduleWakeup":
        return Timer(f"{WAKEUP}{at}", at, prompt, replaces=WAKEUP)
    if (id_ := as_id(said.get("id"))) is None:
        return None
    age = _time(said.get("maxAgeMs"))
    schedule = given.get("cron") if said.get("recurring") is True else None
    return Timer(f"{CRON}{id_}", at, prompt, schedule, at + age if age else None, is_kept=True)


def fired_in(lifecycle: Mapping[str, Any]) -> TimerFired | None:
    """A line of a message's lifecycle tells that a timer's prompt begins."""
    if lifecycle.get("state") != "started" or lifecycle.get("wakeup_source") is None:
        return None
    return TimerFired(_time(lifecycle.get("scheduled_for")))


def _time(value: Any) -> Millis | None:
    """Milliseconds; the CLI has fractions of them."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 < value < MAX_TIME else None
