"""A question and the keys that answer it. Keys in, lines out: nothing here reads a keyboard or draws."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from rich.text import Text

from agentsrv.cli.safe import one_line, visible
from agentsrv.client import Question

ENTER, BACKSPACE, ESCAPE, KILL = "\r\n", "\x7f\b", "\x1b", "\x15"

Answer = Callable[[Question[Any], dict[str, Any]], None]
"""Sends what was decided: the fields `decision`, `remember`, `message`, `answers`."""


class Line:
    """A line that is being typed."""

    def __init__(self) -> None:
        self.text = ""

    def key(self, key: str) -> str | None:
        """The whole line when Enter is typed. Escape empties it."""
        if key in ENTER:
            text, self.text = self.text, ""
            return text
        if key in BACKSPACE:
            self.text = self.text[:-1]
        elif key in (KILL, ESCAPE):
            self.text = ""
        elif key.isprintable():
            self.text += key
        return None


class Asker:
    """The questions that wait here, the oldest first, and what was typed about the first one so far."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._waiting: OrderedDict[tuple[str, str], Question[Any]] = OrderedDict()
        self._line: Line | None = None
        self._answers: dict[str, str | list[str]] = {}

    def add(self, question: Question[Any]) -> None:
        self._waiting[question.task_id, question.request_id] = question

    def remove(self, task_id: str, request_id: str) -> None:
        """It is settled, here or elsewhere."""
        before = self.current
        if self._waiting.pop((task_id, request_id), None) is before:
            self._reset()

    @property
    def current(self) -> Question[Any] | None:
        return next(iter(self._waiting.values()), None)

    def key(self, key: str) -> bool:
        """Take a key; False when it means nothing here."""
        question = self.current
        if question is None:
            return False
        if question.kind == "question":
            self._answering(question, key)
            return True
        if self._line is not None:
            if key == ESCAPE:
                self._line = None
            elif (why := self._line.key(key)) is not None:
                self._decide(question, decision="deny", message=why or None)
            return True
        return self._deciding(question, key.lower())

    def _deciding(self, question: Question[Any], key: str) -> bool:
        match key:
            case "y":
                self._decide(question, decision="allow")
            case "a" if question.can_be_remembered:
                self._decide(question, decision="allow", remember=True)
            case "n":
                self._decide(question, decision="deny")
            case "e":
                self._line = Line()
            case "d":
                self.remove(question.task_id, question.request_id)
            case _:
                return False
        return True

    def _answering(self, question: Question[Any], key: str) -> None:
        """One after the other of what it wants to know; a number stands for the option of that number."""
        open_ = [each for each in question.questions if each.get("id") not in self._answers]
        self._line = self._line or Line()
        if (text := self._line.key(key)) is None or not text.strip() or not open_:
            return
        self._answers[str(open_[0].get("id"))] = chosen(open_[0], text)
        if len(open_) == 1:
            self._decide(question, decision="allow", answers=dict(self._answers))

    def _decide(self, question: Question[Any], **fields: Any) -> None:
        self.remove(question.task_id, question.request_id)
        self._answer(question, {name: value for name, value in fields.items() if value is not None})

    def _reset(self) -> None:
        self._line = None
        self._answers = {}

    def lines(self) -> list[Text]:
        """The first question, and what may be typed."""
        question = self.current
        if question is None:
            return []
        lines = describe(question)
        if question.kind == "question":
            open_ = [each for each in question.questions if each.get("id") not in self._answers]
            lines = ask_for(open_[0]) if open_ else lines
            return [*lines, Text(f"> {visible(self._line.text) if self._line else ''}", "bold")]
        if self._line is not None:
            return [
                *lines,
                Text(f"Why not (Enter sends, Esc goes back)? {visible(self._line.text)}", "bold"),
            ]
        keys = [
            "y allow",
            *(["a always"] if question.can_be_remembered else []),
            "n deny",
            "e say why",
            "d later",
        ]
        more = f"  ({len(self._waiting) - 1} more)" if len(self._waiting) > 1 else ""
        return [*lines, Text("   ".join(keys) + more, "bold")]


def describe(question: Question[Any]) -> list[Text]:
    """What it wants to do, or to know: all of it, so that nothing is allowed unseen."""
    if question.kind == "question":
        return [line for each in question.questions for line in ask_for(each)]
    rest, shown = dict(question.input), []
    if isinstance(rest.get("command"), str):
        shown.append(rest.pop("command"))
    if rest or not shown:
        shown.append(json.dumps(rest, indent=1, ensure_ascii=False))
    lines = [Text(one_line(f"{question.tool} wants leave", 100), "bold yellow")]
    return lines + [Text(f"  {line}") for line in visible("\n".join(shown)).split("\n")]


def ask_for(asked: dict[str, Any]) -> list[Text]:
    """One thing that it wants to know, and its options."""
    lines = [Text(visible(str(asked.get("question", ""))), "bold yellow")]
    for number, option in enumerate(asked.get("options") or [], start=1):
        described = one_line(str(option.get("description", "")))
        lines.append(Text(f"  {number} {one_line(str(option.get('label', '')))}  {described}".rstrip()))
    return lines


def chosen(asked: dict[str, Any], text: str) -> str | list[str]:
    """What was typed: numbers stand for options, several where several may be chosen."""
    labels = [str(option.get("label", "")) for option in asked.get("options") or []]
    words = text.replace(",", " ").split()
    if words and all(word.isdecimal() and 0 < int(word) <= len(labels) for word in words):
        picked = [labels[int(word) - 1] for word in words]
        return picked if asked.get("multiSelect") else picked[0]
    return text.strip()
