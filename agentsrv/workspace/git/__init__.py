"""Git repositories in the workspace: found, compared, given worktrees.

In the server lives only `workers` (the processes that do it) and `protocol` (what is said to them). All else runs
in such a process, whose program is `program`: `repositories` (finding, and opening what nobody vouches for),
`diff/`, `worktrees`, `landlock`. Only that side loads libgit2; it knows no event loop, and nothing of `files`.
"""
