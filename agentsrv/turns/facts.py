"""What can happen to a turn, and what can follow from it: the words of `lifecycle`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from agentsrv.model import Answer, Millis, Outcome, PermissionMode, Seq, Session, Turn, TurnId, TurnStatus


class Place(Enum):
    """How far a message that was added to a turn has come on its way to the agent."""

    UNSENT = auto()
    SENT = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Pending:
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


@dataclass(frozen=True, slots=True)
class Opened:
    """The turn is committed, and its session with it, as they are here. `prompt`: what a stage has made of it."""

    session: Session
    turn: Turn
    prompt: bytes | None = None


@dataclass(frozen=True, slots=True)
class Disallowed:
    """What was allowed for the session is this alone from now on."""

    allowances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The turn could not be opened; nothing of it is left."""


@dataclass(frozen=True, slots=True)
class Ready:
    """There is a process for the turn, and from now on its output belongs to it."""


@dataclass(frozen=True, slots=True)
class NoAgent:
    """The agent could not be started, or the server failed at it."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Prompted:
    """The agent has been sent the prompt."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The agent takes the prompt now, or what was added to the turn."""


@dataclass(frozen=True, slots=True)
class Added:
    """A user's message has joined the turn, and is committed at `seq`. After a restart it may be on its way already."""

    id: str
    event: bytes
    seq: Seq
    place: Place = Place.UNSENT


@dataclass(frozen=True, slots=True)
class Sent:
    """The agent has been sent a message that was added."""

    id: str


@dataclass(frozen=True, slots=True)
class Unheard:
    """The agent has refused a message that was added; it will never read it."""

    id: str


@dataclass(frozen=True, slots=True)
class Read:
    """The agent has read a message that was added."""

    id: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The agent waits for an answer."""

    question: Pending


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The agent does not need an answer any more, if it still waits for one."""

    id: str


@dataclass(frozen=True, slots=True)
class Expired:
    """Nobody has answered in time."""

    id: str


@dataclass(frozen=True, slots=True)
class Answered:
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


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """The turn works in this mode from now on."""

    mode: PermissionMode


@dataclass(frozen=True, slots=True)
class Reported:
    """The agent has said how the turn goes; it may say otherwise later."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Over:
    """The agent has finished with the turn."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The agent would go on for long without use."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody wants the turn to end."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone and all its output read. `outcome` is what follows from that alone."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Somebody else owns the session now."""


@dataclass(frozen=True, slots=True)
class Halted:
    """The process and its tree are gone, and its output is in the log."""


@dataclass(frozen=True, slots=True)
class NotStored:
    """What the agent said of the outcome cannot be recorded."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The end is recorded, as `turn` has it; or it never can be, because the lease is lost."""

    turn: Turn


Fact = (
    Opened | Disallowed | ModeChanged | Refused | Ready | NoAgent | Prompted | Listening | Added | Sent
    | Unheard | Read | Asked | Withdrawn | Expired | Answered | Reported | Over | GaveUp | Stopped | TimedOut
    | Exited | LeaseLost | Halted | NotStored | Closed
)  # fmt: skip


# Commands


@dataclass(frozen=True, slots=True)
class SendPrompt:
    """Give the agent the prompt, if it takes it yet."""

    event: bytes


@dataclass(frozen=True, slots=True)
class SendSteered:
    """Give the agent what was added to the turn, if it takes it now."""

    id: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """Give the agent the answer to a question."""

    id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Settle:
    """Answer a question in place of a user."""

    id: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """Have the job's status say what the turn does."""

    status: TurnStatus


@dataclass(frozen=True, slots=True)
class RememberStop:
    """Have a later server know that the turn was to end."""

    turn_id: TurnId


@dataclass(frozen=True, slots=True)
class Halt:
    """End the agent and all its tree."""


@dataclass(frozen=True, slots=True)
class Close:
    """Record the turn's end."""


@dataclass(frozen=True, slots=True)
class Release:
    """Tell all who wait that it is over, and free the session for the next turn."""


Command = SendPrompt | SendSteered | Tell | Settle | ShowStatus | RememberStop | Halt | Close | Release
