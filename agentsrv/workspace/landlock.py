"""Landlock: the kernel keeps this process from writing anywhere but below the directories that it names.

What is at a path can be replaced between looking at it and writing to it, and libgit2 works with paths. This
makes the confinement hold all the same. Linux has it since 5.13; without it nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from struct import Struct

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of system calls, the same on all architectures."""
GET_VERSION = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, REMOVE_DIR, REMOVE_FILE = 1 << 0, 1 << 1, 1 << 4, 1 << 5
MAKE = sum(1 << bit for bit in range(6, 13))
"""Devices, directories, files, sockets, pipes, links."""
TRUNCATE, TRUNCATE_SINCE = 1 << 14, 3

RULESET = Struct("=Q")
RULE = Struct("=Qi")


def restrict_writes(directories: Iterable[int]) -> bool:
    """From now on this thread writes, makes and removes only below these open directories, and runs nothing.

    False when the kernel cannot do that; then nothing has changed. Needs PR_SET_NO_NEW_PRIVS.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, GET_VERSION)
    if version < 1:
        return False
    writes = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE | (TRUNCATE if version >= TRUNCATE_SINCE else 0)
    attributes = RULESET.pack(EXECUTE | writes)
    ruleset = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for directory in directories:
            _check(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, RULE.pack(writes, directory), 0))
        _check(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
