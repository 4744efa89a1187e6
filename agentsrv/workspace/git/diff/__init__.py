"""Structured diffs, equal to what `git diff` shows.

`answer` is the way in. `changes` says which paths differ, `renames` which of them belong together, `contents` what
a file holds as git sees it, `hunks` how its lines differ. All of it runs in a git worker.
"""
