"""`agentsrv`: parses the command line, and imports the command that it names.

Exit codes: those of the command; 2 for a wrong command line; 78 (EX_CONFIG) when it cannot start, with one line on
stderr that says why.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

try:
    from agentsrv.cli.arguments import command_line
    from agentsrv.errors import StartupError
except KeyboardInterrupt:  # Ctrl-C comes while we still begin.
    sys.exit(130)

EX_CONFIG = 78


def main() -> None:
    open_what_is_closed()
    try:
        arguments = command_line().parse_args()
        command = getattr(imported(f"agentsrv.{arguments.home}"), arguments.function)
        sys.exit(command(arguments))
    except StartupError as exc:
        with suppress(BrokenPipeError):
            print(f"agentsrv: {' '.join(str(exc).split())}", file=sys.stderr)
        sys.exit(EX_CONFIG)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever reads our stdout has enough: nothing is wrong, and nothing more can be said.
        sys.exit(0)
    finally:
        forget_who_has_gone()


def imported(name: str) -> Any:
    """The module. Ctrl-C ends us at once meanwhile: what is imported may not be made for an exception in its middle."""
    if (before := signal.getsignal(signal.SIGINT)) is not signal.default_int_handler:
        return import_module(name)  # Whoever started us wants Ctrl-C to do nothing.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    module = import_module(name)
    signal.signal(signal.SIGINT, before)
    return module


def open_what_is_closed() -> None:
    """Whoever starts us may leave out stdin, stdout or stderr: then the next file of ours would be in its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), "w" if number else "r"))  # noqa: SIM115


def forget_who_has_gone() -> None:
    """What nobody reads would be tried once more at the very end, and be an error then."""
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


if __name__ == "__main__":
    main()
