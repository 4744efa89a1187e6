"""A database of the earlier TypeScript server becomes ours, and nothing of it is lost."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentsrv.errors import StartupError
from agentsrv.model import SESSION_ID
from agentsrv.store.migrate import migrate
from tests.store.kit import (
    TIMEOUT_S,
    assert_current,
    go,
    kill_after,
    kill_at_every_step,
    query,
    start_migrating,
)

KILLS = 20
LONGEST_TAKEOVER_S = 0.2

SNAKE = """
CREATE TABLE sessions (
    id text PRIMARY KEY, name text, agent text, cwd text, model text, internal_session_id text,
    created_at integer, updated_at integer, pinned integer
);
CREATE TABLE messages (
    id text PRIMARY KEY, session_id text, contents text, created_at integer, updated_at integer
);
"""
CAMEL = """
CREATE TABLE "sessions" (
    "id" text PRIMARY KEY NOT NULL, "name" text, "agent" text, "workingDirectory" text, "model" text,
    "internalSessionId" text, "createdAt" timestamp NOT NULL, "updatedAt" timestamp NOT NULL, "pinned" integer
);
CREATE TABLE "messages" (
    "id" text PRIMARY KEY NOT NULL, "sessionId" text NOT NULL, "contents" text NOT NULL,
    "createdAt" timestamp NOT NULL, "updatedAt" timestamp,
    FOREIGN KEY ("sessionId") REFERENCES "sessions"("id") ON DELETE cascade
);
CREATE INDEX "messages_session_id_idx" ON "messages" ("sessionId");
CREATE TABLE "__drizzle_migrations" (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric);
CREATE VIEW "recent" AS SELECT "id" FROM "sessions" ORDER BY "updatedAt" DESC;
"""

Row = Sequence[Any]
START = 1_700_000_000
SESSION: Row = ("s-1", "my name", "claude-code", "/home/me/work", "opus", "uuid-1", START, START + 60, 1)
PROMPT = '{"type":"user","message":{"role":"user","content":"hi"}}'
ANSWER = '{"type":"assistant",  "cost":1.10, "big":1e999, "text":"é\\n"}'


def message(key: Any, contents: Any, at: Any = START, *, session: Any = "s-1", until: Any = None) -> Row:
    return (key, session, contents, at, until)


def make(path: Path, sessions: Sequence[Row], messages: Sequence[Row], schema: str = SNAKE) -> Path:
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(schema)
        db.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", sessions)
        db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", messages)
    return path


def taken_over(path: Path, sessions: Sequence[Row], messages: Sequence[Row], schema: str = SNAKE) -> Path:
    """A database of the earlier server after our first start."""
    migrate(make(path, sessions, messages, schema))
    assert_current(path)
    assert query(path, "PRAGMA foreign_key_check") == []
    return path


def events(path: Path, session_id: str) -> list[bytes]:
    """The session's log; its seqs run from 1 without a gap."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT first_seq, last_seq, data FROM events WHERE session_id = ? ORDER BY last_seq",
            [session_id],
        ).fetchall()
    log: list[bytes] = []
    for first_seq, last_seq, data in rows:
        assert first_seq == len(log) + 1
        log += data.split(b"\n")[:-1]
        assert last_seq == len(log)
    return log


def agent_events(path: Path, session_id: str = "s-1") -> list[Any]:
    """The log without what ends each turn."""
    log = [json.loads(event) for event in events(path, session_id)]
    return [event for event in log if "done" not in event]


@pytest.mark.parametrize("schema", [SNAKE, CAMEL], ids=["snake", "camel"])
def test_session_keeps_all_that_is_known_of_it(tmp_path: Path, schema: str) -> None:
    """Whatever the columns are spelled like, a session is found under its id with its times and directory."""
    path = taken_over(tmp_path / "a.db", [SESSION], [], schema)

    expected = ("s-1", "my name", "claude-code", "/home/me/work", "opus", "uuid-1")
    columns = "id, name, agent, cwd, model, internal_session_id, created_at, updated_at, generation"
    rows = query(path, f"SELECT {columns} FROM sessions")
    assert [(*expected, START * 1000, (START + 60) * 1000, 0)] == rows


