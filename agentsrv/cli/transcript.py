"""Events as lines: what cannot change any more is given out once, what may still change is the tail.

Nothing here writes anywhere, so the same lines stand in a terminal, in a pipe and in a test.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.text import Text

from agentsrv.cli.safe import one_line, visible
from agentsrv.client import events as e

DIFF_LINES = 12
FAILURE_LINES = 5
PROMPT_LINES = 10
UNSHOWN = frozenset({"available_commands_update", "current_mode_update", "config_option_update"})
"""Updates that are about what may be typed elsewhere."""
OUTPUT_KEPT = 2000
"""Characters of a running command's output that are kept, for its last lines."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The signs that lines begin with."""

    done: str = "✓"
    failed: str = "✗"
    running: str = "●"
    asked: str = "?"
    prompt: str = "»"
    notice: str = "!"
    plan: str = "☐"
    rule: str = "─"
    dot: str = "·"


ASCII = Marks("+", "x", "*", "?", ">", "!", "o", "-", "|")


@dataclass(slots=True)
class Call:
    """A call of a tool, as all that was said of it."""

    title: str = ""
    kind: str = ""
    status: str = "pending"
    content: tuple[dict[str, Any], ...] = ()
    raw_output: Any = None
    output: str = ""
    progress: str = ""
    began: float = field(default_factory=time.monotonic)
    told_at: float | None = None
    """When the server first heard of it, in seconds since 1970; None: it does not say."""

    def take(self, news: e.ToolCall) -> None:
        self.title = news.title or self.title
        self.kind = news.kind or self.kind
        self.status = news.status or self.status
        self.content = self.content if news.content is None else news.content
        self.raw_output = self.raw_output if news.raw_output is None else news.raw_output
        self.output = (self.output + (news.output or ""))[-OUTPUT_KEPT:]
        self.progress = news.progress or self.progress

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed")

    @property
    def text(self) -> str:
        """What it gave, as text."""
        blocks = [each["content"] for each in self.content if isinstance(each.get("content"), dict)]
        return "\n".join(str(block.get("text", "")) for block in blocks) or self.output


