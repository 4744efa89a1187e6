-- What a session's user has noted about it, and what its prompts ask for when they do not say.
ALTER TABLE sessions ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
ALTER TABLE sessions ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sessions ADD COLUMN effort TEXT;
ALTER TABLE sessions ADD COLUMN mcp_servers TEXT;

-- The same once more, to find sessions by: `#tag` and `key=value`.
CREATE TABLE session_labels (
    label      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    PRIMARY KEY (label, created_at DESC, session_id DESC)
) WITHOUT ROWID;

CREATE INDEX session_labels_of_session ON session_labels (session_id);
