"""A database file is brought to the current schema, whatever happens meanwhile."""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agentsrv.errors import StartupError
from agentsrv.store import migrate as migrate_module
from agentsrv.store.migrate import MigrationStatus, migrate, status
from tests.store.kit import (
    ROOT,
    TIMEOUT_S,
    assert_current,
    go,
    ids_of_shipped,
    kill_after,
    kill_at_every_step,
    query,
    start_migrating,
)

KILLS = 20
LONGEST_RUN_S = 0.12


def refusal(path: Path) -> str:
    """What the operator reads when `path` cannot be used; always one line."""
    with pytest.raises(StartupError) as caught:
        migrate(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_database_is_created(tmp_path: Path) -> None:
    """The first start makes the file and the directories above it."""
    path = tmp_path / "state" / "deep" / "agentsrv.db"
    assert status(path) == MigrationStatus(applied=(), pending=ids_of_shipped(), unknown=())

    migrate(path)

    assert_current(path)


def test_status_creates_nothing(tmp_path: Path) -> None:
    """Asking how a database stands does not make one."""
    status(tmp_path / "agentsrv.db")

    assert list(tmp_path.iterdir()) == []


def test_empty_file_is_a_new_database(tmp_path: Path) -> None:
    """A start that was killed right after it made the file left an empty one; that is fine."""
    path = tmp_path / "agentsrv.db"
    path.touch()

    migrate(path)

    assert_current(path)


def test_next_start_keeps_what_is_there(tmp_path: Path) -> None:
    """Migrating again changes nothing."""
    path = tmp_path / "agentsrv.db"
    migrate(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "INSERT INTO sessions (id, agent, cwd, created_at, updated_at) VALUES ('s', 'codex', '/', 1, 1)"
        )

    migrate(path)

    assert query(path, "SELECT id FROM sessions") == [("s",)]


def test_next_start_does_not_import_yoyo(tmp_path: Path) -> None:
    """A start with nothing to migrate does not pay for the migration library."""
    path = tmp_path / "agentsrv.db"
    migrate(path)
    code = (
        "import sys; from pathlib import Path; from agentsrv.store.migrate import migrate; "
        "migrate(Path(sys.argv[1])); sys.exit('yoyo' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=TIMEOUT_S, check=False)

    assert done.returncode == 0


@pytest.mark.parametrize("name", ["a#b", "a%23b", "a?mode=ro", "a b", "[a]*", "ä", "'\";--", "a\udcffb"])
def test_every_path_names_itself(tmp_path: Path, name: str) -> None:
    """Characters that mean something in URIs, globs or SQL mean nothing in DATABASE_PATH."""
    path = tmp_path / name / f"{name}.db"

    migrate(path)

    assert_current(path)
    assert {path.name, f"{path.name}.migrate.lock"} == {file.name for file in path.parent.iterdir()}
    assert list(tmp_path.iterdir()) == [path.parent]


def test_relative_path_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path relative to the working directory works."""
    monkeypatch.chdir(tmp_path)

    migrate(Path("agentsrv.db"))

    assert_current(tmp_path / "agentsrv.db")


def test_nobody_else_can_read_the_database(tmp_path: Path) -> None:
    """The file, what SQLite puts beside it, and a directory made for it belong to this user alone."""
    path = tmp_path / "state" / "agentsrv.db"
    migrate(path)

    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO runners (id, session_id, spawn_key, created_at) VALUES ('r', 's', '', 1)")
        db.commit()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    files = ["agentsrv.db", "agentsrv.db-shm", "agentsrv.db-wal", "agentsrv.db.migrate.lock"]
    assert dict.fromkeys(files, 0o600) == modes
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_database_is_in_wal_mode(tmp_path: Path) -> None:
    """Readers never wait for the writer."""
    path = tmp_path / "agentsrv.db"

    migrate(path)

    assert query(path, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("processes", [2, 4])
def test_servers_that_start_at_once_all_start(tmp_path: Path, processes: int) -> None:
    """Several processes on one new database: one migrates, the others wait, none fails."""
    path = tmp_path / "agentsrv.db"
    running = [start_migrating(path) for _ in range(processes)]

    for process in running:
        go(process)
    errors = [process.communicate(timeout=TIMEOUT_S)[1] for process in running]

    assert errors == [b""] * processes
    assert_current(path)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_migration_killed_at_any_step_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """kill -9 right before each statement and file operation in turn: the next start completes it."""
    killed = kill_at_every_step(tmp_path)

    for path in killed:
        migrate(path)
        assert_current(path)
    assert len(killed) > 40


def test_migration_killed_at_any_moment_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """kill -9 at random moments, in the middle of a commit too: the next start completes it."""
    for number in range(KILLS):
        path = tmp_path / f"{number}.db"

        kill_after(start_migrating(path), random.uniform(0, LONGEST_RUN_S))

        migrate(path)
        assert_current(path)


def test_left_over_lock_of_the_migration_library_is_broken(tmp_path: Path) -> None:
    """A `yoyo apply` that was killed leaves a row in its lock table; it does not keep us from starting."""
    path = tmp_path / "agentsrv.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE yoyo_lock (locked INT DEFAULT 1, ctime TIMESTAMP, pid INT NOT NULL)")
        db.execute("INSERT INTO yoyo_lock VALUES (1, NULL, 1)")

    migrate(path)

    assert_current(path)


def test_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A schema that this version does not know is not touched; the line names what it has."""
    path = tmp_path / "agentsrv.db"
    migrate(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO _yoyo_migration VALUES ('hash', '9999.later', NULL)")

    message = refusal(path)

    assert "newer" in message
    assert "9999.later" in message
    assert status(path).unknown == ("9999.later",)


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """A DATABASE_PATH that points at somebody else's database does not get our tables into it."""
    path = tmp_path / "bookmarks.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")

    assert "bookmarks" in refusal(path)
    assert query(path, "SELECT name FROM sqlite_master") == [("bookmarks",)]


def test_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    """A text file at DATABASE_PATH stays what it is."""
    path = tmp_path / "agentsrv.db"
    path.write_text("something that is dear to somebody\n" * 100)

    assert "file is not a database" in refusal(path)
    assert path.read_text() == "something that is dear to somebody\n" * 100


def test_directory_is_refused(tmp_path: Path) -> None:
    """DATABASE_PATH must name a file."""
    assert "is not a file" in refusal(tmp_path)


def test_special_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    """A named pipe nobody writes to does not hang the start."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    assert "is not a file" in refusal(path)


@pytest.mark.parametrize("place", ["file/agentsrv.db", "file/deeper/agentsrv.db"])
def test_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    """The line says which path and why."""
    (tmp_path / "file").touch()

    message = refusal(tmp_path / place)

    assert "Not a directory" in message
    assert str(tmp_path / "file") in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_place_is_refused(tmp_path: Path) -> None:
    """Neither a directory nor a file without write permission will do."""
    migrate(tmp_path / "agentsrv.db")
    (tmp_path / "agentsrv.db").chmod(0o400)
    assert "read-only" in refusal(tmp_path / "agentsrv.db")
    tmp_path.chmod(0o500)

    assert "Permission denied" in refusal(tmp_path / "other.db")


def test_waiting_for_another_migration_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs while it migrates does not make others hang with it."""
    monkeypatch.setattr(migrate_module, "LOCK_TIMEOUT_S", 0.1)
    path = tmp_path / "agentsrv.db"
    with open(f"{path}.migrate.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert "another process" in refusal(path)