@pytest.mark.parametrize("schema", [SNAKE, CAMEL], ids=["snake", "camel"])
def test_message_becomes_a_finished_turn(tmp_path: Path, schema: str) -> None:
    """Each element is one event, exactly as it was written, and `done` comes last as in every turn."""
    messages = [message("m-1", f"[{PROMPT}, \n {ANSWER}]", until=START + 5), message("m-2", "[]", START + 9)]
    path = taken_over(tmp_path / "a.db", [SESSION], messages, schema)

    assert [
        PROMPT.encode(),
        ANSWER.encode(),
        b'{"done":true,"taskId":"m-1","status":"completed"}',
        b'{"done":true,"taskId":"m-2","status":"completed"}',
    ] == events(path, "s-1")
    assert query(
        path,
        "SELECT id, session_id, status, started_at, finished_at, first_seq, last_seq FROM turns ORDER BY id",
    ) == [
        ("m-1", "s-1", "completed", START * 1000, (START + 5) * 1000, 1, 3),
        ("m-2", "s-1", "completed", (START + 9) * 1000, (START + 9) * 1000, 4, 4),
    ]
    sources = query(path, "SELECT source FROM events WHERE turn_id = 'm-1' ORDER BY last_seq")
    assert sources == [("user",), ("agent",), ("server",)]


def test_old_tables_stay(tmp_path: Path) -> None:
    """Columns and tables that we have no use for are still there."""
    path = taken_over(tmp_path / "a.db", [SESSION], [message("m-1", "[]")], CAMEL)

    assert [tuple(SESSION)] == query(path, "SELECT * FROM legacy_sessions")
    assert query(path, "SELECT * FROM legacy_messages") == [("m-1", "s-1", "[]", START, None)]
    assert query(path, "SELECT * FROM __drizzle_migrations") == []
    assert query(path, "SELECT * FROM recent") == [("s-1",)]


def test_old_table_with_a_name_of_ours_is_set_aside(tmp_path: Path) -> None:
    """An extra table of the earlier server does not stop ours from being made."""
    schema = SNAKE + "CREATE TABLE events (what text); INSERT INTO events VALUES ('kept');"
    path = taken_over(tmp_path / "a.db", [SESSION], [], schema)

    assert query(path, "SELECT * FROM legacy_events") == [("kept",)]


def test_empty_legacy_database(tmp_path: Path) -> None:
    """A server that was never used had the tables and nothing in them."""
    path = taken_over(tmp_path / "a.db", [], [])

    assert query(path, "SELECT * FROM sessions") == []


