"""What every agent adapter is: bytes in, events and replies out; no I/O, no clock, no tasks.

An adapter instance belongs to one live agent process. `turns` starts the process that `launch` describes,
writes to its stdin what `prompt`, `interrupt` and `Effect.reply` say, and gives each line of its stdout to
`receive`. What `receive` says must follow from the lines alone: after a crash the same lines are read again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from agentsrv.agents.timers import TimerNews
from agentsrv.agents.updates import UpdateReader
from agentsrv.model import Answer, Fork, Image, Outcome, PermissionMode, Session, TurnId, TurnOptions


class Launch(Struct, frozen=True):
    """How to start the process.

    files: name and content; written into its runner's directory first, mode 0600.
    opening: what its stdin begins with. Nobody else sees it, so it may hold secrets.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, bytes] = field(default_factory=dict)
    opening: bytes = b""


class Question(Struct, frozen=True):
    """What the agent waits for: leave to use a tool ("permission"), or what only a person knows ("question").

    id: the agent's own, or a name made from it where that fits no URL; unique within its process.
    tool, input: what it wants to call, and with what. Of a question, `input` is `{"questions": [{"id",
        "question", "header"?, "options"?: [{"label", "description"?}], "multiSelect"?, "optional"?}]}`
        whatever the agent; its answer's `updated_input` is `{"answers": {id: text or list of texts}}`.
    title: one line for people.
    tool_call_id: the agent's name for the call, as its other messages have it.
    allowance: names what allowing it for the session covers; None when it cannot be remembered.
    details: what else the agent said, in its own words.
    """

    id: str
    kind: Literal["permission", "question"]
    tool: str
    input: dict[str, Any]
    title: str
    tool_call_id: str | None = None
    allowance: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


class BackgroundTask(Struct, frozen=True):
    """What an agent has left running. `title`: one line for people."""

    id: str
    kind: Literal["command", "agent"]
    title: str


class Effect(Struct, frozen=True):
    """What a line means besides being an event of the log. Most lines have no effect at all.

    event: what the log keeps instead of the line; None keeps nothing.
    reply: to be written to the agent's stdin.
    takes_prompt: the agent can take the prompt now, for which it was not ready before.
    begins: the agent works now; outside a turn, it woke up by itself.
    outcome: how the turn ended, as far as the agent has said; a later one replaces it.
    is_over: the agent has finished with the turn and waits for the next prompt.
    gave_up: the turn should be stopped with this outcome, the agent would go on for long without use.
    internal_session_id: the agent's conversation has this name from now on.
    question: the agent waits for an answer; the event of the log is made from it instead of from the line.
    withdrawn: the question with this id needs no answer any more.
    lost_steers: the agent has refused the steering messages with these ids, or ended without reading them.
    read_steers: the agent has read the steering messages with these ids.
    looks_over: the signs of the turn's end are there though the agent has not said so; when nothing else comes for
        a pause, it is over, with `outcome`.
    cwd: the agent works in this directory from now on; an absolute path of its own choice.
    timer: the agent has planned something for later, given that up, or begun with it.
    """

    event: bytes | None
    reply: bytes | None = None
    question: Question | None = None
    withdrawn: str | None = None
    lost_steers: Collection[str] = ()
    read_steers: Collection[str] = ()
    takes_prompt: bool = False
    begins: bool = False
    outcome: Outcome | None = None
    is_over: bool = False
    looks_over: bool = False
    gave_up: Outcome | None = None
    internal_session_id: str | None = None
    cwd: str | None = None
    timer: TimerNews | None = None


class AgentInfo(Struct, frozen=True):
    """What is installed, and what prompts for it may ask for. `credentials` are names only.

    login: what to do so that there are credentials, for people.
    is_wanted: the settings name its program.
    is_listed: it is here, or should be; others are of no interest to users.
    model_efforts: of the models whose agent tells; other models may have any of `efforts`, or none.
    """

    name: str
    available: bool
    login: str
    is_wanted: bool = False
    is_listed: bool = True
    version: str | None = None
    path: str | None = None
    problem: str | None = None
    credentials: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    model_efforts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    permission_modes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """A prompt has a chance: whether its credentials are good only the model API knows."""
        return self.available and bool(self.credentials)


class Check(Struct, frozen=True):
    """What `agentsrv doctor` is told of an agent, besides its `AgentInfo`.

    is_needed: without it prompts fail as the server is set up.
    advice: what to do, when it is not well.
    """

    subject: str
    detail: str
    is_well: bool
    is_needed: bool = False
    advice: str = ""


