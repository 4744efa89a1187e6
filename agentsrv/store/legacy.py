"""Takes over the database of the earlier TypeScript server: tables `sessions` and `messages`.

What is known of it: ids are text, times are epoch seconds, `messages.contents` is a JSON array of the agent's
messages. The names of columns varied (`created_at`, `createdAt`), so they are looked up and not assumed.

Nothing is lost: the file is copied before anything changes, the old tables stay under `legacy_...` with all
their columns, and what cannot be read as it should be becomes a `raw` event. `set_aside` and `convert` run in
the transaction of the first migration, around it: `convert` writes the schema of that migration for ever.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from agentsrv.model import MODEL, SESSION_ID, Millis, Seq, Source, TurnStatus

OUR_TABLES = ("sessions", "turns", "events", "runners")
AGENTS = ("claude-code", "codex")
"""Those of the earlier server; it took their names as models, too."""

CHUNK_BYTES = 256 * 1024
MILLISECONDS_FROM = 1e11
"""No time in seconds is that large before the year 5138: a larger one is in milliseconds."""
LAST_MILLIS = 253_402_300_799_999
"""The end of the year 9999, the last that ISO 8601 times show with four digits."""

# Spellings of columns, lower case and without underscores, best first.
SESSION_COLUMNS = (
    ("id", "sessionid"),
    ("name", "title"),
    ("agent", "agenttype"),
    ("cwd", "workingdirectory", "workingdir"),
    ("model",),
    ("internalsessionid", "agentsessionid", "claudesessionid"),
    ("createdat", "created"),
    ("updatedat", "updated"),
)
MESSAGE_COLUMNS = (
    ("id", "messageid"),
    ("sessionid", "session"),
    ("createdat", "created", "timestamp"),
    ("updatedat", "updated"),
)
CONTENTS_COLUMNS = (("contents", "content"),)


class _Message(Struct, frozen=True):
    """An old row of `messages` but for its contents, which may be large."""

    rowid: int
    id: str
    created_at: Millis | None
    finished_at: Millis | None


class _OldSession(Struct):
    """An old row of `sessions`, its messages oldest first. `key` is how they name it."""

    key: str
    name: str | None = None
    agent: str | None = None
    cwd: str | None = None
    model: str | None = None
    internal_session_id: str | None = None
    created_at: Millis | None = None
    updated_at: Millis | None = None
    messages: list[_Message] = field(default_factory=list)


class _Init(msgspec.Struct):
    """The message that opens a conversation of Claude Code: what it says of the session."""

    type: str = ""
    subtype: str = ""
    cwd: str | None = None
    session_id: str | None = None


def is_legacy(tables: Iterable[str]) -> bool:
    """Are these (in lower case) the tables of the earlier server? For a database without our migrations."""
    return {"sessions", "messages"} <= set(tables)


def back_up(path: Path) -> Path:
    """Copy the database, its write-ahead log included, to `<path>.legacy-<date>.bak`; return that path.

    An equal copy of an earlier attempt is kept instead, a different one is never replaced.
    """
    part = path.with_name(f"{path.name}.legacy.part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _copy(path, part)
        _sync(part)
        kept = _keep(part, f"{path}.legacy-{datetime.now(UTC):%Y-%m-%d}")
    finally:
        part.unlink(missing_ok=True)
    _sync(path.parent)
    return kept


def set_aside(db: sqlite3.Connection) -> None:
    """Rename the old tables, and any other one whose name we need, to `legacy_<name>`."""
    tables = [
        name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    ]
    for table in tables:
        if table.lower() in (*OUR_TABLES, "messages"):
            db.execute(f"ALTER TABLE {_quoted(table)} RENAME TO {_quoted('legacy_' + table.lower())}")


def convert(db: sqlite3.Connection) -> None:
    """Fill the new tables from the old ones: a message becomes a finished turn, its elements events.

    Ids stay as they are, unless they cannot be used in a URL.
    """
    with _any_text(db):
        session_ids: set[str] = set()
        turn_ids: set[str] = set()
        (contents,) = _columns(db, "legacy_messages", CONTENTS_COLUMNS, required=1)
        for session in _old_sessions(db):
            writer = _Writer(db, _free_id(session.key, session_ids), contents, turn_ids)
            writer.add_session(session)
            for message in session.messages:
                writer.add_turn(message)
            writer.complete_session()


class _Writer:
    """Writes one session and its log."""

    def __init__(self, db: sqlite3.Connection, session_id: str, contents: str, turn_ids: set[str]) -> None:
        self._db = db
        self._id = session_id
        self._contents = contents
        self._turn_ids = turn_ids
        self._last_seq: Seq = 0
        self._created_at: Millis = 0
        self._init = _Init()

    def add_session(self, old: _OldSession) -> None:
        times = [message.created_at for message in old.messages if message.created_at is not None]
        known = [time for time in (old.created_at, old.updated_at, *times) if time is not None]
        now = int(datetime.now(UTC).timestamp() * 1000)
        self._created_at = old.created_at if old.created_at is not None else min(known, default=now)
        self._db.execute(
            """
            INSERT INTO sessions (id, name, agent, cwd, model, internal_session_id, created_at, updated_at)
            VALUES (:id, :name, :agent, :cwd, :model, :internal_session_id, :created_at, :updated_at)
            """,
            {
                "id": self._id,
                "name": old.name or (_clean(old.key) if self._id != old.key else "") or None,
                "agent": _agent(old.agent, old.model),
                "cwd": old.cwd or "",
                "model": _model(old.model),
                "internal_session_id": old.internal_session_id or None,
                "created_at": self._created_at,
                "updated_at": max(self._created_at, old.updated_at or max(times, default=0)),
            },
        )

    def add_turn(self, message: _Message) -> None:
        turn_id = _free_id(message.id, self._turn_ids)
        created_at = message.created_at if message.created_at is not None else self._created_at
        first_seq = self._last_seq + 1
        for source, events in _chunks(self._events(message)):
            self._add_events(turn_id, source, created_at, events)
        done = {"done": True, "taskId": turn_id, "status": TurnStatus.COMPLETED}
        finished_at = max(created_at, message.finished_at or 0)
        self._add_events(turn_id, Source.SERVER, finished_at, [msgspec.json.encode(done)])
        self._db.execute(
            """
            INSERT INTO turns (id, session_id, generation, status, created_at, started_at, finished_at,
                               first_seq, last_seq)
            VALUES (:id, :session_id, 0, :status, :created_at, :created_at, :finished_at,
                    :first_seq, :last_seq)
            """,
            {
                "id": turn_id,
                "session_id": self._id,
                "status": TurnStatus.COMPLETED,
                "created_at": created_at,
                "finished_at": finished_at,
                "first_seq": first_seq,
                "last_seq": self._last_seq,
            },
        )

    def complete_session(self) -> None:
        """Take from the agent's own messages what the old row did not say."""
        self._db.execute(
            """
            UPDATE sessions
               SET cwd = CASE WHEN cwd = '' THEN :cwd ELSE cwd END,
                   internal_session_id = coalesce(internal_session_id, :internal_session_id)
             WHERE id = :id
            """,
            {
                "id": self._id,
                "cwd": _clean(self._init.cwd or ""),
                "internal_session_id": self._init.session_id,
            },
        )

    def _events(self, message: _Message) -> list[bytes]:
        sql = f"SELECT {self._contents} FROM legacy_messages WHERE rowid = :rowid"
        (contents,) = self._db.execute(sql, {"rowid": message.rowid}).fetchone()
        events = _events(contents)
        for event in events:
            if b'"init"' in event and (init := _as_init(event)) is not None:
                self._init = init
        return events

    def _add_events(self, turn_id: str, source: Source, created_at: Millis, events: Sequence[bytes]) -> None:
        first_seq, self._last_seq = self._last_seq + 1, self._last_seq + len(events)
        self._db.execute(
            """
            INSERT INTO events (session_id, first_seq, last_seq, turn_id, source, created_at, data)
            VALUES (:session_id, :first_seq, :last_seq, :turn_id, :source, :created_at, :data)
            """,
            {
                "session_id": self._id,
                "first_seq": first_seq,
                "last_seq": self._last_seq,
                "turn_id": turn_id,
                "source": source,
                "created_at": created_at,
                "data": b"\n".join(events) + b"\n",
            },
        )