class Transcript:
    """Take events one after the other. `is_full` shows thoughts, whole prompts and whole diffs, too."""

    def __init__(self, marks: Marks, *, is_full: bool = False, clock: Callable[[], float] = time.monotonic):
        self._marks = marks
        self._is_full = is_full
        self._clock = clock
        self._began = clock()
        self._line = ""
        """Of the agent's text, what has no end yet."""
        self._message: tuple[str, str | None] | None = None
        self._calls: dict[str, Call] = {}
        self._waiting: dict[tuple[str, str], e.Question[Any]] = {}
        self._plan: tuple[dict[str, Any], ...] = ()
        self._usage: e.Usage | None = None

    # ---- what is certain

    def take(self, event: e.Event[Any]) -> list[Text]:
        """The lines that are certain now."""
        match event:
            case e.Text() | e.Thought():
                return self._said(event)
            case e.Usage():
                self._usage = event
                return []
            case _:
                pass
        lines = self._end_of_text()
        match event:
            case e.ToolCall():
                lines += self._called(event)
            case e.UserText():
                lines += self._prompted(event)
            case e.Plan():
                lines += self._planned(event)
            case e.Question():
                self._waiting[event.task_id, event.request_id] = event
            case e.Answered():
                lines += self._answered(event)
            case e.Done():
                lines += self._ended()
            case _:
                lines += self._told(event)
        return lines

    def close(self) -> list[Text]:
        """What is left when nothing more comes."""
        lines = self._end_of_text()
        for question in self._waiting.values():
            lines.append(
                Text(f"{self._marks.asked} {one_line(question.title)}  waits for an answer", "yellow")
            )
        return lines

    def _said(self, event: e.Text | e.Thought) -> list[Text]:
        kind = "thought" if isinstance(event, e.Thought) else "text"
        message = kind, event.message_id
        lines: list[Text] = []
        if message != self._message or event.message_id is None:
            lines = self._end_of_text()
            self._message = message
        if kind == "thought" and not self._is_full:
            self._line = (self._line + event.text)[-OUTPUT_KEPT:]
            return lines
        *whole, self._line = (self._line + event.text).split("\n")
        lines += [self._text(line) for line in whole]
        return lines if event.message_id is not None else lines + self._end_of_text()

    def _text(self, line: str) -> Text:
        is_thought = self._message is not None and self._message[0] == "thought"
        return Text(visible(line).replace("\n", " "), "dim italic" if is_thought else "")

    def _end_of_text(self) -> list[Text]:
        line, message = self._line, self._message
        ended = [self._text(line)] if line else []
        if message is not None and message[0] == "thought" and not self._is_full:
            ended = []
        self._line, self._message = "", None
        return ended

    def _called(self, news: e.ToolCall) -> list[Text]:
        told_at = time_of(news)
        call = self._calls.setdefault(news.tool_call_id, Call(began=self._clock(), told_at=told_at))
        call.take(news)
        if not call.is_over:
            return []
        del self._calls[news.tool_call_id]
        if not call.title:
            return []
        took_s = self._clock() - call.began
        if told_at is not None and call.told_at is not None:
            took_s = told_at - call.told_at
        return self._call_lines(call, took_s)

    def _call_lines(self, call: Call, took_s: float) -> list[Text]:
        failed = call.status == "failed"
        mark, style = (self._marks.failed, "red") if failed else (self._marks.done, "green")
        line = Text.assemble((mark, style), " ", (one_line(call.kind), "dim"), " ", one_line(call.title))
        for detail in (self._result(call), duration(took_s)):
            if detail:
                line.append(f"  {detail}", "dim")
        lines = [line, *self._diffs(call)]
        if failed:
            told = visible(call.text).strip().split("\n")[-FAILURE_LINES:]
            lines += [Text(f"    {each}", "red") for each in told if each]
        return lines

    def _result(self, call: Call) -> str:
        code = call.raw_output.get("exitCode") if isinstance(call.raw_output, dict) else None
        if isinstance(code, int) and code:
            return f"exit {code}"
        count = call.text.strip().count("\n") + 1 if call.text.strip() else 0
        return f"{count} line{'s' * (count != 1)}" if count and call.kind == "execute" else ""

    def _diffs(self, call: Call) -> Iterator[Text]:
        for block in call.content:
            if block.get("type") != "diff":
                continue
            old, new = str(block.get("oldText") or ""), str(block.get("newText") or "")
            changed = list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=1, lineterm=""))[3:]
            limit = len(changed) if self._is_full else DIFF_LINES
            for line in changed[:limit]:
                style = {"+": "green", "-": "red"}.get(line[:1], "dim")
                yield Text(f"    {visible(line)}", style)
            if len(changed) > limit:
                yield Text(f"    ... {len(changed) - limit} more lines", "dim")

    def _prompted(self, event: e.UserText) -> list[Text]:
        said = event.text if event.media_type is None else f"[{event.media_type}]"
        lines = visible(said).split("\n")
        limit = len(lines) if self._is_full else PROMPT_LINES
        shown = [Text(f"{self._marks.prompt} {line}", "bold") for line in lines[:limit]]
        if len(lines) > limit:
            shown.append(Text(f"{self._marks.prompt} ... {len(lines) - limit} more lines", "dim"))
        return shown

    def _planned(self, event: e.Plan) -> list[Text]:
        before, self._plan = self._current_step(), event.entries
        step = self._current_step()
        return (
            [Text(f"{self._marks.plan} {self._progress()} {step}", "dim")] if step and step != before else []
        )

    def _current_step(self) -> str:
        steps = [each for each in self._plan if each.get("status") == "in_progress"]
        return one_line(str(steps[0].get("content", ""))) if steps else ""

    def _progress(self) -> str:
        done = sum(each.get("status") == "completed" for each in self._plan)
        return f"{done}/{len(self._plan)}"

    def _answered(self, event: e.Answered) -> list[Text]:
        question = self._waiting.pop((event.task_id, event.request_id), None)
        title = one_line(question.title) if question else "a question"
        told = answer_in_words(event) + (" from now on" * event.is_remembered)
        why = f": {one_line(event.message)}" if event.message else ""
        return [Text(f"{self._marks.asked} {title}  {told}{why}", "yellow")]

    def _told(self, event: e.Event[Any]) -> list[Text]:
        mark = self._marks.notice
        match event:
            case e.Error(message=message, code=code):
                return [Text(f"{self._marks.failed} {visible(message)} ({one_line(code)})", "red")]
            case e.Notice(kind="title"):
                return []
            case e.Notice(kind=kind, message=message):
                return [Text(f"{mark} {one_line(kind)}: {one_line(message, 500)}", "dim")]
            case e.Raw(data=data):
                return [Text(f"{mark} {one_line(data, 1000)}", "dim")]
            case e.Gap(after=after):
                told = f"the server's machine lost its power: what came after event {after} is void"
                return [Text(f"{mark} {told}", "bold yellow")]
            case e.Unknown(kind=kind) if self._is_full and kind not in UNSHOWN:
                return [Text(f"{mark} {one_line(kind) or 'something'} that this client does not know", "dim")]
        return []

    def _ended(self) -> list[Text]:
        """Calls that go on in the background stay open, and are not waited for."""
        self._waiting.clear()
        lines = [line for call in self._calls.values() if call.title for line in self._background(call)]
        self._calls.clear()
        return lines

    def _background(self, call: Call) -> list[Text]:
        return [
            Text(
                f"{self._marks.running} {one_line(call.kind)} {one_line(call.title)}  in the background",
                "dim",
            )
        ]

    def foot(self, status: str, *, cost_usd: float | None = None) -> Text:
        """How it went, in one line."""
        facts = [status, duration(self._clock() - self._began)]
        if self._usage is not None and self._usage.size:
            facts.append(f"context {short(self._usage.used)}/{short(self._usage.size)}")
        if cost_usd:
            facts.append(f"${cost_usd:.2f}")
        if self._plan:
            facts.append(f"plan {self._progress()}")
        style = "green" if status == "completed" else "dim" if status == "running" else "red"
        return Text(f" {self._marks.dot} ".join(each for each in facts if each), style)

    # ---- what may change

    def tail(self) -> list[Text]:
        """The line that is being written, and the calls that run."""
        lines = [self._text(self._line)] if self._line else []
        for call in self._calls.values():
            if call.title:
                line = Text.assemble((self._marks.running, "cyan"), " ", (one_line(call.kind), "dim"), " ")
                line.append(one_line(call.title))
                told = call.progress or call.output.rstrip().rpartition("\n")[2]
                line.append(f"  {one_line(told, 60)} {duration(self._clock() - call.began)}", "dim")
                lines.append(line)
        return lines


def time_of(event: e.Event[Any]) -> float | None:
    """When the server had it, as a stream with `times` says, in seconds since 1970."""
    try:
        return datetime.fromisoformat(event.raw["receivedAt"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def duration(seconds: float) -> str:
    """`42 s`, `3 min 2 s`, `1 h 5 min`; nothing below a second."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s" if whole else ""
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short(count: int) -> str:
    """`1234` is `1k`."""
    return str(count) if count < 1000 else f"{count // 1000}k"


def answer_in_words(event: e.Answered) -> str:
    """What was decided, or said to what only a person knows."""
    given = [one for each in event.answers.values() for one in (each if isinstance(each, list) else [each])]
    if given:
        return "answered: " + one_line(", ".join(map(str, given)))
    said = {"allow": "allowed", "deny": "denied", "timed_out": "nobody answered in time"}
    return said.get(event.decision, one_line(event.decision))
