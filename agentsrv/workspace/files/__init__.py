"""The files of the workspace. `service.FileService` is the way in: every question and change, off the event loop.

The modules below it block and know no event loop (`walk`, `search`, `archive`, `images`, `entries`, `checkouts`),
or only hand work to a pool of threads (`grep`, `upload`, `watch`). That something is a checkout is read
from its `.git` entry alone: no repository is opened here, and libgit2 is not known.
"""
