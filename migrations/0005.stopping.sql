-- Somebody has asked a turn to end: if the server is killed before it has, the next one knows.
ALTER TABLE turns ADD COLUMN stop_asked INTEGER NOT NULL DEFAULT 0;
