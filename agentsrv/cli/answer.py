"""`agentsrv answer`: the questions that wait, in all sessions."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
from rich.text import Text

from agentsrv.cli import exits
from agentsrv.cli.ask import Asker, describe
from agentsrv.cli.exits import AWAY, Refused, UsageError
from agentsrv.cli.safe import one_line
from agentsrv.cli.screen import Screen, keyboard
from agentsrv.cli.start import Cli
from agentsrv.cli.viewers import shortened
from agentsrv.cli.watch import LEAVE_KEYS, SENDING_S, send
from agentsrv.client import AgentsrvError, ConflictError, NotFoundError, Question
from agentsrv.tasks import Tasks

LOOK_AGAIN_S = 1.0


async def main(cli: Cli) -> int:
    arguments = cli.arguments
    if arguments.list or (arguments.id is None and not cli.output.is_interactive):
        return await listed(cli)
    if arguments.id is not None:
        return await answered(cli)
    return await through(cli)


async def listed(cli: Cli) -> int:
    questions = [each async for each in cli.client.permissions.list()]
    match cli.output.format:
        case "json":
            cli.output.object({"permissions": [each.raw for each in questions]})
        case "jsonl":
            cli.output.objects(each.raw for each in questions)
        case _:
            cli.output.print(*(line for each in questions for line in shown(each)))
    return exits.QUESTION if questions and cli.arguments.id is None and not cli.arguments.list else exits.OK


def shown(question: Question[Any]) -> list[Text]:
    """Its id and its session, and what is asked."""
    return [Text(one_line(names(question)[0])), *describe(question)]


async def answered(cli: Cli) -> int:
    arguments = cli.arguments
    if arguments.decision is None:
        raise UsageError("say allow or deny")
    question = await find_question(cli, arguments.id)
    fields: dict[str, Any] = {"decision": arguments.decision, "message": arguments.message}
    answer = await send(question, fields | ({"remember": True} if arguments.always else {}))
    if cli.output.format != "text":
        cli.output.object(msgspec.to_builtins(answer))
    return exits.OK


async def find_question(cli: Cli, text: str) -> Question[Any]:
    """By one of its names, or the beginning of one, when that fits one question."""
    waiting = [each async for each in cli.client.permissions.list()]
    exact = [each for each in waiting if text in names(each)]
    found = exact or [each for each in waiting if any(name.startswith(text) for name in names(each))]
    if not found:
        raise Refused(f"no question {text} waits")
    if len(found) > 1:
        raise UsageError(f"{text} may be {', '.join(names(each)[0] for each in found)}")
    return found[0]


def names(question: Question[Any]) -> tuple[str, ...]:
    """The first one fits no other: some agents count their questions anew in each session."""
    ids = question.request_id, question.task_id, question.session_id
    return f"{question.session_id}/{question.request_id}", *ids


async def through(cli: Cli) -> int:
    """One question after the other; with `--watch` also those that come."""
    desk = Desk(cli)
    try:
        await desk.run()
    finally:
        await desk.close()
    return exits.OK


class Desk:
    """Questions of all sessions, and whoever sits before them."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli
        self._screen = Screen(cli.output)
        self._asker = Asker(self._decided)
        self._sent = Tasks("answer")
        self._seen: dict[tuple[str, str], Question[Any]] | None = None
        self._sending = 0
        self._problem = ""
        self._has_news = asyncio.Event()
        self._scope = asyncio.timeout(None)
        self._is_over = False

    async def run(self) -> None:
        with self._screen.open(), keyboard(self._cli.output.keyboard, self._key):
            try:
                async with self._scope:
                    await self._look_on()
            except TimeoutError:
                pass  # `q` ends the looking
            self._is_over = True
            await self._sent.join(SENDING_S)
        if not self._seen:
            self._cli.output.say("nothing waits for an answer")

    async def close(self) -> None:
        await self._sent.close()

    async def _look_on(self) -> None:
        """Until nothing waits, or for ever; then a server that goes away for a while is waited for."""
        while True:
            try:
                await self._look()
                self._problem = ""
            except AWAY as exc:
                if self._seen is None or not self._cli.arguments.watch:
                    raise
                self._problem = f"connecting again: {exc}"
            if self._asker.current is None and not self._sending and not self._cli.arguments.watch:
                return
            self._draw()
            await self._wait()

    async def _look(self) -> None:
        """Take in what is new, and let go of what others have answered."""
        waiting = {
            (each.task_id, each.request_id): each async for each in self._cli.client.permissions.list()
        }
        self._seen = self._seen or {}
        for ids, question in waiting.items():
            if ids not in self._seen:
                self._asker.add(question)
        for ids in self._seen.keys() - waiting.keys():
            self._asker.remove(*ids)
        self._seen |= waiting

    async def _wait(self) -> None:
        self._has_news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._has_news.wait()

    def _draw(self) -> None:
        question = self._asker.current
        where = self._problem or ("nothing waits" if question is None else question.session_id)
        foot = shortened(Text(f"{one_line(where)}; q leaves", "dim"), self._screen.width)
        plain = [foot] if self._screen.is_plain else []  # there it would not be seen below
        self._screen.draw([], [*plain, *self._asker.lines()], foot)

    def _key(self, key: str) -> None:
        if not self._asker.key(key) and key in LEAVE_KEYS and not self._is_over:
            self._scope.reschedule(asyncio.get_running_loop().time())
        self._draw()
        self._has_news.set()

    def _decided(self, question: Question[Any], fields: dict[str, Any]) -> None:
        self._sending += 1
        self._sent.spawn(self._send(question, fields), name="send")

    async def _send(self, question: Question[Any], fields: dict[str, Any]) -> None:
        """What is not taken is asked again, unless it is settled otherwise."""
        mark = f"{one_line(question.session_id)}: {one_line(question.title)}"
        try:
            await send(question, fields)
            self._screen.print([Text(f"{mark}  {fields['decision']}", "yellow")])
        except AgentsrvError as exc:
            self._screen.print([Text(f"{mark}  {one_line(str(exc))}", "red")])
            if not isinstance(exc, ConflictError | NotFoundError):
                self._asker.add(question)
        finally:
            self._sending -= 1
            self._has_news.set()
