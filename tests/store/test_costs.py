"""What a list, a prompt or a start costs does not grow with history."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sqlite3
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from msgspec.structs import replace

from agentsrv import store
from agentsrv.model import Chunk, Session, SessionId, Source, Turn, TurnId, TurnOptions, TurnStatus
from agentsrv.store import events, prompts, runners, sessions, transactions, turns
from agentsrv.store.database import Database
from agentsrv.store.migrate import migrate
from agentsrv.store.prompts import QueuedPrompt

ELSEWHERE = {"legacy", "migrate", "database", "writer"}
"""Modules that run when the schema changes, and those that pass on what others ask."""

METHODS = {"read", "execute", "executemany"}

BOUNDED = {
    "SCAN access_keys USING INDEX access_keys_good": "named keys, for whoever looks after them",
    "SCAN turns USING INDEX turns_open": "turns that run",
    "SCAN runners": "processes that live",
    "SCAN sessions USING INDEX sqlite_autoindex_sessions_1": "what is at home on a server of a fleet, at its start",
    "SCAN queued_prompts USING INDEX queued_prompts_in_order": "prompts that wait, once at start",
    "SCAN json_each VIRTUAL TABLE INDEX 1:": "what the caller names",
}


def statements() -> Iterator[tuple[str, str]]:
    """(where, SQL) of every statement that the store issues; a call whose text cannot be told fails here."""
    for info in pkgutil.iter_modules(store.__path__):
        if info.name not in ELSEWHERE:
            module = importlib.import_module(f"agentsrv.store.{info.name}")
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in METHODS and node.args:
                    for text in texts(module, node.args[0]):
                        yield f"{info.name}:{node.lineno}", text


def texts(module: ModuleType, node: ast.expr) -> list[str]:
    if isinstance(node, ast.IfExp):
        return texts(module, node.body) + texts(module, node.orelse)
    if isinstance(node, ast.Subscript):
        return list(eval(ast.unparse(node.value), vars(module)).values())
    return [eval(ast.unparse(node), vars(module))]


STATEMENTS = [
    (where, text)
    for where, text in statements()
    if text.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}
]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("plans") / "db"
    migrate(path)
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


@pytest.mark.parametrize(("where", "text"), STATEMENTS, ids=[where for where, _ in STATEMENTS])
def test_no_statement_reads_a_whole_table(empty: sqlite3.Connection, where: str, text: str) -> None:
    """Every statement finds what it wants by an index, and has it in order there."""
    rows = empty.execute(f"EXPLAIN QUERY PLAN {text}", defaultdict(lambda: None))
    steps = [detail for *_, detail in rows]

    assert [
        s for s in steps if s.startswith(("SCAN", "USE TEMP")) and s not in BOUNDED and "CONSTANT" not in s
    ] == []


# What clients and the server ask, as functions of the store. Of `n` sessions and jobs in the history every one
# has a worktree, each tenth job failed, and all jobs of the session `long` are in it.

LONG = SessionId("long")

Read = Callable[[Database], Awaitable[object]]


def page_of(
    session_id: str | None = None, status: TurnStatus | None = None, before: int | None = None
) -> Read:
    place = None if before is None else (before, "~")
    chosen = None if session_id is None else SessionId(session_id)
    return lambda db: turns.page(db, session_id=chosen, status=status, before=place, limit=100)


READS: dict[str, Read] = {
    "jobs": page_of(),
    "jobs, a deep page": page_of(before=50),
    "jobs that failed": page_of(status=TurnStatus.FAILED),
    "jobs that were cancelled, of which there are none": page_of(status=TurnStatus.CANCELLED),
    "jobs that wait": page_of(status=TurnStatus.QUEUED),
    "jobs of a session": page_of("s7"),
    "jobs of a long session that were cancelled": page_of("long", TurnStatus.CANCELLED),
    "jobs of a long session that wait": page_of("long", TurnStatus.QUEUED),
    "a job": lambda db: turns.get(db, TurnId("t7")),
    "a job by its message": lambda db: turns.find_by_message(db, LONG, "m7"),
    "no job by its message": lambda db: turns.find_by_message(db, LONG, "none"),
    "open turns": turns.list_open,
    "the start of a turn": lambda db: turns.start_of_turn(db, LONG, 77),
    "the last turn of a long session": lambda db: turns.last_ended(db, LONG, None),
    "an early turn of a long session": lambda db: turns.last_ended(db, LONG, 7),
    "sessions": lambda db: sessions.page(db, agent=None, before=None, limit=100),
    "sessions, a deep page": lambda db: sessions.page(db, agent=None, before=(50, "~"), limit=100),
    "sessions of an agent that has none": lambda db: sessions.page(db, agent="other", before=None, limit=100),
    "sessions of a directory": lambda db: sessions.page(db, cwd="/w/7", before=None, limit=100),
    "sessions put away": lambda db: sessions.page(db, archived=True, before=None, limit=100),
    "sessions not put away": lambda db: sessions.page(db, archived=False, before=(50, "~"), limit=100),
    "a session": lambda db: sessions.find(db, LONG),
    "the owners of worktrees": lambda db: sessions.owners(db, ["/w/7", "/nowhere"]),
    "who works in a worktree": lambda db: sessions.working_in(db, "/w/7", but=SessionId("s7")),
    "prompts that wait": lambda db: prompts.of_session(db, LONG),
    "all that wait": prompts.all_waiting,
    "processes": runners.list_all,
    "the newest event": lambda db: events.last_seq(db, LONG),
    "early events": lambda db: events.page(db, LONG, 3, 1000),
    "what the server said in a turn": lambda db: events.written_by(db, Source.SERVER, LONG, 1, 10**9),
}


@pytest.mark.parametrize("what", READS)
async def test_reading_costs_the_same_after_a_long_history(histories: tuple[Path, Path], what: str) -> None:
    """With twenty thousand sessions and jobs SQLite does the work that it does with two thousand."""
    short, long = [await steps_of(path, READS[what]) for path in histories]

    assert long <= 1.2 * short + 50


async def test_a_prompt_costs_the_same_after_a_long_history(histories: tuple[Path, Path]) -> None:
    """To open and close a turn, queue a prompt and take it back, in a session of twenty thousand turns."""
    short, long = [await steps_of(path, prompt_and_answer) for path in histories]

    assert long <= 1.2 * short + 50


async def prompt_and_answer(db: Database) -> None:
    session = Session(LONG, None, "claude-code", "/w/long", None, None, 1, 1)
    turn = Turn(TurnId("new"), LONG, 0, TurnStatus.RUNNING, 10**9, first_seq=10**9, message_id="new")
    prompt = event_of(turn, 10**9)
    opened = await transactions.open_turn(db, session, turn, is_new_session=False, prompt=prompt, runner=None)
    waiting = QueuedPrompt(TurnId("waits"), LONG, "hi", b"{}", TurnOptions(), "waits", 10**9)
    await db.write(lambda c: prompts.append(c, waiting))
    await db.write(lambda c: prompts.delete(c, waiting.turn_id))
    ended = replace(opened, finished_at=10**9, last_seq=10**9 + 1)
    await transactions.close_turn(db, ended, event_of(opened, 10**9 + 1), runner_id=None, agent_state={})


def event_of(turn: Turn, seq: int) -> Chunk:
    return Chunk(turn.session_id, turn.id, Source.SERVER, 1, seq, seq, b"{}\n")


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("histories")
    return history(directory / "short", 2_000), history(directory / "long", 20_000)


def history(path: Path, size: int) -> Path:
    """A database with `size` sessions of one job each, and one session of as many."""
    migrate(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        one = ((f"s{n}", f"/w/{n}", n) for n in range(size))
        db.executemany(
            """
            INSERT INTO sessions (id, cwd, worktree, agent, created_at, updated_at)
            VALUES (?1, ?2, ?2, 'claude-code', ?3, ?3)
            """,
            [*one, ("long", "/w/long", 0)],
        )
        jobs = [(f"t{n}", f"s{n}", n) for n in range(size)] + [(f"u{n}", "long", n) for n in range(size)]
        db.executemany(
            """
            INSERT INTO turns (id, session_id, created_at, first_seq, last_seq, finished_at, generation, status,
                               message_id)
            VALUES (?1, ?2, ?3, 2 * ?3 + 1, 2 * ?3 + 2, ?3, 0, iif(?3 % 10, 'completed', 'failed'), 'm' || ?3)
            """,
            jobs,
        )
        db.executemany(
            """
            INSERT INTO events (session_id, first_seq, last_seq, turn_id, source, created_at, data)
            VALUES ('long', ?1, ?1, 'u', 'agent', 1, '{}')
            """,
            [(n,) for n in range(1, size)],
        )
    return path


async def steps_of(path: Path, use: Read) -> int:
    """How many steps SQLite's machine takes for `use`."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    db = Database(path)
    await db.open()
    try:
        for reader in db._readers:
            await reader.set_progress_handler(step, 1)
        await db.write(lambda connection: connection.set_progress_handler(step, 1), is_alone=True)
        await use(db)
    finally:
        await db.close()
    return count
