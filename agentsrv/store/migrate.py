"""Brings a database file to the current schema: a missing one, an older one, or the earlier server's.

Everything that a migration does, its bookkeeping and the takeover of an old database included, is one
transaction. So a process that is killed leaves the state before or after it, and the next start goes on.
Any number of processes may start at once: one migrates, the others wait for it.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from agentsrv.errors import StartupError
from agentsrv.owned import require_file
from agentsrv.store import legacy

log = logging.getLogger(__name__)

INITIAL = "0001.initial"
LOCK_TIMEOUT_S = 30.0
LOCK_POLL_S = 0.05
BUSY_TIMEOUT_S = 30.0

INCREMENTAL = 2
"""How SQLite calls the mode of a file that can be shortened in slices."""

BESIDE = ("-wal", "-shm", "-journal", ".migrate.lock")
"""What lies beside a database, with its name before: SQLite opens the first three, whatever they are."""

REWRITTEN_AT_START_BYTES = 32 * 1024 * 1024

ADVICE = {
    sqlite3.SQLITE_BUSY: "stop the program that uses it",
    sqlite3.SQLITE_FULL: "free some space",
}


class MigrationStatus(Struct, frozen=True):
    """Ids of migrations (`0001.initial`), oldest first. `unknown`: applied, but not part of this version."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]


class _Contents(Struct, frozen=True):
    """What a file holds: the migrations applied, and its tables (lower case) but for bookkeeping."""

    applied: tuple[str, ...]
    tables: frozenset[str]


def migrate(path: Path) -> None:
    """Create the database at `path` or bring it to the current schema. Blocking; cheap when nothing is to do.

    Raises StartupError, one line, when the file cannot be used or was written by a newer version.
    """
    path = path.absolute()
    with _explained(path):
        _create(path)
        with _locked(path):
            _bring_up_to_date(path)
            _make_shortenable(path, REWRITTEN_AT_START_BYTES)


def compact(path: Path) -> None:
    """Write the database at `path` anew, without the space that is free in it. No server may run.

    Needs as much space again, and some 10 s for a gigabyte. Raises StartupError as `migrate` does.
    """
    path = path.absolute()
    with _explained(path), _locked(path), closing(_connect(path)) as db:
        _write_anew(db)


def status(path: Path) -> MigrationStatus:
    """Where the database at `path` stands. Changes nothing. Raises StartupError as `migrate` does."""
    path = path.absolute()
    with _explained(path):
        return _status(_read(path).applied if path.exists() else ())


def migrations_directory() -> Path:
    """The SQL files: inside the package when it was installed from a wheel, else at the repository's top."""
    here = Path(__file__).resolve()
    installed = here.parents[1] / "_migrations"
    return installed if installed.is_dir() else here.parents[2] / "migrations"


def _bring_up_to_date(path: Path) -> None:
    contents = _read(path)
    found = _status(contents.applied)
    if found.unknown:
        raise StartupError(
            f"the database {path} was written by a newer agentsrv (it has {', '.join(found.unknown)}): "
            "start that version, or set DATABASE_PATH to another file"
        )
    if not found.pending:
        return
    is_legacy = not found.applied and legacy.is_legacy(contents.tables)
    if is_legacy:
        copy = legacy.back_up(path)
        log.info("taking over the database of the earlier server; a copy of it is kept at %s", copy)
    elif not found.applied and contents.tables:
        raise StartupError(
            f"the database {path} belongs to another program (it has the tables "
            f"{', '.join(sorted(contents.tables))}): set DATABASE_PATH to another file"
        )
    _apply(path, is_legacy)