def test_copy_is_kept_beside_the_database(tmp_path: Path) -> None:
    """The database as it was, with what was only in its write-ahead log, stays under another name."""
    path = make(tmp_path / "a.db", [SESSION], [])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("INSERT INTO messages VALUES ('m-1', 's-1', '[]', 1, 1)")
        migrate(path)

    (copy,) = tmp_path.glob("a.db.legacy-*.bak")
    assert query(copy, "SELECT * FROM sessions") == [tuple(SESSION)]
    assert query(copy, "SELECT id FROM messages") == [("m-1",)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert query(path, "SELECT id FROM turns") == [("m-1",)]


def test_copy_never_replaces_another_one(tmp_path: Path) -> None:
    """Two old databases that are taken over at one path on one day leave two copies."""
    path = taken_over(tmp_path / "a.db", [SESSION], [])
    path.unlink()
    taken_over(path, [], [])

    counts = [
        query(copy, "SELECT count(*) FROM sessions")[0][0] for copy in tmp_path.glob("a.db.legacy-*.bak")
    ]
    assert sorted(map(str, counts)) == ["0", "1"]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (None, []),
        ("", []),
        ("[]", []),
        ('{"type":"result"}', [{"type": "result"}]),
        ('["text", 5, null]', [{"type": "raw", "data": data} for data in ('"text"', "5", "null")]),
        ('[{"type":"x"}, {"broken', [{"type": "raw", "data": '[{"type":"x"}, {"broken'}]),
        ("[{}, NaN]", [{"type": "raw", "data": "[{}, NaN]"}]),
        ("plain words\nin two lines", [{"type": "raw", "data": "plain words\nin two lines"}]),
        ("17", [{"type": "raw", "data": "17"}]),
        (17, [{"type": "raw", "data": "17"}]),
        (b'[{"blob":1}]', [{"blob": 1}]),
        (b"\xff[{}]", [{"type": "raw", "data": "\ufffd[{}]"}]),
        (b'[{"x":"\xff"}]', [{"type": "raw", "data": '[{"x":"\ufffd"}]'}]),
        ('[{"cut":"\\ud83d"}, {"whole":"\\ud83d\\ude00"}]', [{"cut": "?"}, {"whole": "😀"}]),
        ('[{\r\n"pretty":\n1\r\n}]', [{"pretty": 1}]),
        ("[" * 10**5 + "]" * 10**5, [{"type": "raw", "data": "[" * 10**5 + "]" * 10**5}]),
        (
            '[{"cut":"\\ud83d", "number":1e999}]',
            [{"type": "raw", "data": '[{"cut":"\\ud83d", "number":1e999}]'}],
        ),
    ],
)
def test_contents_of_any_kind_are_kept(tmp_path: Path, contents: Any, expected: list[Any]) -> None:
    """What is not an array of objects becomes `raw` events; nothing is dropped and nothing fails."""
    path = taken_over(tmp_path / "a.db", [SESSION], [message("m-1", contents)])

    assert expected == agent_events(path)


def test_text_that_is_not_utf8_does_not_stop_the_start(tmp_path: Path) -> None:
    """Bytes that SQLite took as text and Python refuses are replaced; the old tables keep them."""
    path = make(tmp_path / "a.db", [SESSION], [])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE sessions SET name = CAST(x'41ff42' AS TEXT)")
        db.execute(
            "INSERT INTO messages VALUES ('m-1', 's-1', CAST(x'5b7b2261223a22ff227d5d' AS TEXT), 1, NULL)"
        )

    migrate(path)

    assert query(path, "SELECT name FROM sessions") == [("A\ufffdB",)]
    assert agent_events(path) == [{"type": "raw", "data": '[{"a":"\ufffd"}]'}]
    assert query(path, "SELECT hex(name) FROM legacy_sessions") == [("41FF42",)]


def test_order_is_by_time_and_then_as_inserted(tmp_path: Path) -> None:
    """Messages of one second, or without a time, stay where they were written."""
    times = [START + 5, START + 5, None, START + 9, START + 1, None]
    messages = [message(f"m-{number}", f'[{{"n":{number}}}]', at) for number, at in enumerate(times)]
    path = taken_over(tmp_path / "a.db", [SESSION], messages)

    assert [event["n"] for event in agent_events(path)] == [4, 5, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("stored", "millis"),
    [
        (START, START * 1000),
        (START + 0.25, START * 1000 + 250),
        (str(START), START * 1000),
        (START * 1000 + 7, START * 1000 + 7),
        ("2023-11-14T22:13:20.000Z", START * 1000),
        ("2023-11-14 22:13:20", START * 1000),
        (None, 77_000),
        ("yesterday", 77_000),
        (-5, 77_000),
        (10**17, 77_000),
        (b"\xff", 77_000),
        ("inf", 77_000),
    ],
)
def test_time_of_any_kind_becomes_milliseconds(tmp_path: Path, stored: Any, millis: int) -> None:
    """Epoch seconds; but also what other writers may have left. Without a usable one: the other time."""
    session = ("s-1", None, None, None, None, None, stored, 77, None)
    path = taken_over(tmp_path / "a.db", [session], [])

    assert query(path, "SELECT created_at, updated_at >= created_at FROM sessions") == [(millis, 1)]


