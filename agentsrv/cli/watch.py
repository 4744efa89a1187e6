"""Watching a job or a session: its events, the keys and signals that end the watching, questions, a time limit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentsrv.cli import exits
from agentsrv.cli.ask import describe
from agentsrv.cli.start import Cli
from agentsrv.cli.viewers import Drawn, JsonLines, Lines, OneObject, Silent, Viewer
from agentsrv.client import AgentsrvError, AsyncJob, ConflictError
from agentsrv.client.events import Question
from agentsrv.client.jobs import AsyncStream
from agentsrv.client.models import PermissionAnswer
from agentsrv.tasks import Tasks

TICK_S = 1.0
SENDING_S = 10.0
"""How long somebody who leaves is kept for what they have just decided or typed."""
PATIENT = 1_000
"""Attempts of a request on which the watching depends: it outlives a restart of the server as the stream does."""
GONE = "interrupted"
"""The code of an error: somebody ended the watching."""
LEAVE_KEYS = "q\x04"
"""q and Ctrl-D."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How it is watched.

    `stops`: who interrupts the watching stops the turn. `answers`: what becomes of questions that wait: `ask` whoever
    sits here, `deny` them, `leave` with exit code 3, or `ignore` them. `is_raw`: the agent's own lines. `is_live`: more
    may come. `prompts_to`: what is typed is a prompt for this session.
    """

    stops: bool = False
    keeps_on_term: bool = False
    answers: str = "ignore"
    timeout_s: float | None = None
    is_full: bool = False
    is_raw: bool = False
    is_live: bool = True
    prompts_to: str | None = None


class Watch:
    """Shows the events of `stream` until it ends, or somebody does not want to see more."""

    def __init__(self, cli: Cli, manners: Manners, job: AsyncJob | None = None) -> None:
        self._cli = cli
        self._manners = manners
        self._job = job
        self._tasks = Tasks("watch")
        self._sent = Tasks("watch")
        """Answers and prompts on their way: who leaves has given them."""
        self._scope = asyncio.timeout(manners.timeout_s)
        self._left: int | None = None
        self._is_over = False
        self._farewell = ""
        self._fields: Mapping[str, Any] = {}
        """What programs are told besides."""
        self.ending: int | None = None
        """The exit code of a turn that was stopped from here."""
        self.viewer = self._make_viewer()

    def _make_viewer(self) -> Viewer:
        output, manners = self._cli.output, self._manners
        if output.format == "jsonl" or manners.is_raw:
            return JsonLines(output, is_raw=manners.is_raw)
        if output.format == "json" and not manners.stops:
            return OneObject(output)
        if output.format == "json" or (manners.stops and not output.is_terminal):
            return Silent(output)
        if not output.is_interactive or not manners.is_live:
            return Lines(output, is_full=manners.is_full)
        return Drawn(
            output,
            answer=lambda question, fields: self._sent.spawn(self._answer(question, fields), name="answer"),
            on_key=self._key,
            on_line=self._prompt if manners.prompts_to is not None else None,
            is_full=manners.is_full,
        )

    def _prompt(self, text: str) -> None:
        self._sent.spawn(self._send_prompt(text), name="prompt")

    async def _send_prompt(self, text: str) -> None:
        """While a turn runs it is for that one; else it begins one."""
        try:
            await self._cli.client.run(
                text, session=self._manners.prompts_to, if_busy="steer", permission_mode=None
            )
        except AgentsrvError as exc:
            self.viewer.state(str(exc))

    async def run(self, stream: AsyncStream) -> int | None:
        """The exit code when the watching was left; None when the stream has ended."""
        self._listen()
        try:
            with self.viewer.open():
                self._tasks.spawn(self._tick(), name="clock")
                await self._watch(stream)
                if self.ending is None:
                    await self._sent.join(SENDING_S)
        finally:
            stream.close()
            await self._tasks.close()
            await self._sent.close()
            self._listen_no_more()
        self._say_farewell()
        return self._left

    def _say_farewell(self) -> None:
        output = self._cli.output
        if self._farewell and output.format == "text":
            output.say(self._farewell)
        elif self._farewell:
            output.error(self._farewell, self._fields)

    async def _watch(self, stream: AsyncStream) -> None:
        try:
            async with self._scope:
                while events := await stream.batch():
                    self.viewer.take(events)
                    for event in events:
                        if isinstance(event, Question):
                            await self._asked(event)
            self._is_over = True
        except TimeoutError:
            self._is_over = True
            if self._left is None:
                self._left = exits.TIMEOUT
                await self._time_is_over()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.viewer.tick()

    def told_of_break(self, problem: str | None) -> None:
        """For the stream: why a connection was lost, and None when there is one again."""
        self.viewer.state("" if problem is None else f"connecting again: {problem}")

    # ---- questions

    async def _asked(self, question: Question[Any]) -> None:
        if self._manners.answers == "ignore" or not await self._waits(question):
            return
        match self._manners.answers:
            case "ask":
                self.viewer.ask(question)
            case "deny":
                await self._answer(question, {"decision": "deny"})
            case _:
                told = (
                    [] if self._cli.output.format != "text" else [line.plain for line in describe(question)]
                )
                told.append(f"it waits for an answer: agentsrv answer {question.session_id} allow|deny")
                self._leave(
                    exits.QUESTION, "\n".join(told), {"code": "question_waits", "question": question.raw}
                )

    async def _waits(self, question: Question[Any]) -> bool:
        """In a stream are also questions that are settled already."""
        client = self._cli.client.with_options(max_retries=PATIENT)
        waiting = client.permissions.list(task_id=question.task_id)
        return any([each.request_id == question.request_id async for each in waiting])

    async def _answer(self, question: Question[Any], fields: dict[str, Any]) -> None:
        try:
            await send(question, fields)
        except AgentsrvError as exc:
            # Somebody else was faster, or the job is over: the stream says how. Else it is asked again.
            if not isinstance(exc, ConflictError):
                self.viewer.state(str(exc))
                self.viewer.ask(question)

    # ---- what ends it

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted, exits.INTERRUPT)
        loop.add_signal_handler(signal.SIGTERM, self._interrupted, exits.TERMINATED)
        loop.add_signal_handler(signal.SIGHUP, self._leave, 128 + signal.SIGHUP)
        loop.add_signal_handler(signal.SIGWINCH, self.viewer.tick)  # the window has another size

    def _interrupted(self, code: int) -> None:
        keeps = code == exits.TERMINATED and self._manners.keeps_on_term
        if not self._manners.stops or keeps or self._job is None:
            self._leave(code, self._how_to_look("it goes on") if self._manners.stops else "", {"code": GONE})
        elif self.ending is not None:
            self._leave(code, self._how_to_look("not waiting for its end"), {"code": GONE})
        else:
            self.ending = code
            self.viewer.state("stopping")
            self._tasks.spawn(self._stop(self._job), name="stop")

    def _listen_no_more(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH):
            asyncio.get_running_loop().remove_signal_handler(number)

    async def _stop(self, job: AsyncJob) -> None:
        try:
            await job.stop()
        except AgentsrvError as exc:
            self._leave(self.ending or exits.INTERRUPT, f"it could not be stopped: {exc}", {"code": GONE})

    async def _time_is_over(self) -> None:
        self._fields = {"code": "timeout"}
        if self._job is None or self._manners.keeps_on_term:
            self._farewell = self._how_to_look("the time is over, it goes on")
            return
        self.viewer.state("stopping")
        self._farewell = "the time is over, it was stopped"
        try:
            await self._job.stop()
        except AgentsrvError as exc:
            self._farewell = f"the time is over, and it could not be stopped: {exc}"

    def _how_to_look(self, told: str) -> str:
        return told if self._job is None else f"{told}; look with: agentsrv logs -f {self._job.session_id}"

    def _key(self, key: str) -> None:
        if key in LEAVE_KEYS:
            name = self._manners.prompts_to or (self._job.session_id if self._job else "")
            self._leave(exits.OK, f"it goes on; come back with: agentsrv attach {name}")

    def _leave(self, code: int, message: str = "", fields: Mapping[str, Any] | None = None) -> None:
        if self._left is None and not self._is_over:
            self._left, self._farewell, self._fields = code, message, fields or {}
            self._scope.reschedule(asyncio.get_running_loop().time())


async def send(question: Question[Any], fields: dict[str, Any]) -> PermissionAnswer:
    """Answer with what was decided: `decision`, `remember`, `message`, `answers`."""
    answer: PermissionAnswer
    if "answers" in fields:
        answer = await question.answer(fields["answers"])
    elif fields["decision"] == "allow":
        answer = await question.allow(remember=fields.get("remember", False))
    else:
        answer = await question.deny(fields.get("message"))
    return answer
