"""Brings a turn of an earlier server back to where it was: by its events, or by a fold and the events behind it."""

from __future__ import annotations

import json
import logging
from typing import Any

from agentsrv.model import Chunk, Outcome, Seq, Source, TurnStatus
from agentsrv.store import events
from agentsrv.store.database import Database
from agentsrv.turns import facts
from agentsrv.turns.driver import TurnDriver
from agentsrv.turns.facts import Place
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.questions import OUR_PREFIX

log = logging.getLogger(__name__)


class Replay:
    """What the agent may not have got it is sent again: its runner knows what it had.

    `process` None: it has left nothing.
    """

    def __init__(self, driver: TurnDriver, process: AgentProcess | None) -> None:
        self._driver = driver
        self._process = process

    def read(self, chunk: Chunk) -> None:
        """What the log has of the turn, oldest first."""
        if chunk.source is Source.USER:
            self._add_all(chunk)
            return
        lines = chunk.lines() if chunk.turn_id == self._driver.turn.id else ()
        for seq, line in enumerate(lines, chunk.first_seq):
            if line.startswith(OUR_PREFIX):
                self._driver.answering.replay(line, seq, chunk.created_at, self._process)
            elif chunk.source is Source.AGENT and self._process is not None:
                self._process.replay(line, seq)

    async def unfold(self, db: Database, process: AgentProcess, fold: dict[str, Any]) -> Seq:
        """Be in the middle of the turn; returns behind which event that is. At its beginning, where that cannot be."""
        try:
            process.adapter.restore(fold["adapter"])
        except Exception as exc:  # Of another version, whose adapter knew something else.
            log.error("what agent %s had come to cannot be read: %s", process.id, type(exc).__name__)
            return self._driver.turn.first_seq - 1
        if (outcome := fold["outcome"]) is not None:
            self._driver.feed(facts.Reported(Outcome(**{**outcome, "status": TurnStatus(outcome["status"])})))
        for seq in fold["questions"]:
            if (found := await events.find(db, self._driver.session.id, seq)) is not None:
                self._driver.answering.replay(found[1], seq, found[0].created_at, process)
        for seq, place in fold["steered"]:
            if (found := await events.find(db, self._driver.session.id, seq)) is not None:
                _add(self._driver, found[1], seq, Place[place])
        return int(fold["seq"])

    def _add_all(self, chunk: Chunk) -> None:
        """What users have added to the turn behind its prompt."""
        if chunk.turn_id == self._driver.turn.id and chunk.first_seq > self._driver.turn.first_seq:
            for seq, line in enumerate(chunk.lines(), chunk.first_seq):
                _add(self._driver, line, seq, Place.UNSENT)


def _add(driver: TurnDriver, line: bytes, seq: Seq, place: Place) -> None:
    driver.feed(facts.Added(str(json.loads(line)["uuid"]), line, seq, place))
