-- What agents have planned for later. Rows that are not pending stay for a while: their agent may tell of them again.
CREATE TABLE timers (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id         TEXT NOT NULL,
    at         INTEGER NOT NULL,
    schedule   TEXT,
    ends_at    INTEGER,
    prompt     TEXT NOT NULL,
    runner_id  TEXT NOT NULL,
    state      TEXT NOT NULL DEFAULT 'pending',
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session_id, id)
);

CREATE INDEX timers_pending ON timers (at) WHERE state = 'pending';
CREATE INDEX timers_past ON timers (created_at) WHERE state <> 'pending';
