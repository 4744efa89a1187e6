"""Landlock: the kernel keeps this process from reading or writing anywhere but below what it names.

What is at a path can be replaced between looking at it and using it, and libgit2 works with paths. This makes the
confinement hold all the same. Linux has it since 5.13; without it nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from stat import S_ISDIR
from struct import Struct

from agentsrv.linux import failure, libc

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of system calls, the same on all architectures."""
GET_VERSION = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE = sum(1 << bit for bit in range(6, 13))
"""Devices, directories, files, sockets, pipes, links."""
REFER, REFER_SINCE = 1 << 13, 2
"""To move something into another directory. Before, that is always refused."""
TRUNCATE, TRUNCATE_SINCE = 1 << 14, 3

RULESET = Struct("=Q")
RULE = Struct("=Qi")


def restrict_writes(directories: Iterable[int]) -> bool:
    """From now on this thread writes, makes and removes only below these open directories, and runs nothing.

    False when the kernel cannot do that; then nothing has changed. Needs PR_SET_NO_NEW_PRIVS.
    """
    version = libc.syscall(CREATE_RULESET, None, 0, GET_VERSION)
    writes = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE
    writes |= (REFER if version >= REFER_SINCE else 0) | (TRUNCATE if version >= TRUNCATE_SINCE else 0)
    return _restrict(EXECUTE | writes, [(directory, writes) for directory in directories])


def restrict_reads(paths: Iterable[str]) -> bool:
    """From now on this thread opens for reading only these files, and what is below these directories.

    What is not there is passed over. The rest as for `restrict_writes`; what was named is the file, not its path.
    """
    with ExitStack() as stack:
        rules = []
        for path in paths:
            with suppress(OSError):
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                is_directory = S_ISDIR(os.fstat(descriptor).st_mode)
                rules.append((descriptor, READ_FILE | (READ_DIR if is_directory else 0)))
        return _restrict(READ_FILE | READ_DIR, rules)


def _restrict(handled: int, rules: Iterable[tuple[int, int]]) -> bool:
    """Allow of what is `handled` only what a rule says: what is open, and what may be done below it."""
    attributes = RULESET.pack(handled)
    ruleset = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for descriptor, allowed in rules:
            _check(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, RULE.pack(allowed, descriptor), 0))
        _check(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _check(result: int) -> None:
    if result < 0:
        raise failure()
