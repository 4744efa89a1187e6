"""The heart: one agent working on one session.

`lifecycle` says what follows from what in the life of a turn, in the words of `facts`; `driver` does it for one
turn, with `answering` for its questions and `clock` for its time limits. `open_turns` knows those that are open.
`process` is one agent process: it reads its spool into the session's log and tells its turn what was said. `pool`
starts processes and keeps them warm. `recovery` takes over, at start-up, what an earlier server left behind.
`service` and `sessions` are what clients ask for; `queue` holds prompts that wait; `stages` is what is done around
a turn; `signals` is what others may want to know.

A turn belongs to the server, never to a request: a foreground call is "start, then follow", a background call
is "start", re-attaching is "follow". Nothing here knows HTTP or what any agent's lines mean.
"""