def _old_sessions(db: sqlite3.Connection) -> Iterator[_OldSession]:
    """Every old session with its messages, and one for messages whose session has no row."""
    messages = _old_messages(db)
    columns = _columns(db, "legacy_sessions", SESSION_COLUMNS, required=1)
    rows = db.execute(f"SELECT {', '.join(columns)} FROM legacy_sessions").fetchall()
    for key, name, agent, cwd, model, internal_id, created_at, updated_at in rows:
        session_key = _key(key, "unassigned")
        yield _OldSession(
            session_key,
            _text(name),
            _text(agent),
            _text(cwd),
            _text(model),
            _text(internal_id),
            _millis(created_at),
            _millis(updated_at),
            messages.pop(session_key, []),
        )
    for session_key, orphans in messages.items():
        yield _OldSession(session_key, messages=orphans)


def _old_messages(db: sqlite3.Connection) -> dict[str, list[_Message]]:
    """Messages by session, oldest first; in one second, and without a time, as they were inserted."""
    columns = _columns(db, "legacy_messages", MESSAGE_COLUMNS, required=2)
    messages: dict[str, list[_Message]] = {}
    rows = db.execute(f"SELECT rowid, {', '.join(columns)} FROM legacy_messages ORDER BY rowid")
    for rowid, key, session, created_at, updated_at in rows:
        siblings = messages.setdefault(_key(session, "unassigned"), [])
        time = _millis(created_at)
        if time is None and siblings:
            time = siblings[-1].created_at
        siblings.append(_Message(rowid, _key(key, f"message-{rowid}"), time, _millis(updated_at)))
    for siblings in messages.values():
        siblings.sort(key=lambda message: message.created_at or 0)
    return messages