def test_session_without_any_time_gets_its_first_messages(tmp_path: Path) -> None:
    """NULL times do not make a session of 1970."""
    session = ("s-1", None, None, None, None, None, None, None, None)
    messages = [message("m-1", "[]", START + 3), message("m-2", "[]", START + 8)]
    path = taken_over(tmp_path / "a.db", [session], messages)

    assert query(path, "SELECT created_at, updated_at FROM sessions") == [
        ((START + 3) * 1000, (START + 8) * 1000)
    ]


def test_what_the_row_does_not_say_the_agent_said(tmp_path: Path) -> None:
    """Directory and conversation of a session are found in the agent's own messages."""
    init = '[{"type":"system","subtype":"init","cwd":"/from/agent","session_id":"uuid-9"}]'
    session = ("s-1", None, None, None, None, None, START, START, None)
    path = taken_over(tmp_path / "a.db", [session, ("s-2", *SESSION[1:])], [message("m-1", init)])

    assert query(path, "SELECT cwd, internal_session_id FROM sessions ORDER BY id") == [
        ("/from/agent", "uuid-9"),
        ("/home/me/work", "uuid-1"),
    ]


@pytest.mark.parametrize(
    ("agent", "model", "expected"),
    [
        (None, None, ("claude-code", None)),
        ("claude", "sonnet[1m]", ("claude-code", "sonnet[1m]")),
        ("claude_code", "claude-code", ("claude-code", None)),
        ("", "codex", ("codex", None)),
        ("codex", "--dangerous", ("codex", None)),
        ("other", "", ("other", None)),
    ],
)
def test_agent_and_model_are_spelled_as_ours(
    tmp_path: Path, agent: str | None, model: str | None, expected: tuple[str, str | None]
) -> None:
    """`claude-code` and `codex` used to be models, too; what cannot be a model is none."""
    session = ("s-1", None, agent, None, model, None, START, START, None)
    path = taken_over(tmp_path / "a.db", [session], [])

    assert query(path, "SELECT agent, model FROM sessions") == [expected]


@pytest.mark.parametrize("key", ["a b/../c", "", "-x", "é", "x" * 200, "'; DROP TABLE sessions; --"])
def test_id_that_no_url_can_hold_is_replaced_by_one_like_it(tmp_path: Path, key: str) -> None:
    """Such a session can be asked for under its new id; its old one is its name."""
    session = (key, None, None, None, None, None, START, START, None)
    path = taken_over(tmp_path / "a.db", [session], [message("m-1", '[{"n":1}]', session=key)])

    ((session_id, name),) = query(path, "SELECT id, name FROM sessions")
    assert SESSION_ID.match(str(session_id))
    assert (name or "") == key
    assert agent_events(path, str(session_id)) == [{"n": 1}]


def test_messages_without_a_session_get_one(tmp_path: Path) -> None:
    """Rows whose session was deleted are found under its id."""
    messages = [message("m-1", '[{"n":1}]', session="gone"), message(None, '[{"n":2}]', session=None)]
    path = taken_over(tmp_path / "a.db", [SESSION], messages)

    assert agent_events(path, "gone") == [{"n": 1}]
    assert agent_events(path, "unassigned") == [{"n": 2}]


def test_equal_ids_are_all_kept(tmp_path: Path) -> None:
    """Tables without a primary key may hold an id twice."""
    schema = SNAKE.replace("PRIMARY KEY", "")
    messages = [message("m-1", '[{"n":1}]'), message("m-1", '[{"n":2}]')]
    path = taken_over(tmp_path / "a.db", [SESSION, SESSION], messages, schema)

    assert agent_events(path) == [{"n": 1}, {"n": 2}]
    assert query(path, "SELECT count(*) FROM sessions") == [(2,)]
    assert query(path, "SELECT count(DISTINCT id) FROM turns") == [(2,)]


