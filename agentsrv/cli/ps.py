"""`agentsrv ps`: which sessions there are, and what they do. One request: how all stands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.text import Text

from agentsrv.cli import exits
from agentsrv.cli.exits import AWAY
from agentsrv.cli.safe import one_line
from agentsrv.cli.start import Cli
from agentsrv.cli.transcript import duration
from agentsrv.client import AsyncAgentsrv
from agentsrv.client.models import Permission, SessionActivity

WATCH_PAUSE_S = 2.0
HEAD = ("SESSION", "STATUS", "AGENT", "SINCE", "COST", "WHAT")
STYLES = {"running": "green", "asks": "bold yellow", "failed": "red", "interrupted": "red"}


@dataclass(frozen=True, slots=True)
class Row:
    """A session, and what it asks."""

    session: SessionActivity
    asks: Sequence[Permission]

    @property
    def status(self) -> str:
        job = self.session.last_job
        status = self.session.status
        return (
            "asks" if status == "waiting" else job.status if status in ("idle", "failed") and job else status
        )

    @property
    def is_active(self) -> bool:
        return self.session.status in ("running", "waiting", "queued")

    @property
    def since(self) -> str:
        job = self.session.last_job
        return (job and (job.finished_at or job.started_at or job.created_at)) or self.session.updated_at

    @property
    def told(self) -> str:
        """What it asks or does, what it is called, or how it began."""
        asked = self.asks[0].title if self.asks else ""
        session = self.session
        return asked or session.doing or session.name or session.preview or session.cwd

    def cells(self, now: datetime) -> list[str]:
        cost = f"${self.session.cost_usd:.2f}" if self.session.cost_usd else ""
        since = roughly((now - datetime.fromisoformat(self.since)).total_seconds())
        cells = (self.session.id, self.status, self.session.agent, since, cost, self.told)
        return [one_line(each, 100) for each in cells]

    def json(self) -> dict[str, Any]:
        fields: dict[str, Any] = msgspec.to_builtins(self.session)
        asked = [msgspec.to_builtins(each) for each in self.asks]
        return {**fields, "since": self.since, "costUsd": self.session.cost_usd or 0, "permissions": asked}


def roughly(seconds: float) -> str:
    """`42 s`, `3 min`, `5 h`: in its largest unit."""
    return " ".join(duration(seconds).split()[:2]) or "now"


async def main(cli: Cli) -> int:
    show(cli, await look(cli.client))
    is_away = False
    while cli.arguments.watch:
        await asyncio.sleep(WATCH_PAUSE_S)
        try:
            show(cli, await look(cli.client))
            is_away = False
        except AWAY as exc:
            if not is_away:
                cli.output.say(f"agentsrv: connecting again: {exc}")
            is_away = True
    return exits.OK


async def look(client: AsyncAgentsrv) -> list[Row]:
    """The newest sessions, those that are active first."""
    activity = await client.sessions.activity()
    rows = [row_of(session, activity.permissions) for session in activity.sessions]
    return sorted(rows, key=lambda row: not row.is_active)


def row_of(session: SessionActivity, questions: Sequence[Permission]) -> Row:
    return Row(session, [each for each in questions if each.session_id == session.id])


def show(cli: Cli, everything: list[Row]) -> None:
    output = cli.output
    rows = everything if cli.arguments.all else [row for row in everything if row.is_active]
    if output.format != "text":
        found = [row.json() for row in rows]
        output.objects([{"sessions": found}] if output.format == "json" else found)
        return
    if cli.arguments.quiet:
        output.print(*(one_line(row.session.id) for row in rows))
        return
    if cli.arguments.watch and output.is_terminal and not output.is_plain:
        output.console.clear()
    output.print(*table(rows))
    if not rows:
        output.say(f"nothing runs; {len(everything)} more with -a" if everything else "there are no sessions")


def table(rows: list[Row]) -> list[Text]:
    if not rows:
        return []
    now = datetime.now(UTC)
    cells = [list(HEAD), *(row.cells(now) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD) - 1)] + [0]
    lines = [
        Text("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for line in cells
    ]
    lines[0].stylize("bold")
    for line, row in zip(lines[1:], rows, strict=True):
        line.stylize(STYLES.get(row.status, ""))
    return lines
