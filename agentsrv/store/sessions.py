"""Sessions' rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from agentsrv.errors import Conflict, NotFound
from agentsrv.model import Fork, Millis, PermissionMode, Session, SessionId, Turn
from agentsrv.store import labels, timers
from agentsrv.store.database import Database

NEWEST = (2**62, "")
"""The place before the first row of a list that is sorted by creation, newest first."""

COLUMNS = """id, name, agent, cwd, model, internal_session_id, created_at, updated_at, generation,
    active_turn_id, worktree, origin_cwd, preview, archived_at, fork, allowances, setting_sources, permission_mode,
    effort, mcp_servers, tags, metadata"""


OF_AGENT = "agent = :agent AND"
OF_CWD = "cwd = :cwd AND"
ARCHIVED = {None: "", True: "archived_at IS NOT NULL AND", False: "archived_at IS NULL AND"}


def _page(conditions: str) -> str:
    return f"""
        SELECT {COLUMNS}
          FROM sessions
         WHERE {conditions} (created_at, id) < (:created_at, :id) AND deletion IS NOT 'final'
         ORDER BY created_at DESC, id DESC
         LIMIT :limit
    """


# A statement for each question: a condition that may be missing would keep SQLite from its index.
PAGES = {
    (agent, cwd, archived): _page(f"{agent} {cwd} {archived}")
    for agent in ("", OF_AGENT)
    for cwd in ("", OF_CWD)
    for archived in ARCHIVED.values()
}


LABELLED = f"""
    SELECT {COLUMNS}
      FROM (SELECT label, created_at AS noted_at, session_id
              FROM session_labels
             WHERE label = :label AND (created_at, session_id) < (:created_at, :id)
             ORDER BY created_at DESC, session_id DESC)
      JOIN sessions ON sessions.id = session_id
     WHERE deletion IS NOT 'final'
       AND ifnull(agent = :agent, :agent IS NULL) AND ifnull(cwd = :cwd, :cwd IS NULL)
       AND (:archived IS NULL OR (archived_at IS NOT NULL) = :archived)
       AND (:other IS NULL OR EXISTS (SELECT 1 FROM session_labels AS more
                                       WHERE more.label = :other AND more.created_at = noted_at
                                         AND more.session_id = sessions.id))
     ORDER BY noted_at DESC, session_id DESC
     LIMIT :limit
