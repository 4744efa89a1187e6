-- Keys beside API_KEY: of `agentsrv keys add`, and of devices of those who have one (`parent`: the hash of that).
CREATE TABLE access_keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    parent BLOB,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    idle_ms INTEGER,
    used_at INTEGER NOT NULL,
    revoked_at INTEGER
);

CREATE INDEX access_keys_good ON access_keys (created_at) WHERE revoked_at IS NULL;
CREATE INDEX access_keys_of_parent ON access_keys (parent);

-- Who has done what. Rows are added, and dropped when they are old; none is ever changed.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    key TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    status INTEGER NOT NULL,
    details TEXT NOT NULL
);

CREATE INDEX audit_at ON audit (at);
