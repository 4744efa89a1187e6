-- What a session keeps besides its conversation, and prompts that wait for their turn.

-- Its git worktree, and where it was asked to work before that one was made.
ALTER TABLE sessions ADD COLUMN worktree TEXT;
ALTER TABLE sessions ADD COLUMN origin_cwd TEXT;
-- JSON: the session and the point of its conversation that this one goes on from.
ALTER TABLE sessions ADD COLUMN fork TEXT;
-- JSON: a list of what the agent was allowed to do without asking again.
ALTER TABLE sessions ADD COLUMN allowances TEXT NOT NULL DEFAULT '[]';

-- A prompt whose turn has not begun. When it does, the row gives way to one in `turns` with the same id.
CREATE TABLE queued_prompts (
    turn_id    TEXT PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    position   INTEGER NOT NULL,
    user_event BLOB NOT NULL,
    options    TEXT NOT NULL DEFAULT '{}',
    message_id TEXT,
    created_at INTEGER NOT NULL
);

CREATE INDEX queued_prompts_by_creation ON queued_prompts (created_at DESC, turn_id DESC);
CREATE INDEX queued_prompts_in_order ON queued_prompts (session_id, position);
CREATE UNIQUE INDEX queued_prompts_by_message
    ON queued_prompts (session_id, message_id) WHERE message_id IS NOT NULL;

-- Which turn a message was added to while that ran, by the client's name for the message.
CREATE TABLE steered_messages (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    message_id TEXT NOT NULL,
    turn_id    TEXT NOT NULL,
    PRIMARY KEY (session_id, message_id)
) WITHOUT ROWID;

-- Everything that has a task id: turns, and prompts that wait to become one.
CREATE VIEW jobs AS
    SELECT id, session_id, generation, status, message_id, options, created_at, started_at, finished_at,
           first_seq, last_seq, error, error_code, stop_reason, usage, cost_usd, structured_output
      FROM turns
    UNION ALL
    SELECT turn_id, session_id, 0, 'queued', message_id, options, created_at, NULL, NULL,
           0, NULL, NULL, NULL, NULL, NULL, NULL, NULL
      FROM queued_prompts;