"""


async def find(db: Database, session_id: SessionId) -> Session | None:
    rows = await db.read(
        f"SELECT {COLUMNS} FROM sessions WHERE id = :id AND deletion IS NOT 'final'", {"id": session_id}
    )
    return _session(rows[0]) if rows else None


async def page(
    db: Database,
    *,
    agent: str | None = None,
    cwd: str | None = None,
    archived: bool | None = None,
    with_labels: Sequence[str] = (),
    before: tuple[Millis, str] | None,
    limit: int,
) -> list[Session]:
    """Newest first, by creation and id; `before` is the last row of the page before. `archived` None: both.

    `with_labels`: those that have all of these, two at most.
    """
    created_at, session_id = before or NEWEST
    if with_labels:
        label, other = (*with_labels, None)[:2]
        rows = await db.read(
            LABELLED,
            {
                "label": label,
                "other": other,
                "agent": agent,
                "cwd": cwd,
                "archived": archived,
                "created_at": created_at,
                "id": session_id,
                "limit": limit,
            },
        )
        return [_session(row) for row in rows]
    rows = await db.read(
        PAGES[OF_AGENT if agent else "", OF_CWD if cwd else "", ARCHIVED[archived]],
        {"agent": agent, "cwd": cwd, "created_at": created_at, "id": session_id, "limit": limit},
    )
    return [_session(row) for row in rows]


async def all_ids(db: Database) -> list[SessionId]:
    """Of all sessions that are not deleted."""
    rows = await db.read("SELECT id FROM sessions WHERE deletion IS NOT 'final' ORDER BY id", {})
    return [SessionId(row[0]) for row in rows]


async def owners(db: Database, worktrees: Iterable[str]) -> dict[str, SessionId]:
    """The sessions that work in these worktrees, by path; of several that share one the oldest."""
    rows = await db.read(
        """
        SELECT value,
               (SELECT id FROM sessions
                 WHERE worktree = value AND deletion IS NOT 'final'
                 ORDER BY created_at, id
                 LIMIT 1) AS owner
          FROM json_each(:worktrees)
        """,
        {"worktrees": json.dumps(list(worktrees))},
    )
    return {path: SessionId(owner) for path, owner in rows if owner is not None}


async def working_in(db: Database, directory: str, *, but: SessionId | None = None) -> SessionId | None:
    """A session that works in an absolute directory, or below it, and is not `but`."""
    rows = await db.read(
        """
        SELECT id
          FROM sessions
         WHERE (worktree = :directory OR cwd = :directory OR (cwd > :directory || '/' AND cwd < :directory || '0'))
           AND id IS NOT :but AND deletion IS NOT 'final'
         LIMIT 1
        """,
        {"directory": directory, "but": but},
    )
    return SessionId(rows[0][0]) if rows else None


async def worktrees_named(db: Database, start: str) -> list[str]:
    """Those that sessions work in and whose name may begin so."""
    rows = await db.read(
        """
        SELECT DISTINCT worktree
          FROM sessions
         WHERE worktree IS NOT NULL AND instr(worktree, '/' || :start) AND deletion IS NOT 'final'
        """,
        {"start": start},
    )
    return [row[0] for row in rows]


def insert(db: sqlite3.Connection, session: Session) -> None:
    """Raises Conflict (`session_exists`, `session_deleting`)."""
    try:
        db.execute(
            """
            INSERT INTO sessions (id, name, agent, cwd, model, internal_session_id, created_at, updated_at,
                                  worktree, origin_cwd, preview, fork, allowances, setting_sources, permission_mode,
                                  effort, mcp_servers, tags, metadata)
            VALUES (:id, :name, :agent, :cwd, :model, :internal_session_id, :created_at, :updated_at,
                    :worktree, :origin_cwd, :preview, :fork, :allowances, :setting_sources, :permission_mode,
                    :effort, :mcp_servers, :tags, :metadata)
            """,
            {
                "id": session.id,
                "name": session.name,
                "agent": session.agent,
                "cwd": session.cwd,
                "model": session.model,
                "internal_session_id": session.internal_session_id,
                "created_at": session.created_at,
                "updated_at": session.updated_at,
                "worktree": session.worktree,
                "origin_cwd": session.origin_cwd,
                "preview": session.preview,
                "fork": None if session.fork is None else json.dumps(asdict(session.fork)),
                "allowances": json.dumps(session.allowances),
                "setting_sources": _encoded(session.setting_sources),
                "permission_mode": session.permission_mode,
                "effort": session.effort,
                "mcp_servers": _encoded(session.mcp_servers),
                "tags": json.dumps(session.tags),
                "metadata": json.dumps(session.metadata),
            },
        )
        labels.add(db, session)
        if session.fork is not None:
            timers.disown(db, SessionId(session.fork.session_id), session.id)
    except sqlite3.IntegrityError as exc:
        require_kept(db, session.id)
        raise exists(session.id) from exc


def update(db: sqlite3.Connection, session_id: SessionId, changes: Mapping[str, Any], now: Millis) -> None:
    """Set what `changes` holds, by the fields of Session, and `archived`. Raises NotFound."""
    cursor = db.execute(
        """
        UPDATE sessions
           SET name = CASE WHEN :set_name THEN :name ELSE name END,
               model = CASE WHEN :set_model THEN :model ELSE model END,
               setting_sources = CASE WHEN :set_sources THEN :sources ELSE setting_sources END,
               archived_at = CASE :archived WHEN 1 THEN ifnull(archived_at, :now) WHEN 0 THEN NULL ELSE archived_at END,
               permission_mode = CASE WHEN :set_mode THEN :mode ELSE permission_mode END,
               effort = CASE WHEN :set_effort THEN :effort ELSE effort END,
               mcp_servers = CASE WHEN :set_servers THEN :servers ELSE mcp_servers END,
               tags = ifnull(:tags, tags),
               metadata = ifnull(:metadata, metadata),
               updated_at = :now
         WHERE id = :id AND deletion IS NOT 'final'
        """,
        {
            "id": session_id,
            "set_name": "name" in changes,
            "name": changes.get("name"),
            "set_model": "model" in changes,
            "model": changes.get("model"),
            "set_sources": "setting_sources" in changes,
            "sources": _encoded(changes.get("setting_sources")),
            "archived": changes.get("archived"),
            "set_mode": "permission_mode" in changes,
            "mode": changes.get("permission_mode"),
            "set_effort": "effort" in changes,
            "effort": changes.get("effort"),
            "set_servers": "mcp_servers" in changes,
            "servers": _encoded(changes.get("mcp_servers")),
            "tags": _encoded(changes.get("tags")),
            "metadata": _encoded(changes.get("metadata")),
            "now": now,
        },
    )
    if cursor.rowcount == 0:
        raise not_found(session_id)
    if "tags" in changes or "metadata" in changes:
        rows = db.execute(f"SELECT {COLUMNS} FROM sessions WHERE id = :id", {"id": session_id}).fetchall()
        for row in rows:
            labels.renew(db, _session(row))


def set_internal_id(db: sqlite3.Connection, session_id: SessionId, internal_id: str) -> None:
    """Remember under which name the agent keeps the conversation."""
    db.execute(
        "UPDATE sessions SET internal_session_id = :internal_id WHERE id = :id",
        {"id": session_id, "internal_id": internal_id},
    )


def add_allowance(db: sqlite3.Connection, session_id: SessionId, allowance: str) -> None:
    """Remember that the agent may do this without asking again."""
    db.execute(
        """
        UPDATE sessions
           SET allowances = json_insert(allowances, '$[#]', :allowance)
         WHERE id = :id AND NOT EXISTS (SELECT 1 FROM json_each(allowances) WHERE value = :allowance)
        """,
        {"id": session_id, "allowance": allowance},
    )


def acquire_lease(db: sqlite3.Connection, session: Session, turn: Turn) -> int:
    """Give the session to `turn`, which brings its directory and the agent's conversation along.

    Returns the new generation. Raises Conflict (`session_busy`, `session_deleting`), NotFound.
    """
    taken = db.execute(
        """
        UPDATE sessions
           SET generation = generation + 1,
               active_turn_id = :turn_id,
               internal_session_id = :internal_session_id,
               cwd = :cwd,
               worktree = :worktree,
               origin_cwd = :origin_cwd,
               preview = :preview,
               updated_at = :now
         WHERE id = :id AND active_turn_id IS NULL AND deletion IS NULL
        RETURNING generation
        """,
        {
            "id": session.id,
            "turn_id": turn.id,
            "internal_session_id": session.internal_session_id,
            "cwd": session.cwd,
            "worktree": session.worktree,
            "origin_cwd": session.origin_cwd,
            "preview": session.preview,
            "now": turn.created_at,
        },
    ).fetchall()
    for (generation,) in taken:
        return int(generation)
    require_kept(db, session.id)
    rows = db.execute("SELECT active_turn_id FROM sessions WHERE id = :id", {"id": session.id}).fetchall()
    for (active_turn_id,) in rows:
        raise busy(session.id, active_turn_id)
    raise not_found(session.id)


def require_kept(db: sqlite3.Connection, session_id: SessionId) -> None:
    """Raises Conflict (`session_deleting`) when the session is being deleted, or what it has left is."""
    rows = db.execute(
        "SELECT 1 FROM sessions WHERE id = :id AND deletion IS NOT NULL", {"id": session_id}
    ).fetchall()
    if rows:
        raise Conflict(
            f"session {session_id} is being deleted; try again later, or use another session",
            code="session_deleting",
            retry_after_s=1,
        )


def remove_allowances(db: sqlite3.Connection, session_id: SessionId, allowance: str | None) -> None:
    """Take back what is named, or everything."""
    db.execute(
        """
        UPDATE sessions
           SET allowances = (SELECT json_group_array(value) FROM json_each(allowances)
                              WHERE :allowance IS NOT NULL AND value <> :allowance)
         WHERE id = :id
        """,
        {"id": session_id, "allowance": allowance},
    )


def keep_model(db: sqlite3.Connection, turn: Turn, earlier: str | None) -> None:
    """The session goes on with the model that this turn has worked with, unless it was given another one since."""
    db.execute(
        "UPDATE sessions SET model = :model WHERE id = :id AND model IS :earlier",
        {"id": turn.session_id, "model": turn.options.model, "earlier": earlier},
    )


def move(db: sqlite3.Connection, session_id: SessionId, cwd: str) -> None:
    """The agent works somewhere else; where it was asked to work is kept."""
    db.execute(
        "UPDATE sessions SET origin_cwd = ifnull(origin_cwd, cwd), cwd = :cwd WHERE id = :id AND cwd IS NOT :cwd",
        {"id": session_id, "cwd": cwd},
    )


def place(
    db: sqlite3.Connection, session_id: SessionId, cwd: str, now: Millis, *, leaves_worktree: bool
) -> None:
    """Have an idle session work somewhere else. Raises Conflict (`session_busy`), NotFound."""
    cursor = db.execute(
        """
        UPDATE sessions
           SET cwd = :cwd, updated_at = :now, worktree = iif(:leaves, NULL, worktree),
               origin_cwd = iif(:leaves, NULL, origin_cwd)
         WHERE id = :id AND active_turn_id IS NULL
        """,
        {"id": session_id, "cwd": cwd, "now": now, "leaves": leaves_worktree},
    )
    if cursor.rowcount == 0:
        for (turn_id,) in db.execute(
            "SELECT active_turn_id FROM sessions WHERE id = :id", {"id": session_id}
        ).fetchall():
            raise busy(session_id, turn_id)
        raise not_found(session_id)


def release_lease(db: sqlite3.Connection, turn: Turn) -> None:
    """End the lease that `turn` took; somebody else's is left alone."""
    db.execute(
        """
        UPDATE sessions
           SET active_turn_id = NULL, updated_at = :now
         WHERE id = :session_id AND active_turn_id = :id AND generation = :generation
        """,
        {
            "session_id": turn.session_id,
            "id": turn.id,
            "generation": turn.generation,
            "now": turn.finished_at,
        },
    )


def exists(session_id: SessionId) -> Conflict:
    return Conflict(f"session {session_id} exists already", code="session_exists")


def not_found(session_id: SessionId) -> NotFound:
    return NotFound(f"there is no session {session_id}", code="session_not_found")


def busy(session_id: SessionId, turn_id: str) -> Conflict:
    return Conflict(
        f"session {session_id} is busy with job {turn_id}; follow it, stop it, or wait for its end",
        code="session_busy",
        extra={"taskId": turn_id},
    )


def _session(row: sqlite3.Row) -> Session:
    *plain, fork, allowances, sources, mode, effort, servers, tags, metadata = row
    values = [
        *plain,
        None if fork is None else Fork(**json.loads(fork)),
        tuple(json.loads(allowances)),
        None if sources is None else tuple(json.loads(sources)),
        None if mode is None else PermissionMode(mode),
        effort,
        None if servers is None else json.loads(servers),
        tuple(json.loads(tags)),
        json.loads(metadata),
    ]
    return Session(*values)


def _encoded(value: Sequence[str] | Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)