def _columns(
    db: sqlite3.Connection, table: str, wanted: Sequence[tuple[str, ...]], *, required: int
) -> list[str]:
    """SQL for each wanted column: its name as `table` spells it, or NULL. Raises for the first `required`."""
    names = [row[1] for row in db.execute(f"PRAGMA table_info({_quoted(table)})")]
    spelled = {name.replace("_", "").lower(): name for name in names}
    found = []
    for position, spellings in enumerate(wanted):
        name = next((spelled[spelling] for spelling in spellings if spelling in spelled), None)
        if name is None and position < required:
            raise sqlite3.DataError(f"its table {table.removeprefix('legacy_')} has no column {spellings[0]}")
        # The plus makes it an expression: a column declared TIMESTAMP would be parsed by yoyo's connection.
        found.append("NULL" if name is None else f"+{_quoted(name)}")
    return found


def _events(contents: Any) -> list[bytes]:
    """The elements of a JSON array, each on one line and otherwise exactly as it was written."""
    if contents is None or contents == "":
        return []
    data = contents if isinstance(contents, bytes) else str(contents).encode("utf-8", "surrogateescape")
    elements = _elements(data)
    if elements is None:
        return [_raw(data)]
    return [element if element.startswith(b"{") else _raw(element) for element in elements]


