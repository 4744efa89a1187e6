"""The life of a turn, every order of things, without a process: what follows from each fact."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from agentsrv.model import Outcome, Session, SessionId, Turn, TurnId, TurnStatus
from agentsrv.turns import lifecycle
from agentsrv.turns.facts import (
    Added,
    Answered,
    Asked,
    Close,
    Closed,
    Command,
    Exited,
    Expired,
    Fact,
    GaveUp,
    Halt,
    Halted,
    LeaseLost,
    Listening,
    NoAgent,
    NotStored,
    Opened,
    Over,
    Pending,
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
from agentsrv.turns.lifecycle import (
    ALLOWED_BEFORE,
    ASKED_TOO_OFTEN,
    MAX_ANSWERED,
    MAX_QUESTION_BYTES,
    MAX_QUESTIONS,
    NO_ANSWER,
    WITHDRAWN,
    Cause,
    Ended,
    Ending,
    Impossible,
    Opening,
    Running,
    State,
    Waiting,
    step,
)
from agentsrv.turns.outcomes import CANCELLED, INTERNAL_ERROR, STALE

SESSION = Session(SessionId("s"), None, "agent", "/", None, None, 1, 1, allowances=("known",))
TURN = Turn(TurnId("t"), SESSION.id, 0, TurnStatus.RUNNING, 1)
OPENED = Opened(SESSION, replace(TURN, generation=1, first_seq=1))
FINE = Outcome(TurnStatus.COMPLETED, stop_reason="end_turn")
CRASHED = Outcome(TurnStatus.FAILED, "exit code 1", "agent_exited")
LATE = Outcome(TurnStatus.FAILED, "too long", "turn_timeout")
CLOSED = Closed(replace(TURN, status=TurnStatus.COMPLETED, last_seq=9))

STOPPING = (RememberStop(TURN.id), Halt())


def question(id: str, allowance: str | None = None, size: int = 10) -> Pending:
    return Pending(id, b"x" * size, 1, allowance, 1)


class Playbook:
    """A turn, and what has followed from each fact so far. `play(fact, command, ...)` expects exactly these."""

    def __init__(self) -> None:
        self.state: State = Opening(SESSION, TURN, b"prompt")

    def play(self, fact: Fact, *commands: Command) -> Playbook:
        self.state, followed = step(self.state, fact)
        assert followed == commands, fact
        return self


def running() -> Playbook:
    return Playbook().play(OPENED).play(Ready(), SendPrompt(b"prompt")).play(Prompted())


def waiting(*questions: Pending) -> Playbook:
    playbook = running()
    for number, asked in enumerate(questions or (question("q"),)):
        show = () if number else (ShowStatus(TurnStatus.WAITING_FOR_APPROVAL),)
        playbook.play(Asked(asked), *show)
    return playbook


def test_the_main_road() -> None:
    """Opened, prompted, finished, recorded: one end, and then the session is free."""
    playbook = running().play(Reported(FINE)).play(Over(), Close())
    assert isinstance(playbook.state, Ending)
    assert (playbook.state.cause, playbook.state.outcome) == (Cause.OVER, FINE)
    assert playbook.play(CLOSED, Release()).state == Ended(SESSION, CLOSED.turn)


def test_turn_that_is_refused_leaves_nothing() -> None:
    """It was never opened: those who wait are told, and no end is recorded."""
    playbook = Playbook().play(Refused(), Release())
    assert playbook.state == Ended(SESSION, TURN)


def test_agent_that_says_nothing_of_the_outcome_has_completed() -> None:
    """It has finished, and that is what counts."""
    state = running().play(Over(), Close()).state
    assert isinstance(state, Ending)
    assert state.outcome == Outcome(TurnStatus.COMPLETED)


def test_agent_that_takes_the_prompt_later() -> None:
    """It is offered whenever the agent listens, until it has it."""
    playbook = Playbook().play(OPENED).play(Ready(), SendPrompt(b"prompt"))
    playbook.play(Listening(), SendPrompt(b"prompt")).play(Prompted()).play(Listening())


@pytest.mark.parametrize("when", ["before it is open", "before its agent is there", "while it runs"])
def test_stop_at_any_time_cancels(when: str) -> None:
    """The agent is halted, never prompted, and the job is cancelled, whatever the agent says meanwhile."""
    playbook = Playbook()
    if when == "before it is open":
        playbook.play(Stopped()).play(OPENED, *STOPPING)
    elif when == "before its agent is there":
        playbook.play(OPENED).play(Stopped(), *STOPPING)
    else:
        playbook = running().play(Stopped(), *STOPPING)
    playbook.play(Ready()).play(Reported(FINE)).play(Over()).play(Exited(CRASHED)).play(Halted(), Close())
    assert isinstance(playbook.state, Ending)
    assert playbook.state.outcome == CANCELLED


def test_stopping_twice_is_fine() -> None:
    """The second one changes nothing, nor does one that comes when the agent has just finished."""
    running().play(Stopped(), *STOPPING).play(Stopped()).play(Halted(), Close()).play(Stopped())
    state = running().play(Reported(FINE)).play(Over(), Close()).play(Stopped()).state
    assert isinstance(state, Ending)
    assert state.outcome == FINE


ENDS: list[tuple[Fact, tuple[Command, ...], Outcome]] = [
    (Exited(CRASHED), (Close(),), CRASHED),
    (NoAgent(CRASHED), (Close(),), CRASHED),
    (GaveUp(CRASHED), (Halt(),), CRASHED),
    (TimedOut(LATE), (Halt(),), LATE),
    (LeaseLost(), (Halt(),), STALE),
]


@pytest.mark.parametrize(("fact", "commands", "outcome"), ENDS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("is_asking", [False, True])
def test_every_other_end(
    fact: Fact, commands: tuple[Command, ...], outcome: Outcome, is_asking: bool
) -> None:
    """A crash, a wrong key, a time limit, a lost lease: the first one counts, also while a question waits."""
    playbook = (waiting() if is_asking else running()).play(fact, *commands)
    for later in (Over(), GaveUp(FINE), Stopped(), LeaseLost(), Exited(FINE), NoAgent(FINE)):
        playbook.play(later)
    assert isinstance(playbook.state, Ending)
    assert playbook.state.outcome == outcome


def test_crash_after_the_agent_has_said_how_it_went() -> None:
    """What it said counts."""
    state = running().play(Reported(FINE)).play(Exited(CRASHED), Close()).state
    assert isinstance(state, Ending)
    assert state.outcome == FINE


def test_end_that_cannot_be_stored_is_recorded_without_what_the_agent_said() -> None:
    """The session must not stay busy for ever for its sake; a second failure is a mistake."""
    playbook = running().play(Reported(FINE)).play(Over(), Close()).play(NotStored(), Close())
    assert isinstance(playbook.state, Ending)
    assert playbook.state.outcome == INTERNAL_ERROR
    with pytest.raises(Impossible):
        playbook.play(NotStored())


def test_question_and_answer() -> None:
    """The job waits, the agent is told, the job goes on."""
    playbook = waiting()
    assert isinstance(playbook.state, Waiting)
    assert playbook.state.turn.status is TurnStatus.WAITING_FOR_APPROVAL
    playbook.play(Answered("q", "yes", b"told"), Tell("q", b"told"))
    assert isinstance(playbook.state, Running)
    assert (playbook.state.turn.status, playbook.state.answered) == (TurnStatus.RUNNING, {"q": "yes"})


def test_question_whose_id_was_used_is_none() -> None:
    """Whether the first one still waits or has been answered."""
    waiting().play(Asked(question("q"))).play(Answered("q", "yes")).play(Asked(question("q")))


def test_what_was_allowed_before_is_answered_at_once() -> None:
    """And once only, though the time limit comes meanwhile."""
    playbook = running().play(
        Asked(question("q", "known")),
        ShowStatus(TurnStatus.WAITING_FOR_APPROVAL),
        Settle("q", ALLOWED_BEFORE),
    )
    playbook.play(Expired("q")).play(Withdrawn("q")).play(Answered("q", "yes", b"ok"), Tell("q", b"ok"))


def test_allowance_answers_what_else_waits_for_it() -> None:
    """Allowed for the session: the same questions are answered, the others go on waiting."""
    playbook = waiting(question("a", "new"), question("b", "new"), question("c"))
    playbook.play(Answered("a", "yes", b"ok", "new"), Tell("a", b"ok"), Settle("b", ALLOWED_BEFORE))
    assert isinstance(playbook.state, Waiting)
    assert "new" in playbook.state.session.allowances
    playbook.play(Asked(question("d", "new")), Settle("d", ALLOWED_BEFORE))


def test_questions_that_nobody_answers() -> None:
    """After their time they are denied; what the agent does not wait for any more is cancelled."""
    waiting(question("a"), question("b")).play(Expired("a"), Settle("a", NO_ANSWER)).play(
        Withdrawn("b"), Settle("b", WITHDRAWN)
    ).play(Withdrawn("never asked"))


def test_agent_that_asks_too_much_is_ended() -> None:
    """By number or by size; a single large question is fine."""
    playbook = waiting(*(question(str(n)) for n in range(MAX_QUESTIONS)))
    playbook.play(Asked(question("one more")), Halt())
    assert isinstance(playbook.state, Ending)
    assert (playbook.state.outcome, len(playbook.state.questions)) == (ASKED_TOO_OFTEN, MAX_QUESTIONS)
    waiting(question("large", size=MAX_QUESTION_BYTES + 1)).play(Asked(question("small")), Halt())


def test_answers_that_are_remembered_are_bounded() -> None:
    """An agent that asks for ever costs no more memory."""
    playbook = running()
    for number in range(MAX_ANSWERED + 10):
        playbook.play(Asked(question(str(number))), ShowStatus(TurnStatus.WAITING_FOR_APPROVAL))
        playbook.play(Answered(str(number), "yes"))
    assert isinstance(playbook.state, Running)
    assert len(playbook.state.answered) == MAX_ANSWERED


def test_question_at_the_end_is_cancelled_with_the_others() -> None:
    """Asked while the agent is being halted, or answered just before: the end cancels what is left."""
    playbook = waiting(question("a"), question("b")).play(Stopped(), *STOPPING)
    playbook.play(Asked(question("c"))).play(Answered("a", "yes", b"ok"))
    assert isinstance(playbook.state, Ending)
    assert list(playbook.state.questions) == ["b", "c"]


def unread(playbook: Playbook) -> list[bytes]:
    assert isinstance(playbook.state, Ending)
    return lifecycle.unread(playbook.state)


def steered(*ids: str) -> Playbook:
    """A turn to which these were added, and sent."""
    playbook = running()
    for id in ids:
        playbook.play(Added(id, id.encode(), 1), SendSteered(id, id.encode())).play(Sent(id))
    return playbook


def test_steered_prompt() -> None:
    """It is sent at once, or when the agent listens; once."""
    playbook = running().play(Added("m", b"more", 1), SendSteered("m", b"more"))
    playbook.play(Listening(), SendSteered("m", b"more")).play(Sent("m")).play(Listening())
    assert unread(playbook.play(Over(), Close())) == []


def test_steered_prompt_that_is_not_read_is_not_lost() -> None:
    """Refused, never sent, or committed in the moment of the end: it is next in the queue."""
    playbook = steered("refused", "read").play(Unheard("refused")).play(Unheard("unknown")).play(Read("read"))
    playbook.play(Added("unsent", b"unsent", 1), SendSteered("unsent", b"unsent"))
    playbook.play(Over(), Close()).play(Added("late", b"late", 1))
    assert unread(playbook) == [b"refused", b"unsent", b"late"]


@pytest.mark.parametrize(
    "fact", [Exited(CRASHED), TimedOut(LATE), GaveUp(CRASHED)], ids=["crash", "time", "key"]
)
def test_steered_prompt_that_is_not_known_to_be_read_is_not_lost(fact: Fact) -> None:
    """The agent had it in its hands when it died: it is next in the queue; what was read is not."""
    playbook = steered("sent", "read").play(Read("read"))
    playbook.state, _ = step(playbook.state, fact)
    assert unread(playbook) == [b"sent"]


def test_stop_is_meant_for_what_was_added_too() -> None:
    """It does not come back as a prompt of its own; what was not read is told."""
    playbook = steered("sent", "read").play(Read("read")).play(Stopped(), *STOPPING)
    assert isinstance(playbook.state, Ending)
    assert (unread(playbook), lifecycle.dropped(playbook.state)) == ([], ["sent"])


IMPOSSIBLE: list[tuple[Playbook, Fact]] = [
    (Playbook(), Over()),
    (Playbook(), CLOSED),
    (running(), OPENED),
    (running(), Refused()),
    (running(), Halted()),
    (running(), CLOSED),
    (running(), Answered("never asked", "yes")),
    (running().play(Stopped(), *STOPPING), CLOSED),
    (running().play(Over(), Close()), Halted()),
    (running().play(Over(), Close()).play(CLOSED, Release()), Stopped()),
]


@pytest.mark.parametrize(("playbook", "fact"), IMPOSSIBLE, ids=lambda value: type(value).__name__)
def test_impossible_is_an_error(playbook: Playbook, fact: Fact) -> None:
    """Not a condition somewhere that hides it."""
    with pytest.raises(Impossible):
        step(playbook.state, fact)


IDS = st.sampled_from(["a", "b", "c"])


class AnyOrder(RuleBasedStateMachine):
    """A driver that meets prompts, lines, questions, answers, stops, time-outs, exits and crashes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State = Opening(SESSION, TURN, b"prompt")
        self.is_halting = self.is_closing = False
        self.prompts = self.releases = 0
        self.asked: set[str] = set()
        self.resolved: list[str] = []
        self.added: set[str] = set()

    def feed(self, fact: Fact) -> None:
        was_ending = isinstance(self.state, Ending)
        self.state, commands = step(self.state, fact)
        for command in commands:
            assert not (was_ending and isinstance(command, SendPrompt | SendSteered | Tell | Settle))
            self.carry_out(command)

    def carry_out(self, command: Command) -> None:
        match command:
            case Halt():
                assert not self.is_halting
                self.is_halting = True
            case Close():
                self.is_closing, self.is_halting = True, False
            case Release():
                self.releases += 1
            case SendPrompt():
                self.prompts += 1
            case Settle(id):
                assert id in self.asked
            case _:
                pass

    @property
    def is_open(self) -> bool:
        return not isinstance(self.state, Opening | Ended)

    @property
    def is_heard(self) -> bool:
        """May the agent say something? Not once it has said that it is over, until that is recorded."""
        return self.is_open and not self.is_closing

    @rule()
    def wait(self) -> None:
        """Nothing happens."""

    @precondition(lambda self: isinstance(self.state, Opening))
    @rule(fact=st.sampled_from([OPENED, OPENED, OPENED, Refused()]))
    def open(self, fact: Fact) -> None:
        self.feed(fact)

    @precondition(lambda self: not isinstance(self.state, Ended))
    @rule()
    def stop(self) -> None:
        self.feed(Stopped())

    @precondition(lambda self: self.is_heard)
    @rule(
        fact=st.sampled_from(
            [
                Ready(),
                Listening(),
                Reported(FINE),
                Unheard("x"),
                Exited(CRASHED),
                GaveUp(CRASHED),
                LeaseLost(),
            ]
        )
    )
    def hear(self, fact: Fact) -> None:
        self.feed(fact)

    @precondition(lambda self: self.is_heard)
    @rule()
    def finish(self) -> None:
        self.feed(Over())

    @precondition(lambda self: isinstance(self.state, Running | Waiting))
    @rule()
    def time_out(self) -> None:
        self.feed(TimedOut(LATE))

    @precondition(lambda self: self.is_heard)
    @rule(id=IDS, allowance=st.sampled_from([None, "known", "new"]))
    def ask(self, id: str, allowance: str | None) -> None:
        self.asked.add(id)
        self.feed(Asked(question(id, allowance)))

    @precondition(lambda self: self.is_open)
    @rule(id=IDS, allowance=st.sampled_from([None, "new"]))
    def answer(self, id: str, allowance: str | None) -> None:
        if not isinstance(self.state, Opening | Ended) and id in self.state.questions:
            self.feed(Answered(id, "yes", b"ok", allowance))
            self.resolved.append(id)

    @precondition(lambda self: self.is_heard)
    @rule(id=IDS)
    def withdraw(self, id: str) -> None:
        self.feed(Withdrawn(id))

    @precondition(lambda self: isinstance(self.state, Waiting))
    @rule(id=IDS)
    def expire(self, id: str) -> None:
        self.feed(Expired(id))

    @precondition(lambda self: self.is_open)
    @rule(id=IDS)
    def steer(self, id: str) -> None:
        if id not in self.added:
            self.added.add(id)
            self.feed(Added(id, id.encode(), 1))

    @precondition(lambda self: self.is_halting)
    @rule()
    def halt(self) -> None:
        self.is_halting = False
        self.feed(Halted())

    @precondition(lambda self: self.is_closing)
    @rule(can_be_stored=st.booleans())
    def close(self, can_be_stored: bool) -> None:
        assert isinstance(self.state, Ending)
        if not can_be_stored and self.state.outcome is not INTERNAL_ERROR:
            self.feed(NotStored())
            return
        self.is_closing = False
        self.resolved += self.state.questions
        self.feed(CLOSED)
        assert sorted(self.resolved) == sorted(set(self.resolved))
        assert self.asked == set(self.resolved)

    @invariant()
    def status_says_what_it_does(self) -> None:
        if isinstance(self.state, Running | Waiting):
            waits = self.state.turn.status is TurnStatus.WAITING_FOR_APPROVAL
            assert waits == isinstance(self.state, Waiting) == bool(self.state.questions)

    @invariant()
    def it_ends_once(self) -> None:
        assert self.releases == isinstance(self.state, Ended)
        if isinstance(self.state, Ending):
            assert self.is_halting != self.is_closing

    def teardown(self) -> None:
        """Whatever has happened, a stop brings it to its end."""
        if isinstance(self.state, Opening):
            self.feed(OPENED)
        if not isinstance(self.state, Ended):
            self.feed(Stopped())
        if self.is_halting:
            self.halt()
        if self.is_closing:
            self.close(can_be_stored=True)
        assert isinstance(self.state, Ended)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase
