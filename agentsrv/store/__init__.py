"""What survives: sessions, turns, events and runners in one SQLite file.

`database` owns the connections (one writer with group commit, a few readers), `migrate` brings a file to
the current schema, and the other modules hold all the SQL there is, one statement per function.
Nothing here knows agents, HTTP or what an event means.
"""