def _apply(path: Path, is_legacy: bool) -> None:
    """Apply what is pending; the caller holds the lock."""
    # Imported only when there is something to do: yoyo costs 70 ms of every start.
    import yoyo  # type: ignore[import-untyped]
    from yoyo.exceptions import LockTimeout  # type: ignore[import-untyped]

    _use_wal(path)
    directory = glob.escape(str(migrations_directory()))
    # yoyo puts the text into an SQLite URI as it is: `#`, `%` and `?` would name another file.
    uri = f"sqlite:///{quote(os.fsencode(path))}"
    try:
        with yoyo.get_backend(uri) as backend:
            # Our file lock excludes every other process, so a row in yoyo's lock table is of a dead one.
            backend.break_lock()
            for migration in backend.to_apply(yoyo.read_migrations(directory)):
                # Not `apply_one`: it commits a migration before the note that it was applied, so a kill in
                # between makes it fail for good. It also looks up user and host names, which may be missing.
                with backend.transaction():
                    takes_over = is_legacy and migration.id == INITIAL
                    if takes_over:
                        legacy.set_aside(backend.connection)
                    migration.process_steps(backend, "apply")
                    if takes_over:
                        legacy.convert(backend.connection)
                    backend.mark_one(migration, log=False)
                log.info("applied migration %s", migration.id)
    except LockTimeout as exc:
        raise StartupError(f"the database {path} is locked by another program: stop that one") from exc


def _use_wal(path: Path) -> None:
    with closing(_connect(path)) as db:
        # Space can be given back in slices. Has an effect only while the file is empty.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL").fetchall()


def _make_shortenable(path: Path, max_bytes: int) -> None:
    """Let a file from before there was that give space back, if this takes no time; else say how it is done."""
    with closing(_connect(path)) as db:
        if _number(db, "auto_vacuum") == INCREMENTAL:
            return
        if _number(db, "page_count") * _number(db, "page_size") <= max_bytes:
            _write_anew(db)
        else:
            log.info("the database cannot give space back to the disk: see `agentsrv migrate --compact`")


def _write_anew(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("VACUUM")


def _number(db: sqlite3.Connection, pragma: str) -> int:
    ((value,),) = db.execute(f"PRAGMA {pragma}").fetchall()
    return int(value)


def _read(path: Path) -> _Contents:
    with closing(_connect(path)) as db:
        names = {row[0].lower() for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        applied: tuple[str, ...] = ()
        if "_yoyo_migration" in names:
            rows = db.execute("SELECT migration_id FROM _yoyo_migration ORDER BY migration_id")
            applied = tuple(row[0] for row in rows)
    tables = frozenset(name for name in names if not name.startswith(("sqlite_", "_yoyo_", "yoyo_")))
    return _Contents(applied, tables)


def _status(applied: tuple[str, ...]) -> MigrationStatus:
    directory = migrations_directory()
    shipped = sorted(file.stem for file in directory.glob("*.sql"))
    if not shipped:
        raise StartupError(f"there are no migrations in {directory}: install agentsrv again")
    pending = tuple(migration for migration in shipped if migration not in applied)
    return MigrationStatus(applied, pending, tuple(sorted(set(applied).difference(shipped))))


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that vanished is an error and not an empty database.
    uri = f"{path.as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)


def _create(path: Path) -> None:
    """Make the file when there is none, private to this user; SQLite gives its -wal the same mode.

    An existing file is looked at but not opened: closing a descriptor of it would drop the locks that
    SQLite holds on it elsewhere in this process (POSIX locks belong to the process).
    """
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StartupError(f"the database {path} is not a file: set DATABASE_PATH to one") from None
        if not os.access(path, os.W_OK):
            raise StartupError(f"the database {path} is read-only: change its owner or mode") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `<path>.migrate.lock`, which the kernel releases when this process dies. The file stays: to
    remove it would let two processes lock two files of one name."""
    lock = os.open(f"{path.resolve()}.migrate.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise StartupError(
                    f"another process has been migrating the database {path} for {LOCK_TIMEOUT_S:.0f} s: "
                    "wait for it or stop it"
                )
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the file system and SQLite raise into one line for the operator; and what they would wait for."""
    try:
        for end in BESIDE:
            require_file(path.resolve().with_name(f"{path.resolve().name}{end}"))
        yield
    except OSError as exc:
        raise StartupError(
            f"the database {path} cannot be used: {exc.strerror or exc}: {exc.filename or path}; "
            "set DATABASE_PATH to a file that the server may write"
        ) from exc
    except sqlite3.Error as exc:
        advice = ADVICE.get(
            getattr(exc, "sqlite_errorcode", 0) & 0xFF, "set DATABASE_PATH to another file, or restore a copy"
        )
        raise StartupError(f"the database {path} cannot be used: {exc}; {advice}") from exc
