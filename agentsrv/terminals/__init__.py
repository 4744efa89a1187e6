"""Shells with a terminal, which outlive both the sockets that show them and the server.

- *terminal*: one shell under a runner, its PTY, its ring, and the viewers who look at it.
- *PTY*: the pair of devices that makes a shell interactive. The runner keeps a copy of the master; the server
  that has the other copy reads and writes. After a restart the next server gets it from the runner.
- *ring*: the last output of a terminal, in memory and in a file. Output is read right into it, viewers are served
  out of it, and it is what a viewer who comes back sees first. There is no other buffer.
- *viewer*: one socket's position in the output. A terminal is read as long as some viewer keeps up.
- *grant*: what a token allows: to use or to watch one terminal.

`STATE_DIR/terminals/<runner id>/` has the ring, `info` (which terminal it is) and the runner's own files.

Nothing here knows HTTP, WebSockets or JSON messages: `api/terminals/` does.
"""
