"""What can happen to a turn, and what can follow from it: the words of `lifecycle`."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from agentsrv.model import Answer, Millis, Outcome, PermissionMode, Seq, Session, Turn, TurnId, TurnStatus


class Place(Enum):
    """How far a message that was added to a turn has come on its way to the agent."""

    UNSENT = auto()
    SENT = auto()
    REFUSED = auto()


class Pending(Struct, frozen=True):
    """A question that waits for its answer.

    event: what the log says of it, at `seq`.
    expires_at: None when it may wait for ever.
    is_settling: the server is answering it in place of a user.
    """

    id: str
    event: bytes
    seq: Seq
    allowance: str | None
    created_at: Millis
    expires_at: Millis | None = None
    is_settling: bool = False


# Facts


class Opened(Struct, frozen=True):
    """The turn is committed, and its session with it, as they are here. `prompt`: what a stage has made of it."""

    session: Session
    turn: Turn
    prompt: bytes | None = None


class Disallowed(Struct, frozen=True):
    """What was allowed for the session is this alone from now on."""

    allowances: tuple[str, ...]


class Refused(Struct, frozen=True):
    """The turn could not be opened; nothing of it is left."""


class Ready(Struct, frozen=True):
    """There is a process for the turn, and from now on its output belongs to it."""


class NoAgent(Struct, frozen=True):
    """The agent could not be started, or the server failed at it."""

    outcome: Outcome


class Prompted(Struct, frozen=True):
    """The agent has been sent the prompt."""


class Listening(Struct, frozen=True):
    """The agent takes the prompt now, or what was added to the turn."""


class Added(Struct, frozen=True):
    """A user's message has joined the turn, and is committed at `seq`. After a restart it may be on its way already."""

    id: str
    event: bytes
    seq: Seq
    place: Place = Place.UNSENT


class Sent(Struct, frozen=True):
    """The agent has been sent a message that was added."""

    id: str


class Unheard(Struct, frozen=True):
    """The agent has refused a message that was added; it will never read it."""

    id: str


class Read(Struct, frozen=True):
    """The agent has read a message that was added."""

    id: str


class Asked(Struct, frozen=True):
    """The agent waits for an answer."""

    question: Pending


class Withdrawn(Struct, frozen=True):
    """The agent does not need an answer any more, if it still waits for one."""

    id: str


class Expired(Struct, frozen=True):
    """Nobody has answered in time."""

    id: str


class Answered(Struct, frozen=True):
    """An answer is committed.

    digest: tells it from other answers.
    data: what the agent is to be told.
    allowance: what the agent may do from now on without asking.
    mode: what the turn works in from now on; None: as before.
    """

    id: str
    digest: str
    data: bytes | None = None
    allowance: str | None = None
    mode: PermissionMode | None = None


class ModeChanged(Struct, frozen=True):
    """The turn works in this mode from now on."""

    mode: PermissionMode


class Reported(Struct, frozen=True):
    """The agent has said how the turn goes; it may say otherwise later."""

    outcome: Outcome


class Over(Struct, frozen=True):
    """The agent has finished with the turn."""


class GaveUp(Struct, frozen=True):
    """The agent would go on for long without use."""

    outcome: Outcome


class Stopped(Struct, frozen=True):
    """Somebody wants the turn to end."""


class TimedOut(Struct, frozen=True):
    outcome: Outcome


class Exited(Struct, frozen=True):
    """The process is gone and all its output read. `outcome` is what follows from that alone."""

    outcome: Outcome


class LeaseLost(Struct, frozen=True):
    """Somebody else owns the session now."""


class Halted(Struct, frozen=True):
    """The process and its tree are gone, and its output is in the log."""


class NotStored(Struct, frozen=True):
    """What the agent said of the outcome cannot be recorded."""


class Closed(Struct, frozen=True):
    """The end is recorded, as `turn` has it; or it never can be, because the lease is lost."""

    turn: Turn


Fact = (
    Opened | Disallowed | ModeChanged | Refused | Ready | NoAgent | Prompted | Listening | Added | Sent
    | Unheard | Read | Asked | Withdrawn | Expired | Answered | Reported | Over | GaveUp | Stopped | TimedOut
    | Exited | LeaseLost | Halted | NotStored | Closed
)  # fmt: skip


# Commands


class SendPrompt(Struct, frozen=True):
    """Give the agent the prompt, if it takes it yet."""

    event: bytes


class SendSteered(Struct, frozen=True):
    """Give the agent what was added to the turn, if it takes it now."""

    id: str
    event: bytes


class Tell(Struct, frozen=True):
    """Give the agent the answer to a question."""

    id: str
    data: bytes


class Settle(Struct, frozen=True):
    """Answer a question in place of a user."""

    id: str
    answer: Answer


class ShowStatus(Struct, frozen=True):
    """Have the job's status say what the turn does."""

    status: TurnStatus


class RememberStop(Struct, frozen=True):
    """Have a later server know that the turn was to end."""

    turn_id: TurnId


class Halt(Struct, frozen=True):
    """End the agent and all its tree."""


class Close(Struct, frozen=True):
    """Record the turn's end."""


class Release(Struct, frozen=True):
    """Tell all who wait that it is over, and free the session for the next turn."""


Command = SendPrompt | SendSteered | Tell | Settle | ShowStatus | RememberStop | Halt | Close | Release
