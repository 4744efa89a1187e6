"""A user of one session, who does not know which agent it has."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.conformance.dialects import Command, Dialect
from tests.fakes.scripted import ScriptedApi
from tests.kit import Answer, Event, Server, command_line_of, cwd_of, parent_of, script, wait_until


@dataclass(frozen=True, slots=True)
class Turn:
    """A job that has ended."""

    dialect: Dialect
    events: list[Event]
    job: dict[str, Any]

    @property
    def status(self) -> str:
        return str(self.events[-1].json["status"])

    @property
    def error(self) -> tuple[str, str]:
        """(status, code) of a turn that went wrong."""
        return self.status, next(event.json["code"] for event in self.events if event.type == "error")

    @property
    def text(self) -> str:
        return "".join(self.dialect.texts(self.events))

    @property
    def deltas(self) -> list[str]:
        return self.dialect.deltas(self.events)

    @property
    def commands(self) -> list[Command]:
        return self.dialect.commands(self.events)

    @property
    def questions(self) -> list[dict[str, Any]]:
        return [event.json for event in self.events if event.type == "permission_request"]

    @property
    def decisions(self) -> list[str]:
        return [event.json["decision"] for event in self.events if event.type == "permission_resolved"]


@dataclass(frozen=True, slots=True)
class Session:
    """A session in a directory of its own, on a server that other sessions may use as well."""

    id: str
    server: Server
    dialect: Dialect
    api: ScriptedApi[Any]
    program: Path

    @property
    def directory(self) -> Path:
        return self.server.workspace / self.id

    def in_directory(self) -> Session:
        """This session, with its directory made."""
        self.directory.mkdir()
        return self

    def beside(self, name: str) -> Session:
        """Another session of the same server."""
        return replace(self, id=name).in_directory()

    # Prompts

    def send(self, prompt: str, **options: Any) -> Answer:
        place = {"agent": self.dialect.name, "cwd": str(self.directory)}
        return self.server.generate(prompt, self.id, **place, **options)

    def prompt(self, *steps: str, **options: Any) -> Answer:
        return self.send(script(*steps), **options)

    def turn(self, *steps: str, **options: Any) -> Turn:
        """A prompt, to its end."""
        return self.ended(self.prompt(*steps, **options))

    def start(self, prompt: str, **options: Any) -> str:
        """A prompt in the background; its job's id."""
        answer = self.send(prompt, background=True, **options)
        body = answer.json
        assert answer.status == 202, body
        return str(body["taskId"])

    def ended(self, stream: Answer) -> Turn:
        """The rest of a stream, with all that was read of it before."""
        events = stream.rest()
        return Turn(self.dialect, events, self.server.job(events[-1].json["taskId"]))

    def whole(self, task_id: str) -> Turn:
        """A job from its first event, once it has ended."""
        return self.ended(self.server.follow(task_id))

    def stop(self) -> int:
        answer = self.server.stop(self.id)
        answer.close()
        return answer.status

    def restart_all(self) -> None:
        """Agent and server are killed, and another server is started."""
        os.kill(self.agent, signal.SIGKILL)
        self.server.kill9()
        self.server.start()

    def ended_jobs(self) -> list[dict[str, Any]]:
        """All jobs of the session, once they have ended."""
        jobs = self.server.ask("GET", f"/generate/v2/jobs?session_id={self.id}").json["jobs"]
        return [self.server.ended_job(job["taskId"]) for job in jobs]

    @property
    def said(self) -> str:
        """All that the agent has said in this session."""
        return "\n".join(self.dialect.texts(self.server.history(self.id)))

    # Questions

    def asked(self, stream: Answer) -> dict[str, Any]:
        """The next question in a stream."""
        found: dict[str, Any] = stream.until(lambda event: event.type == "permission_request").json
        return found

    def pending(self) -> list[str]:
        """The ids of the questions that wait in this session."""
        listed = self.server.ask("GET", "/permissions").json["permissions"]
        return [entry["requestId"] for entry in listed if entry["sessionId"] == self.id]

    def answer(self, question: dict[str, Any], decision: str, **fields: Any) -> None:
        path = f"/generate/v2/jobs/{question['taskId']}/permissions/{question['requestId']}"
        answer = self.server.ask("POST", path, {"decision": decision, **fields})
        assert answer.status == 200, answer.body()

    def answered(self, stream: Answer, decision: str) -> Turn:
        """A turn whose questions are all answered in the same way."""
        for event in stream:
            if event.type == "permission_request":
                self.answer(event.json, decision)
        return self.ended(stream)

    # The agent and its model

    @property
    def agent(self) -> int:
        """The agent's process."""
        name, place = str(self.program).encode(), str(self.directory)
        agents = [pid for pid in self.server.agents() if cwd_of(pid) == place]
        (pid,) = [pid for pid in agents if command_line_of(pid)[0] == name]
        return pid

    @property
    def runner(self) -> int:
        return parent_of(self.agent)

    def pid(self, name: str) -> int:
        """The one that a command has written to a file of the directory."""
        return int(self.written(name))

    def written(self, name: str) -> str:
        """What a command has written to a file, once it has."""
        path = self.directory / name
        wait_until(lambda: path.exists() and path.read_text().strip(), what=name)
        return path.read_text()

    @property
    def calls(self) -> list[Any]:
        """What the model was asked for this session, oldest first."""
        place = str(self.directory)
        return [call for call in self.api.requests if place in call.instructions + call.conversation]

    @property
    def known(self) -> str:
        """What the model was told of the conversation with its last call."""
        return str(self.calls[-1].conversation)

    def has_written(self, text: str) -> Callable[[Event], bool]:
        """Does an event have a delta with this text?"""
        return lambda event: any(text in delta for delta in self.dialect.deltas([event]))
