"""What the tests of migrations share: processes that migrate and can be killed, and a look at the result."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from agentsrv.store.migrate import MigrationStatus, migrations_directory, status

TIMEOUT_S = 120
ALL_STEPS_TIMEOUT_S = 800
ROOT = Path(__file__).resolve().parents[2]

MIGRATE = """
import sys
from pathlib import Path
import yoyo
from agentsrv.store.migrate import migrate
print("ready", flush=True)
sys.stdin.readline()
migrate(Path(sys.argv[1]))
"""


def start_migrating(path: Path) -> subprocess.Popen[bytes]:
    """A process that is about to migrate `path`: it waits for a line on its stdin."""
    command = [sys.executable, "-W", "error", "-c", MIGRATE, str(path)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def kill_after(process: subprocess.Popen[bytes], delay_s: float) -> None:
    """Let it go, and kill it if it is not done after `delay_s`."""
    with process:
        go(process)
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.kill()


def kill_at_every_step(directory: Path, template: Path | None = None) -> list[Path]:
    """Databases below `directory`, each left by a migration that was killed one step later."""
    arguments = [str(path) for path in (directory, template) if path is not None]
    command = [sys.executable, "-m", "tests.store.kill_at_every_step", *arguments]
    # One process after the other: half a minute on a quiet machine.
    subprocess.run(command, cwd=ROOT, timeout=ALL_STEPS_TIMEOUT_S, check=True)
    return [child / "db" for child in directory.iterdir()]


def ids_of_shipped() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in migrations_directory().glob("*.sql")))


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def assert_current(path: Path) -> None:
    """The database is whole, current, and has our tables."""
    assert status(path) == MigrationStatus(applied=ids_of_shipped(), pending=(), unknown=())
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    tables = {name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables >= {"sessions", "turns", "events", "runners"}
