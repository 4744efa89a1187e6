"""The audit log is append-only in the database itself, whoever writes: a program beside the server does here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentsrv.access import now_ms
from agentsrv.audit import Audit
from agentsrv.model import AuditEntry
from agentsrv.store.database import Database
from agentsrv.store.migrate import compact, migrate

DAY_MS = 24 * 3600 * 1000
INSERT = "INTO audit (id, at, key, address, action, target, status, details) VALUES"
ROW = "'ci', '127.0.0.1', 'generate', '', 200, '{}'"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of two entries the first is of the day before yesterday."""
    path = tmp_path / "db"
    migrate(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"INSERT {INSERT} (1, ?, {ROW}), (2, ?, {ROW})", (now_ms() - 2 * DAY_MS, now_ms()))
    return path


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def ids(db: sqlite3.Connection) -> list[int]:
    return [number for (number,) in db.execute("SELECT id FROM audit ORDER BY id")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET key = 'nobody'",
        "UPDATE audit SET at = 0",
        "UPDATE audit SET key = 'nobody' WHERE id = 1",
        "UPDATE OR REPLACE audit SET id = 2 WHERE id = 1",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = 2",
        f"INSERT OR REPLACE {INSERT} (1, 0, {ROW})",
        f"REPLACE {INSERT} (2, 0, {ROW})",
        f"INSERT {INSERT} (2, 0, {ROW}) ON CONFLICT DO UPDATE SET key = 'nobody'",
        f"INSERT {INSERT} (0, 0, {ROW})",
        f"INSERT {INSERT} (-1, 0, {ROW})",
    ],
)
def test_what_was_done_stays_written(db: sqlite3.Connection, statement: str) -> None:
    """Nothing is changed, replaced, put before what is there, or dropped on its first day."""
    before = db.execute("SELECT * FROM audit").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match="audit log"):
        db.execute(statement)

    assert db.execute("SELECT * FROM audit").fetchall() == before


def test_old_entries_can_be_dropped_and_new_ones_added(db: sqlite3.Connection) -> None:
    """As retention does; a number is not used twice, so nothing takes the place of what was dropped."""
    db.execute("DELETE FROM audit WHERE id = 1")
    with pytest.raises(sqlite3.IntegrityError, match="audit log"):
        db.execute(f"INSERT {INSERT} (1, 0, {ROW})")
    db.execute(f"INSERT {INSERT} (NULL, 0, {ROW}), (NULL, 0, {ROW})")

    assert ids(db) == [2, 3, 4]


def test_entries_live_through_compacting(path: Path) -> None:
    """The file is written anew with all of them, and still refuses to change them."""
    compact(path)
    with closing(sqlite3.connect(path)) as db:
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("DELETE FROM audit")

        assert ids(db) == [1, 2]


@pytest.mark.parametrize(("days", "kept"), [(0, [2]), (1, [2, 3]), (3, [1, 2, 3])])
async def test_old_entries_are_dropped(path: Path, days: int, kept: list[int]) -> None:
    """After AUDIT_DAYS; with 0 none is written any more, and those of the last day stay."""
    database = Database(path)
    await database.open()
    audit = Audit(database, days)
    audit.record(AuditEntry(now_ms(), "ci", "127.0.0.1", "generate", "", 200, {}))
    await audit.written()
    await database.close()

    with closing(sqlite3.connect(path)) as db:
        assert ids(db) == kept
