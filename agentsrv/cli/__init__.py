"""The command line for those who use a server: it knows the client, and of the server only the wire.

`arguments` says what may be typed; each command is a module of its own, imported when it runs.
"""
