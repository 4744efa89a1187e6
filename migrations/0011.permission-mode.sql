-- The permission mode of prompts that name none. NULL: the server's default.
ALTER TABLE sessions ADD COLUMN permission_mode TEXT;
