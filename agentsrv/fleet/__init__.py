"""Several servers behind one address: which of them is the home of a session, and where they are.

A session lives for ever on its *home*: the server with its directory, process, log and queue. Redis is the phone book
of a *fleet*. It holds only what the servers can say again: each *publishes* its sessions whenever Redis may have
forgotten some, and until all have done so (an *epoch*) an unknown id is nobody's.

`homes` answers for one id, `registry` keeps this server in the book and knows the others, `scripts` is what Redis does
for both. With `connect` this is the only place that knows Redis; nothing here knows HTTP.
"""

PROTOCOL = "1"
"""What servers say to each other, over a hop and in the book. A new one where others would not understand it."""
