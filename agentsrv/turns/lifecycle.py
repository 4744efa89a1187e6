"""The life of a turn as a state machine. Pure: no I/O, no clock, no tasks, so every order of things can be tried.

```
            Opened            Asked                Over, Stopped, ...        Closed
  Opening ─────────► Running ◄──────► Waiting ─────────────────────► Ending ───────► Ended
     └──────────────────────────── Refused ────────────────────────────────────────────▲
```

`step` takes a state and a fact, and gives the next state and the commands that follow. `driver` finds the facts
and carries out the commands. A fact that cannot come true in a state is a mistake of ours: `step` raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from agentsrv.model import Answer, Decision, Outcome, PermissionMode, Seq, Session, Turn, TurnStatus
from agentsrv.turns.facts import (
    Added,
    Answered,
    Asked,
    Close,
    Closed,
    Command,
    Disallowed,
    Exited,
    Expired,
    Fact,
    GaveUp,
    Halt,
    Halted,
    LeaseLost,
    Listening,
    ModeChanged,
    NoAgent,
    NotStored,
    Opened,
    Over,
    Pending,
    Place,
    Prompted,
    Read,
    Ready,
    Refused,
    Release,
    RememberStop,
    Reported,
    SendPrompt,
    SendSteered,
    Sent,
    Settle,
    ShowStatus,
    Stopped,
    Tell,
    TimedOut,
    Unheard,
    Withdrawn,
)
from agentsrv.turns.outcomes import CANCELLED, INTERNAL_ERROR, STALE

T = TypeVar("T")

MAX_QUESTIONS = 100
MAX_QUESTION_BYTES = 16 * 1024 * 1024
"""Of all questions that wait in one turn; a single one may be larger. An agent that asks more at once does not wait."""

MAX_STEERED = 1000
MAX_STEERED_BYTES = 64 * 1024 * 1024
"""Of all that is added to one turn and not yet read, which is kept in memory."""

MAX_ANSWERED = 1000
"""So many answers of a turn are known without asking the log."""

NO_ANSWER = Answer(Decision.TIMED_OUT, message="nobody answered in time")
ALLOWED_BEFORE = Answer(Decision.ALLOW)
WITHDRAWN = Answer(Decision.CANCELLED)

CODE_OF_TOO_MANY = "too_many_permissions"
ASKED_TOO_OFTEN = Outcome(
    TurnStatus.FAILED, f"the agent asked for more than {MAX_QUESTIONS} permissions at once", CODE_OF_TOO_MANY
)
ASKED_TOO_MUCH = Outcome(
    TurnStatus.FAILED,
    f"the agent asked for permissions of more than {MAX_QUESTION_BYTES} bytes at once",
    CODE_OF_TOO_MANY,
)


class Impossible(Exception):
    """A fact that cannot come true in this state."""


class Cause(Enum):
    """Why a turn ends. The first one counts."""

    OVER = auto()
    EXITED = auto()
    GAVE_UP = auto()
    STOPPED = auto()
    TIMED_OUT = auto()
    STALE = auto()
    NO_AGENT = auto()


class Steered(Struct, frozen=True):
    event: bytes
    seq: Seq
    place: Place = Place.UNSENT


class Opening(Struct, frozen=True):
    """Not in the log yet, and perhaps never. `is_stopped`: somebody wants it to end already."""

    session: Session
    turn: Turn
    prompt: bytes | None
    is_stopped: bool = False


class Open(Struct, frozen=True, kw_only=True):
    """What is known of a turn from its opening to its end.

    prompt: until the agent has got it.
    outcome: how the turn goes, as far as the agent has said.
    steered: what was added to the turn while it ran, by its uuid, until it is known that the agent has read it.
    answered: the last answers, by the ids of their questions.
    """

    session: Session
    turn: Turn
    prompt: bytes | None = None
    outcome: Outcome | None = None
    steered: Mapping[str, Steered] = field(default_factory=dict)
    questions: Mapping[str, Pending] = field(default_factory=dict)
    answered: Mapping[str, str] = field(default_factory=dict)


class Running(Open, frozen=True, kw_only=True):
    """The agent works, or is being started. Nothing is asked."""


class Waiting(Open, frozen=True, kw_only=True):
    """The agent waits for an answer, or for several."""


class Ending(Open, frozen=True, kw_only=True):
    """It is decided how the turn ends: `outcome`. Its agent is being halted, or its end recorded."""

    outcome: Outcome
    cause: Cause
    is_closing: bool = False


class Ended(Struct, frozen=True):
    """Its end is in the log, or it was never opened."""

    session: Session
    turn: Turn


State = Opening | Running | Waiting | Ending | Ended


Step = tuple[State, tuple[Command, ...]]


def unread(state: Ending) -> list[bytes]:
    """What was added to the turn and its agent is not known to have read: it becomes the session's next prompts.

    An agent that is done has read all that it has taken. Not after a stop, which was meant for all of it.
    """
    if state.cause in (Cause.STOPPED, Cause.STALE):
        return []
    is_done = state.cause is Cause.OVER
    return [
        message.event for message in state.steered.values() if not (is_done and message.place is Place.SENT)
    ]


def dropped(state: Ending) -> list[str]:
    """What was added to a turn that was stopped before its agent is known to have read it."""
    return list(state.steered) if state.cause is Cause.STOPPED else []


def has_room_for(state: Open, event: bytes) -> bool:
    """May it be added to the turn? What may not has to wait for its end."""
    size = len(event) + sum(len(message.event) for message in state.steered.values())
    return size <= MAX_STEERED_BYTES and len(state.steered) < MAX_STEERED


def step(state: State, fact: Fact) -> Step:
    """The state after `fact`, and what is to be done. Raises Impossible."""
    match state:
        case Opening():
            return _opening(state, fact)
        case Running() | Waiting():
            return _open(state, fact)
        case Ending():
            return _ending(state, fact)
        case Ended():
            raise Impossible(f"{type(fact).__name__} after the end of turn {state.turn.id}")


def _opening(state: Opening, fact: Fact) -> Step:
    match fact:
        case Opened(session, turn, prompt):
            running = Running(session=session, turn=turn, prompt=prompt or state.prompt)
            return _end(running, Cause.STOPPED, CANCELLED) if state.is_stopped else (running, ())
        case Refused():
            return Ended(state.session, state.turn), (Release(),)
        case Stopped():
            return replace(state, is_stopped=True), ()
        case _:
            raise _impossible(state, fact)


def _open(state: Running | Waiting, fact: Fact) -> Step:
    match fact:
        case Ready() | Listening():
            return state, _to_send(state)
        case Prompted():
            return replace(state, prompt=None), ()
        case Added(id, event, seq, place):
            added = replace(state, steered={**state.steered, id: Steered(event, seq, place)})
            return added, (SendSteered(id, event),) if place is Place.UNSENT else ()
        case Sent(id):
            return _moved(state, id, Place.SENT), ()
        case Unheard(id):
            return _moved(state, id, Place.REFUSED), ()
        case Read(id):
            return replace(state, steered=_without(state.steered, id)), ()
        case Asked(question):
            return _asked(state, question)
        case Withdrawn(id):
            return _settling(state, [id], WITHDRAWN)
        case Expired(id):
            return _settling(state, [id], NO_ANSWER)
        case Answered():
            return _answered(state, fact)
        case Disallowed(allowances):
            return replace(state, session=replace(state.session, allowances=allowances)), ()
        case ModeChanged(mode):
            return _in_mode(state, mode), ()
        case Reported(outcome):
            return replace(state, outcome=outcome), ()
        case _:
            return _to_its_end(state, fact)


def _to_its_end(state: Running | Waiting, fact: Fact) -> Step:
    match fact:
        case Over():
            return _close(state, Cause.OVER, state.outcome or Outcome(TurnStatus.COMPLETED))
        case Exited(outcome):
            return _close(state, Cause.EXITED, state.outcome or outcome)
        case NoAgent(outcome):
            return _close(state, Cause.NO_AGENT, outcome)
        case GaveUp(outcome):
            return _end(state, Cause.GAVE_UP, outcome)
        case TimedOut(outcome):
            return _end(state, Cause.TIMED_OUT, outcome)
        case Stopped():
            return _end(state, Cause.STOPPED, CANCELLED)
        case LeaseLost():
            return _end(state, Cause.STALE, STALE)
        case _:
            raise _impossible(state, fact)


def _ending(state: Ending, fact: Fact) -> Step:
    match fact:
        case Added(id, event, seq):  # It was being committed when the turn's end was decided.
            return replace(state, steered={**state.steered, id: Steered(event, seq)}), ()
        case Read(id):
            return replace(state, steered=_without(state.steered, id)), ()
        case Asked(question) if question.id not in state.answered and len(state.questions) < MAX_QUESTIONS:
            # Only its id is needed: the end of the turn cancels it.
            asked = {**state.questions, question.id: replace(question, event=b"")}
            return replace(state, questions=asked), ()
        case Answered(id, digest):
            answered = {**state.answered, id: digest}
            return replace(state, questions=_without(state.questions, id), answered=answered), ()
        case Halted() if not state.is_closing:
            return replace(state, is_closing=True), (Close(),)
        case NotStored() if state.is_closing and state.outcome is not INTERNAL_ERROR:
            return replace(state, outcome=INTERNAL_ERROR), (Close(),)
        case Closed(turn) if state.is_closing:
            return Ended(state.session, turn), (Release(),)
        case Opened() | Refused() | Prompted() | Expired() | TimedOut() | Halted() | NotStored() | Closed():
            raise _impossible(state, fact)
        case _:
            return state, ()  # Whatever the agent or its user says now, the first cause counts.


def _end(state: Running | Waiting, cause: Cause, outcome: Outcome) -> Step:
    """The agent still works: it has to be halted first."""
    remember = (RememberStop(state.turn.id),) if cause is Cause.STOPPED else ()
    return _as_ending(state, cause, outcome, is_closing=False), (*remember, Halt())


def _close(state: Running | Waiting, cause: Cause, outcome: Outcome) -> Step:
    return _as_ending(state, cause, outcome, is_closing=True), (Close(),)


def _as_ending(state: Open, cause: Cause, outcome: Outcome, *, is_closing: bool) -> Ending:
    return Ending(
        session=state.session,
        turn=state.turn,
        prompt=state.prompt,
        outcome=outcome,
        steered=state.steered,
        questions=state.questions,
        answered=state.answered,
        cause=cause,
        is_closing=is_closing,
    )


def _to_send(state: Open) -> tuple[Command, ...]:
    prompt = () if state.prompt is None else (SendPrompt(state.prompt),)
    unsent = [
        SendSteered(id, message.event)
        for id, message in state.steered.items()
        if message.place is Place.UNSENT
    ]
    return (*prompt, *unsent)


def _moved(state: Running | Waiting, id: str, place: Place) -> Running | Waiting:
    if (message := state.steered.get(id)) is None:
        return state  # An agent may name what it was never sent.
    return replace(state, steered={**state.steered, id: replace(message, place=place)})


def _asked(state: Running | Waiting, question: Pending) -> Step:
    """What has the id of an earlier question is none: an answer must not be taken for one to something else."""
    if question.id in state.questions or question.id in state.answered:
        return state, ()
    size = sum(len(waiting.event) for waiting in state.questions.values())
    if len(state.questions) >= MAX_QUESTIONS:
        return _end(state, Cause.GAVE_UP, ASKED_TOO_OFTEN)
    if state.questions and size + len(question.event) > MAX_QUESTION_BYTES:
        return _end(state, Cause.GAVE_UP, ASKED_TOO_MUCH)
    waiting = _with_questions(state, {**state.questions, question.id: question})
    show = _status_shown(state, waiting)
    if question.allowance is None or question.allowance not in state.session.allowances:
        return waiting, show
    settling, commands = _settling(waiting, [question.id], ALLOWED_BEFORE)
    return settling, (*show, *commands)


def _settling(state: Running | Waiting, ids: list[str], answer: Answer) -> Step:
    """Those that still wait, and are not being answered by the server already."""
    chosen = [id for id in ids if id in state.questions and not state.questions[id].is_settling]
    marked = {id: replace(state.questions[id], is_settling=True) for id in chosen}
    settling = replace(state, questions={**state.questions, **marked})
    return settling, tuple(Settle(id, answer) for id in chosen)


def _answered(state: Running | Waiting, fact: Answered) -> Step:
    if fact.id not in state.questions:
        raise _impossible(state, fact)
    answered = {**state.answered, fact.id: fact.digest}
    if len(answered) > MAX_ANSWERED:
        del answered[next(iter(answered))]
    session = state.session
    if fact.allowance is not None:
        session = replace(session, allowances=(*session.allowances, fact.allowance))
    state = _in_mode(replace(state, session=session, answered=answered), fact.mode)
    left = _with_questions(state, _without(state.questions, fact.id))
    tell = () if fact.data is None else (Tell(fact.id, fact.data),)
    same = [
        q.id for q in left.questions.values() if fact.allowance is not None and q.allowance == fact.allowance
    ]
    settling, commands = _settling(left, same, ALLOWED_BEFORE)
    return settling, (*tell, *commands)


def _in_mode(state: Running | Waiting, mode: PermissionMode | None) -> Running | Waiting:
    options = state.turn.options
    if mode in (None, options.permission_mode):
        return state
    first = options.first_mode or options.permission_mode
    options = replace(options, permission_mode=mode, first_mode=first)
    return replace(state, turn=replace(state.turn, options=options))


def _with_questions(state: Running | Waiting, questions: Mapping[str, Pending]) -> Running | Waiting:
    """The state that follows from what is asked; its turn's status says so, too."""
    kind, status = (Waiting, TurnStatus.WAITING_FOR_APPROVAL) if questions else (Running, TurnStatus.RUNNING)
    return kind(
        session=state.session,
        turn=replace(state.turn, status=status),
        prompt=state.prompt,
        outcome=state.outcome,
        steered=state.steered,
        questions=questions,
        answered=state.answered,
    )


def _status_shown(before: Open, after: Open) -> tuple[ShowStatus, ...]:
    return () if before.turn.status is after.turn.status else (ShowStatus(after.turn.status),)


def _without(items: Mapping[str, T], id: str) -> dict[str, T]:
    return {key: value for key, value in items.items() if key != id}


def _impossible(state: State, fact: Fact) -> Impossible:
    return Impossible(f"{type(fact).__name__} while turn {state.turn.id} is {type(state).__name__}")
