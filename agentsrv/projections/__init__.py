"""Views of the log, one per kind of client: pure functions of chunks."""