class Adapter(Protocol):
    """One live agent process, as its bytes tell."""

    @property
    def name(self) -> str: ...

    @property
    def progress(self) -> int | None:
        """How much the agent has done so far, in lines that tell of something done.

        None: nothing is to be expected now, or it gives up by itself what is hopeless.
        """
        ...

    @property
    def has_background_work(self) -> bool:
        """Something goes on between turns; its end will wake the agent."""
        ...

    def background(self) -> list[BackgroundTask]:
        """What runs besides the conversation, as far as it is known by name."""
        ...

    def end_background(self, task_id: str) -> bytes | None:
        """The stdin lines that end one of these; None when the agent cannot be asked to."""
        ...

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> bytes | None:
        """The prompt of the turn with this id is about to be written; None: the agent woke up by itself.

        Returns stdin lines that have to come before the prompt, if there are any.
        """
        ...

    def prompt(self, event: bytes) -> bytes | None:
        """The stdin lines that carry a user event (see `Agent.user_event`).

        None: not yet; an `Effect` with `takes_prompt` will tell when.
        """
        ...

    def interrupt(self, turn_id: TurnId) -> bytes | None:
        """The stdin lines that ask the agent to stop what it does and stay; None when it does nothing yet."""
        ...

    def steer(self, message_id: str, event: bytes) -> bytes | None:
        """The stdin lines that add a user event to the turn that runs; None when it cannot take any now.

        From then on the turn is over only when the agent has dealt with this message, too.
        """
        ...

    def change_mode(self, mode: PermissionMode) -> bytes | None:
        """The stdin lines that change the mode of the turn that runs; None when this process cannot work in it.

        From then on questions are asked, or answered, as the new mode has it.
        """
        ...

    def answer(self, question: Question, answer: Answer) -> bytes:
        """The stdin lines that answer a question of `receive`.

        Raises InvalidInput (`unsupported_option`, or the field that does not fit the question).
        """
        ...

    def receive(self, line: bytes) -> Effect | None:
        """Read one line of stdout, without its newline. None: an ordinary event, logged as it is.

        Never raises, whatever the line: the event is one line of JSON in UTF-8, without NaN. What is remembered of
        lines is bounded, in bytes and count.
        """
        ...

    def skim(self, line: bytes) -> Effect | None:
        """The same for a line of more values than are read (`jsontext.is_intricate`), by a few fields of it.

        Raises what decoders raise. A request is refused, and an end that cannot be read is one.
        """
        ...

    def running_tool(self) -> str | None:
        """The name of a tool that the agent waits for: its silence is then the tool's."""
        ...

    def state(self) -> dict[str, Any]:
        """What must be known of this process by another adapter; JSON, at most a few MiB, mostly less than a KiB."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be in the middle of a turn, which has begun here already, what the adapter was that said `state`."""
        ...

    def explain_exit(self, stderr: str) -> tuple[str, str] | None:
        """A clearer error (message, code) than "the agent exited", from what it wrote on stderr."""
        ...


class Agent(Protocol):
    """A kind of agent: what is needed before there is a process. Made once, by the composition root, from a Config."""

    @property
    def name(self) -> str: ...

    @property
    def has_whole_messages(self) -> bool:
        """Are whole messages among its events? Otherwise all of them come in pieces."""
        ...

    def adapter(self, session: Session, state: Mapping[str, Any]) -> Adapter:
        """For a process of `session`; `state` is what an earlier adapter of the same process said."""
        ...

    async def prepare(self) -> None:
        """Make ready what its processes share. Called before each start, so it costs nothing once it is done."""
        ...

    def launch(self, session: Session, options: TurnOptions, *, resume: bool, directory: Path) -> Launch:
        """`resume`: the agent has a conversation under the session's internal id."""
        ...

    async def check(self, options: TurnOptions) -> None:
        """Raises InvalidInput: `unsupported_option` for what this agent does not have, `sandbox_unavailable`."""
        ...

    def process_key(self, options: TurnOptions) -> str | None:
        """Equal for options that one process can serve in turn; None: a process for this turn alone."""
        ...

    def new_internal_id(self, session_id: str) -> str | None:
        """The name under which the agent is to keep a new session's conversation; None: it makes one up."""
        ...

    def transcript_of(self, session: Session) -> Path | None:
        """Where the agent keeps the session's conversation; None when it has none. Reads directories."""
        ...

    def has_record(self, session: Session) -> bool:
        """Is there what the agent remembers of the session? Brings it from where an earlier server has kept it."""
        ...

    def point_of(self, event: bytes) -> tuple[str, str] | None:
        """(conversation, place in it) when a fork can go on from behind this event of the log."""
        ...

    def copy_conversation(self, fork: Fork, cwd: str) -> str | None:
        """Make a conversation that knows what another one knew at that point; reads and writes files.

        Returns its name; None when the new session's process makes it, from `Session.fork`. Raises Conflict
        (`conversation_lost`), StorageFull.
        """
        ...

    def user_event(
        self, session: Session, turn_id: TurnId, prompt: str, images: Sequence[Image] = ()
    ) -> bytes:
        """The user message, in one shape for all agents: the first event of a turn."""
        ...

    def is_message(self, event: bytes) -> bool:
        """Is this event a whole message of the conversation, and not a delta or a notice?"""
        ...

    def updates(self, *, deltas: bool = True) -> UpdateReader:
        """A reader of one turn's messages. `deltas` False: of whole messages alone."""
        ...

    def find(self) -> Path | None:
        """The program, as configured, bundled or on PATH. Reads directories."""
        ...

    async def describe(self) -> AgentInfo: ...

    async def diagnose(self) -> Sequence[Check]:
        """Look at what prompts will need on this machine; nothing is left behind."""
        ...