def _elements(data: bytes) -> list[bytes] | None:
    """The elements' JSON; None when `data` is neither an array nor an object."""
    try:
        data.decode()
        parsed = msgspec.json.decode(data, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return _lenient_elements(data)
    # Outside of its strings, where JSON does not allow them, line ends are but white space.
    elements = [bytes(element) for element in parsed] if isinstance(parsed, list) else [data.strip()]
    return [element.replace(b"\r", b" ").replace(b"\n", b" ") for element in elements]


def _lenient_elements(data: bytes) -> list[bytes] | None:
    """JavaScript writes half of a character that was cut in two as `\\ud83d`; strict readers refuse the whole
    array for it. Such halves become question marks here."""
    try:
        parsed = json.loads(data)
        elements = [parsed] if isinstance(parsed, dict) else parsed
        if not isinstance(elements, list):
            return None
        texts = [json.dumps(element, ensure_ascii=False, allow_nan=False) for element in elements]
    except (ValueError, RecursionError):
        return None
    return [text.encode("utf-8", "replace") for text in texts]


def _raw(data: bytes) -> bytes:
    return msgspec.json.encode({"type": "raw", "data": data.decode("utf-8", "replace")})


def _chunks(events: list[bytes]) -> Iterator[tuple[Source, list[bytes]]]:
    """Group events for storing: the prompt that a turn opens with alone, the rest by size."""
    if events and _is_user(events[0]):
        yield Source.USER, events[:1]
        events = events[1:]
    chunk: list[bytes] = []
    size = 0
    for event in events:
        if chunk and size + len(event) > CHUNK_BYTES:
            yield Source.AGENT, chunk
            chunk, size = [], 0
        chunk.append(event)
        size += len(event)
    if chunk:
        yield Source.AGENT, chunk


def _is_user(event: bytes) -> bool:
    try:
        return msgspec.json.decode(event, type=_Init).type == "user"
    except (msgspec.DecodeError, RecursionError):
        return False


def _as_init(event: bytes) -> _Init | None:
    try:
        init = msgspec.json.decode(event, type=_Init)
    except (msgspec.DecodeError, RecursionError):
        return None
    return init if (init.type, init.subtype) == ("system", "init") else None


def _agent(agent: str | None, model: str | None) -> str:
    """The agent's name as we spell it."""
    name = (agent or (model if model in AGENTS else "") or AGENTS[0]).lower().replace("_", "-")
    return "claude-code" if name == "claude" else name


def _model(model: str | None) -> str | None:
    # It becomes an argument of the agent's command line, so it must look like a model.
    return model if model and model not in AGENTS and MODEL.match(model) else None


def _free_id(old: str, taken: set[str]) -> str:
    """`old` itself; or, when it does not fit our pattern or is taken, one made of it. Adds it to `taken`."""
    new = old
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", old).strip("._-")[:100] or "legacy"
    for attempt in count():
        if SESSION_ID.match(new) and new not in taken:
            break
        digest = hashlib.sha256(f"{attempt} {old}".encode("utf-8", "surrogateescape")).hexdigest()
        new = f"{readable}-{digest[:12]}"
    taken.add(new)
    return new


def _key(value: Any, missing: str) -> str:
    """An id, for comparing; bytes that are not UTF-8 are kept as lone surrogates."""
    if value is None:
        return missing
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _text(value: Any) -> str | None:
    return None if value is None else _clean(_key(value, ""))


def _clean(text: str) -> str:
    """Text that can be stored and sent: what was not UTF-8 becomes U+FFFD, and NUL goes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "")


def _millis(value: Any) -> Millis | None:
    """A time in epoch seconds, or an ISO 8601 one, as milliseconds; None when it is neither."""
    try:
        number = float(value)
    except OverflowError:
        return None
    except (TypeError, ValueError):
        return _millis(_iso_seconds(value)) if isinstance(value, str) else None
    if not math.isfinite(number):
        return None
    millis = round(number if abs(number) >= MILLISECONDS_FROM else number * 1000)
    return millis if 0 <= millis <= LAST_MILLIS else None


def _iso_seconds(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _copy(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        # A journal of a copy that was killed would be played into the next one.
        target.execute("PRAGMA journal_mode = OFF").fetchall()
        source.backup(target)


def _keep(part: Path, stem: str) -> Path:
    """Give a finished copy the first free name, or find its equal. The caller's lock keeps others away."""
    name = Path(f"{stem}.bak")
    for number in count(2):
        if not name.exists() or filecmp.cmp(part, name, shallow=False):
            break
        name = Path(f"{stem}.{number}.bak")
    return part.replace(name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _any_text(db: sqlite3.Connection) -> Iterator[None]:
    """Read text that is not UTF-8 instead of failing: its bytes become lone surrogates."""
    before = db.text_factory
    db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        db.text_factory = before


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
