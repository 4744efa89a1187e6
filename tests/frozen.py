"""Imported last by the process that servers are forked from: its objects are no matter for their collectors.

A collection writes into each object that it looks at, and for each page that is written a server gets a copy.
"""

import gc

gc.collect()
gc.freeze()
