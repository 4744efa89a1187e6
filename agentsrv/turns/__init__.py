"""The heart: one agent working on one session.

`service` starts, follows and stops turns; it holds lease, agent and log together. `live` is one live agent
process: it reads the process's spool into the session's log and tells its turn what happened. `pool` starts
these processes and keeps them warm. `recovery` takes over, at start-up, what an earlier server left behind.
`sessions` is what clients do with sessions themselves.

A turn belongs to the server, never to a request: a foreground call is "start, then follow", a background call
is "start", re-attaching is "follow". Nothing here knows HTTP or what any agent's lines mean.
"""
