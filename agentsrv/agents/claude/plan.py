"""The to-do list of Claude Code, as ACP's plan.

`TodoWrite` says the whole list each time. The newer tools keep it in the CLI: `TaskCreate`, `TaskUpdate` and
`TaskList` change it or tell of it in their results (2.1.330, with CLAUDE_CODE_ENABLE_TODO_TOOLS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsrv.agents import updates as acp
from agentsrv.agents.updates import MAX_PARTS, Recent, Update, as_id, as_objects, as_text
from agentsrv.jsontext import as_object

MAX_CHARACTERS = 1000


class Plan:
    """The fold over one turn: what was told of the list in it."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[str, str]] = {}
        self._wanted: Recent[tuple[str, str]] = Recent()

    def wanted(self, call_id: str, tool: str, given: Mapping[str, Any]) -> list[Update]:
        """A call that is going to change the list."""
        if tool == "TodoWrite":
            todos = as_objects(given.get("todos"))
            return [acp.plan([(as_text(todo.get("content")), as_text(todo.get("status"))) for todo in todos])]
        if tool == "TaskUpdate":
            self._wanted[call_id] = _subject(given), as_text(given.get("status"))
        return []

    def done(self, call_id: str, details: Any) -> list[Update]:
        """A call has changed it, or told of it."""
        said = as_object(details)
        if "tasks" in said:
            self._tasks = {}
            for task in as_objects(said.get("tasks")):
                self._set(task, _subject(task), as_text(task.get("status")))
        elif "task" in said:
            task = as_object(said.get("task"))
            self._set(task, _subject(task), as_text(task.get("status")))
        elif said.get("success") is True:
            subject, status = self._wanted.pop(call_id) or ("", "")
            self._set({"id": said.get("taskId")}, subject, status)
        else:
            return []
        return [acp.plan(list(self._tasks.values()))]

    def _set(self, task: Mapping[str, Any], subject: str, status: str) -> None:
        """Note a task; an empty `subject` or `status` stays as it was."""
        if not (id_ := as_id(task.get("id"))):
            return
        if status == "deleted":
            self._tasks.pop(id_, None)
        elif id_ in self._tasks or len(self._tasks) < MAX_PARTS:
            before = self._tasks.get(id_, (f"task {id_}", "pending"))
            self._tasks[id_] = subject or before[0], status or before[1]


def _subject(task: Mapping[str, Any]) -> str:
    return as_text(task.get("subject"))[:MAX_CHARACTERS]
