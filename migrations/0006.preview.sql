-- How a session's first prompt begins, for lists that people read.
ALTER TABLE sessions ADD COLUMN preview TEXT;
