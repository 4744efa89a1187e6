"""The ways to show events: on a terminal that is drawn, as lines, as JSON, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.text import Text

from agentsrv.cli.ask import Asker, Line
from agentsrv.cli.output import Output
from agentsrv.cli.safe import one_line, visible
from agentsrv.cli.screen import Screen, keyboard
from agentsrv.cli.transcript import ASCII, Marks, Transcript
from agentsrv.client.events import Answered, AsyncEvent, Done, Question, UserText
from agentsrv.client.models import JobInfo

CTRL_D = "\x04"


class Viewer(Protocol):
    """Shows events as they come."""

    def open(self) -> Any:
        """A context in which it shows something."""

    def take(self, events: Sequence[AsyncEvent]) -> None: ...

    def ask(self, question: Question[Any]) -> None:
        """Somebody here is to answer this."""

    def state(self, text: str) -> None:
        """How things are, in a word or two; empty: as the events say."""

    def tick(self) -> None:
        """A second has passed."""

    def end(self, job: JobInfo) -> None:
        """The job that was watched has ended; after `open`."""


def make_transcript(output: Output, *, is_full: bool = False) -> Transcript:
    return Transcript(ASCII if output.is_ascii else Marks(), is_full=is_full)


class Silent:
    """Only the end counts, and what stands in its way."""

    def __init__(self, output: Output) -> None:
        self._output = output

    @contextmanager
    def open(self) -> Iterator[None]:
        yield

    def take(self, events: Sequence[AsyncEvent]) -> None: ...

    def ask(self, question: Question[Any]) -> None: ...

    def state(self, text: str) -> None:
        """Not among objects: there it would be an error."""
        if text and self._output.format == "text":
            self._output.say(f"agentsrv: {text}")

    def tick(self) -> None: ...

    def end(self, job: JobInfo) -> None: ...


class JsonLines(Silent):
    """Every frame, as the server sent it, with its id; `is_raw`: without."""

    def __init__(self, output: Output, *, is_raw: bool = False) -> None:
        super().__init__(output)
        self._is_raw = is_raw

    def take(self, events: Sequence[AsyncEvent]) -> None:
        self._output.objects(event.raw if self._is_raw else {"id": event.id, **event.raw} for event in events)


class OneObject(Silent):
    """All of them at the end."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._events: list[dict[str, Any]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        yield
        self._output.object({"events": self._events})

    def take(self, events: Sequence[AsyncEvent]) -> None:
        self._events += ({"id": event.id, **event.raw} for event in events)


class Lines(Silent):
    """The transcript, line by line."""

    def __init__(self, output: Output, *, is_full: bool = False) -> None:
        super().__init__(output)
        self._transcript = make_transcript(output, is_full=is_full)

    @contextmanager
    def open(self) -> Iterator[None]:
        yield
        self._output.print(*self._transcript.close())

    def take(self, events: Sequence[AsyncEvent]) -> None:
        self._output.print(*(line for event in events for line in self._transcript.take(event)))

    def end(self, job: JobInfo) -> None:
        self._output.print(self._transcript.foot(job.status, cost_usd=job.cost_usd))


def shortened(line: Text, width: int) -> Text:
    """One that stands in `width` columns."""
    if line.cell_len > width:
        line.truncate(width - 3, overflow="crop")
        line.append("...")
    return line


class Drawn:
    """On a terminal. Keys answer questions; what is not for a question goes to `on_key`, or to the prompt line."""

    def __init__(
        self,
        output: Output,
        *,
        answer: Callable[[Question[Any], dict[str, Any]], None],
        on_key: Callable[[str], None],
        on_line: Callable[[str], None] | None = None,
        is_full: bool = False,
    ) -> None:
        self._screen = Screen(output)
        self._keyboard = output.keyboard
        self._transcript = make_transcript(output, is_full=is_full)
        self._asker = Asker(answer)
        self._on_key = on_key
        self._on_line = on_line
        self._line = Line()
        self._state = "running"
        self._said = ""
        """What is told in place of it, until something comes that changes it."""

    @contextmanager
    def open(self) -> Iterator[None]:
        with self._screen.open(), keyboard(self._keyboard, self._key):
            yield
        self._screen.print(self._transcript.close())

    def take(self, events: Sequence[AsyncEvent]) -> None:
        lines: list[Text] = []
        for event in events:
            if isinstance(event, Answered):
                self._asker.remove(event.task_id, event.request_id)
            if isinstance(event, UserText | Done):
                self._state, self._said = event.status if isinstance(event, Done) else "running", ""
            lines += self._transcript.take(event)
        self._screen.print(lines)
        self.tick()

    def ask(self, question: Question[Any]) -> None:
        self._asker.add(question)
        self.tick()

    def state(self, text: str) -> None:
        self._said = one_line(text)
        if self._said and self._screen.is_plain:
            self._screen.print([Text(self._said, "dim")])
        self.tick()

    def tick(self) -> None:
        self._screen.draw(self._transcript.tail(), self._asker.lines() or self._typed(), self._foot())

    def _typed(self) -> list[Text]:
        """Where no foot is drawn, the prompt that is being typed stands alone."""
        is_shown = self._screen.is_plain and self._line.text
        return [Text(f"> {visible(self._line.text)}")] if is_shown else []

    def end(self, job: JobInfo) -> None:
        self._screen.print([self._transcript.foot(job.status, cost_usd=job.cost_usd)])

    def _foot(self) -> Text:
        foot = self._transcript.foot(self._said or self._state)
        if self._on_line is None:
            return shortened(foot, self._screen.width)
        return Text.assemble(shortened(foot, self._screen.width // 2), "  > ", visible(self._line.text))

    def _key(self, key: str) -> None:
        if self._asker.current is not None and self._asker.key(key):
            self.tick()
        elif key == CTRL_D or self._on_line is None:
            self._on_key(key)
        elif (text := self._line.key(key)) is not None and text.strip():
            self._on_line(text)
        self.tick()
