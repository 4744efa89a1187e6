"""The workspace: the directory below which sessions work, and everything that may be done in it.

`paths` decides which path may be used; both rooms below go through it. `files` looks, searches, reads, writes and
watches; `git` asks repositories. Neither knows the other. Nothing here knows HTTP, turns, agents or the database.
"""
