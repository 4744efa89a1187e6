-- What folds over sessions' logs had come to at some of their events. `made_by`: the code that can read `state`.
CREATE TABLE marks (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    kind       TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    made_by    TEXT NOT NULL,
    state      BLOB NOT NULL,
    PRIMARY KEY (session_id, kind, seq)
);
