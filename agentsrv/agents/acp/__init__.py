"""Agents that speak the Agent Client Protocol (ACP) on stdin and stdout: one adapter, and a table of what differs.

`known` is the table, `table` reads an operator's own; `agent` is what is known without a process, `adapter` one
live process. The nouns are ACP's: a *session* there is a conversation here, a *mode* what may be done without
asking. What an agent of the table cannot do is refused by name, before anything has happened.
"""
