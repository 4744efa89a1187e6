"""Small detached processes, each of which owns one live agent, and the server's handles to them.

- *runner*: what a containerd shim is to a container. It starts the agent, holds its stdin, keeps the tail
  of its stderr, ends its whole process tree on request and records how it ended. It outlives the server.
- *zygote*: one pre-started process from which runners are forked: starting an interpreter takes 20 ms.
- *handle*: the server's end of a runner: send a message, kill, wait for the exit, attach after a restart.
- *spool*: the file `out` that is the agent's stdout. Nobody copies it: the server reads it where it lies.
- *cookie*: `AGENTSRV_RUNNER=<runner id>` in the environment of the agent and of all that it starts, so that
  what a killed runner leaves behind can be found.

A runner's directory (0700) holds `out`, `sock` (its Unix socket), `meta` (who it is) and, at the end, `exit`.

Nothing here knows which agent it runs, what a line means, sessions, turns, SQL or HTTP. `child` runs as a
program of its own and imports nothing but the standard library.
"""