def test_tables_that_cannot_be_understood_are_refused_untouched(tmp_path: Path) -> None:
    """Without the columns that matter the start fails in one line, and nothing was renamed."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE sessions (id text); CREATE TABLE messages (id text, body text)")

    with pytest.raises(StartupError, match="its table messages has no column contents"):
        migrate(path)

    assert query(path, "SELECT count(*) FROM sessions, messages") == [(0,)]


def test_large_contents_are_stored_in_pieces(tmp_path: Path) -> None:
    """A turn of some megabytes does not become one row that every follower must take at once."""
    parts = [{"n": number, "text": "x" * 100_000} for number in range(30)]
    path = taken_over(tmp_path / "a.db", [SESSION], [message("m-1", json.dumps(parts))])

    assert agent_events(path) == parts
    assert query(path, "SELECT max(length(data)) < 300000 FROM events") == [(1,)]


def many(path: Path, messages: int) -> Path:
    """A database of ten sessions that share `messages`."""
    sessions = [(f"s-{number}", *SESSION[1:]) for number in range(10)]
    contents = f"[{PROMPT}, {ANSWER}]"
    rows = [
        message(f"m-{number}", contents, START + number, session=f"s-{number % 10}")
        for number in range(messages)
    ]
    return make(path, sessions, rows, CAMEL)


def assert_complete(path: Path, messages: int) -> None:
    assert_current(path)
    assert query(path, "SELECT count(*), sum(last_seq - first_seq + 1) FROM turns") == [
        (messages, 3 * messages)
    ]
    assert query(path, "SELECT sum(last_seq - first_seq + 1) FROM events") == [(3 * messages,)]
    assert query(path, "SELECT count(*) FROM legacy_messages") == [(messages,)]


def test_ten_thousand_messages(tmp_path: Path) -> None:
    """A database that was used for a long time is taken over at the first start, too."""
    path = many(tmp_path / "a.db", 10_000)

    migrate(path)

    assert_complete(path, 10_000)
    assert len(events(path, "s-7")) == 3 * 1000


def test_servers_that_start_at_once_take_over_once(tmp_path: Path) -> None:
    """Four processes on one old database: no message comes twice, one copy is kept."""
    path = many(tmp_path / "a.db", 500)
    running = [start_migrating(path) for _ in range(4)]

    for process in running:
        go(process)
    errors = [process.communicate(timeout=TIMEOUT_S)[1] for process in running]

    assert errors == [b""] * 4
    assert_complete(path, 500)
    assert len(list(tmp_path.glob("*.bak"))) == 1


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_takeover_killed_at_any_step_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """kill -9 right before each statement and file operation in turn: whole copies, and nothing lost."""
    template = many(tmp_path / "template.db", 4)
    directory = tmp_path / "killed"
    directory.mkdir()
    killed = kill_at_every_step(directory, template)

    for path in killed:
        migrate(path)
        assert_complete(path, 4)
        assert_copies(path, 4)
    assert len(killed) > 100


def test_takeover_killed_at_any_moment_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """kill -9 at random moments, in the middle of the copy or the commit too."""
    template = many(tmp_path / "template.db", 1000)
    for number in range(KILLS):
        path = tmp_path / str(number) / "a.db"
        path.parent.mkdir()
        shutil.copyfile(template, path)

        kill_after(start_migrating(path), random.uniform(0, LONGEST_TAKEOVER_S))

        migrate(path)
        assert_complete(path, 1000)
        assert_copies(path, 1000)


def assert_copies(path: Path, messages: int) -> None:
    """Every copy is whole, there is at least one, and no half of one is left."""
    copies = list(path.parent.glob("*.bak"))
    for copy in copies:
        assert query(copy, "PRAGMA integrity_check") == [("ok",)]
        assert query(copy, "SELECT count(*) FROM messages") == [(messages,)]
    assert 1 <= len(copies) <= 3
    assert list(path.parent.glob("*.part*")) == []
