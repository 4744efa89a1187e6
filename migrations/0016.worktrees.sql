-- Which repository a session's worktree was made in (its git directory), and the branch that was made for it:
-- what says so in the repository can be written by agents. Of worktrees made before nothing is known.
CREATE TABLE worktrees (
    path       TEXT PRIMARY KEY,
    repository TEXT NOT NULL,
    branch     TEXT
) WITHOUT ROWID;
