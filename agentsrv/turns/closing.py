"""How the end of a turn comes into the log."""

from __future__ import annotations

import logging
from typing import Any

from msgspec.structs import replace

from agentsrv.agents.memory import bounded
from agentsrv.agents.schemas import checked_output
from agentsrv.errors import AgentsrvError
from agentsrv.eventlog import now_ms, server_chunk
from agentsrv.model import Chunk, Outcome, Seq, Source, Turn
from agentsrv.store import events, transactions
from agentsrv.turns import facts, lifecycle
from agentsrv.turns.lifecycle import WITHDRAWN, Ending
from agentsrv.turns.means import Means, OpenTurn
from agentsrv.turns.outcomes import dropped_event, final_events
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.questions import resolved_event
from agentsrv.turns.requests import queued_again

log = logging.getLogger(__name__)


async def close(turn: OpenTurn, means: Means) -> None:
    """Commit the outcome with the turn's last events, release the lease, and show them."""
    await _finish_stages(turn, means)
    try:
        await _record(turn, means)
    except events.StaleLease:
        log.warning("turn %s lost its session to another owner; its end is not recorded", turn.turn.id)
        turn.feed(facts.Closed(turn.turn))
    except AgentsrvError:
        raise
    except Exception:
        # What the agent said cannot be stored. The session must not stay busy for ever for its sake.
        log.exception("the outcome of turn %s cannot be recorded", turn.turn.id)
        turn.feed(facts.NotStored())


async def _record(turn: OpenTurn, means: Means) -> None:
    process, outcome = await turn.process(), await _outcome(turn, means)
    async with turn.log.hold() as seq:
        ending = turn.state
        assert isinstance(ending, Ending)
        ended, last_events = _last_words(ending, outcome, seq)
        unread = [queued_again(ended, event, means.homes.new_turn_id()) for event in lifecycle.unread(ending)]
        await transactions.close_turn(
            means.db,
            ended,
            last_events,
            runner_id=None if process is None else process.id,
            agent_state=_state_of(process),
            earlier_model=turn.session.model,
            unread=unread,
        )
        turn.log.publish(last_events)
        for prompt in reversed(unread):
            means.queue.put_back(ended.session_id, prompt.turn_id)
        turn.feed(facts.Closed(ended))


async def _outcome(turn: OpenTurn, means: Means) -> Outcome:
    """What is known of the end; what the agent was to give is checked."""
    assert isinstance(turn.state, Ending)
    outcome, options = turn.state.outcome, turn.turn.options
    if options.output_schema is not None:
        outcome = await means.pool.threads.folding.run(checked_output, options, outcome)
    return bounded(outcome)


def _state_of(process: AgentProcess | None) -> dict[str, Any]:
    """What must be known of the agent after a restart; nothing, when it cannot tell."""
    try:
        return {} if process is None else process.adapter.state()
    except Exception as exc:
        log.error("what an agent has come to cannot be told: %s", type(exc).__name__)
        return {}


def _last_words(ending: Ending, outcome: Outcome, seq: Seq) -> tuple[Turn, Chunk]:
    """The turn as it has ended, and its last events: what is still asked is cancelled, what is not read is dropped."""
    told = [resolved_event(ending.turn, question_id, WITHDRAWN) for question_id in ending.questions]
    told += [dropped_event(ending.turn.id, message_id) for message_id in lifecycle.dropped(ending)]
    lines = [*told, *final_events(ending.turn.id, outcome, seq + len(told))]
    turn = replace(
        ending.turn,
        status=outcome.status,
        outcome=outcome,
        finished_at=now_ms(),
        last_seq=seq + len(lines) - 1,
    )
    return turn, server_chunk(turn, Source.SERVER, seq, lines)


async def _finish_stages(turn: OpenTurn, means: Means) -> None:
    for stage in means.stages:
        try:
            await stage.finish(turn.session, turn.turn)
        except Exception:
            log.exception("what goes with turn %s could not be finished", turn.turn.id)
