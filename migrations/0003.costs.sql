-- What a list or a prompt costs must not grow with history: every statement has its index.

CREATE INDEX sessions_by_agent ON sessions (agent, created_at DESC, id DESC);
CREATE INDEX sessions_by_cwd ON sessions (cwd, created_at DESC, id DESC);
CREATE INDEX sessions_by_worktree ON sessions (worktree, created_at, id) WHERE worktree IS NOT NULL;

-- A view of both kinds of jobs hid the indexes of either.
DROP VIEW jobs;
CREATE INDEX turns_by_status ON turns (status, created_at DESC, id DESC);
CREATE INDEX turns_by_session_and_status ON turns (session_id, status, created_at DESC, id DESC);
CREATE INDEX turns_by_seq ON turns (session_id, first_seq);
DROP INDEX turns_open;
CREATE INDEX turns_open ON turns (created_at) WHERE finished_at IS NULL;
CREATE INDEX queued_prompts_by_session ON queued_prompts (session_id, created_at DESC, turn_id DESC);

CREATE INDEX events_of_server ON events (session_id, last_seq) WHERE source = 'server';

-- How a prompt begins, for those who look at the queue.
ALTER TABLE queued_prompts ADD COLUMN text TEXT NOT NULL DEFAULT '';
UPDATE queued_prompts
   SET text = ifnull(substr(json_extract(CAST(user_event AS TEXT), '$.message.content[0].text'), 1, 1000), '')
 WHERE json_valid(CAST(user_event AS TEXT));

-- NULL: it lives. 'pending': its deletion may still be given up. 'final': it is gone for everybody, and what
-- it leaves is removed piece by piece.
ALTER TABLE sessions ADD COLUMN deletion TEXT;
CREATE INDEX sessions_in_deletion ON sessions (deletion) WHERE deletion IS NOT NULL;
