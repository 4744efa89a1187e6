"""The program of the zygote and of the runners: `python -I -S agentsrv/runner/child <fd of the control socket>
<soft limit of descriptors>`.

The zygote keeps one *spare* forked: a runner that waits for work on the control socket. A request is one
byte with a socket attached (SCM_RIGHTS). The spare that takes it reads its spec from that socket, starts the
agent, and keeps the socket as its first connection to the server; the zygote forks the next spare meanwhile.
The zygote ends with its server, a runner with its agent.

- `frames`: what a runner and its server say to each other.
- `start`: the agent's process and its terminal, up to the exec.
- `tree`: the processes below a runner.
- `pipes`: the agent's stdin, with the messages for it, and its stderr.
- `loop`: one thread that waits for descriptors and moments.
- `runner`: owns one agent from its start to the death of its last descendant.
- `zygote`: forks runners.

Nothing but the standard library and `agentsrv.linux`, and all of it is imported before the first fork.
"""
