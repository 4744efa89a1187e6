-- When its user has put a session away; NULL: it is among those that lists of a person's work show.
ALTER TABLE sessions ADD COLUMN archived_at INTEGER;
CREATE INDEX sessions_archived ON sessions (created_at DESC, id DESC) WHERE archived_at IS NOT NULL;
CREATE INDEX sessions_not_archived ON sessions (created_at DESC, id DESC) WHERE archived_at IS NULL;
