-- Sessions, their turns, the event log and the runners that feed it.
-- Times are milliseconds since the Unix epoch.

CREATE TABLE sessions (
    id                  TEXT PRIMARY KEY,
    name                TEXT,
    agent               TEXT NOT NULL,
    cwd                 TEXT NOT NULL,
    model               TEXT,
    internal_session_id TEXT,
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    -- The lease: a turn that starts raises the generation, and every append names the one it holds.
    generation          INTEGER NOT NULL DEFAULT 0,
    active_turn_id      TEXT
);

CREATE INDEX sessions_by_creation ON sessions (created_at DESC, id DESC);

CREATE TABLE turns (
    id                TEXT PRIMARY KEY,
    session_id        TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    generation        INTEGER NOT NULL,
    status            TEXT NOT NULL,
    message_id        TEXT,
    options           TEXT NOT NULL DEFAULT '{}',
    created_at        INTEGER NOT NULL,
    started_at        INTEGER,
    finished_at       INTEGER,
    first_seq         INTEGER NOT NULL,
    last_seq          INTEGER,
    error             TEXT,
    error_code        TEXT,
    stop_reason       TEXT,
    usage             TEXT,
    cost_usd          REAL,
    structured_output TEXT
);

CREATE INDEX turns_by_creation ON turns (created_at DESC, id DESC);
CREATE INDEX turns_by_session ON turns (session_id, created_at DESC, id DESC);
CREATE INDEX turns_open ON turns (session_id) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX turns_by_message ON turns (session_id, message_id) WHERE message_id IS NOT NULL;

-- A row is a chunk: consecutive events of one session and one source, their JSON one per line.
CREATE TABLE events (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    last_seq   INTEGER NOT NULL,
    first_seq  INTEGER NOT NULL,
    turn_id    TEXT,
    source     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    data       BLOB NOT NULL,
    CHECK (first_seq <= last_seq)
);

CREATE UNIQUE INDEX events_by_seq ON events (session_id, last_seq);

-- One live agent process. `spool_offset` is how much of its output the log has: it moves in the
-- transaction that stores the events read up to there, so that a restart reads on without a gap.
CREATE TABLE runners (
    id           TEXT PRIMARY KEY,
    session_id   TEXT NOT NULL,
    spawn_key    TEXT NOT NULL,
    spool_offset INTEGER NOT NULL DEFAULT 0,
    agent_state  TEXT NOT NULL DEFAULT '{}',
    created_at   INTEGER NOT NULL
);
