-- Whose settings count for a session's agent: a JSON list. NULL: as the permission mode has it.
ALTER TABLE sessions ADD COLUMN setting_sources TEXT;
