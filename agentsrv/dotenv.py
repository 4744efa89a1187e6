"""The `.env` file: `NAME=value` lines, `#` comments, an optional `export`, optional quotes around a value.

What is inside quotes is taken as it stands; nothing is substituted and nothing is executed.
"""

from __future__ import annotations

import os
import re
import select
import stat
import tempfile
from pathlib import Path

from agentsrv.errors import StartupError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load(path: Path) -> dict[str, str]:
    """The file's variables; none without a file. Raises StartupError naming the line that is wrong."""
    try:
        content = read(path)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise StartupError(f"{path} cannot be read: {exc}") from exc
    variables = {}
    for number, line in enumerate(content.split("\n"), start=1):
        try:
            if assignment := parse_line(line):
                name, value = assignment
                variables[name] = value
        except ValueError as exc:
            raise StartupError(f"{path}, line {number}: {exc}") from exc
    return variables


def read(path: Path) -> str:
    """Also of a pipe (`--env-file <(...)`); one that came with a repository would be waited for for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode) and not has_writer(file.fileno()):
            raise StartupError(f"{path} is a pipe, and nobody writes into it")
        os.set_blocking(file.fileno(), True)
        return file.read().decode("utf-8-sig")


def has_writer(pipe: int) -> bool:
    """Has anybody written into it, or can still do so?"""
    state = select.poll()
    state.register(pipe, select.POLLIN)
    if any(event & select.POLLIN for _, event in state.poll(0)):
        return True
    try:
        return bool(os.read(pipe, 1))
    except BlockingIOError:
        return True


def parse_line(line: str) -> tuple[str, str] | None:
    """The name and the value, or None for a blank line or a comment.

    The ValueError for anything else does not repeat the line, which may hold a secret.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    name, equals, value = line.removeprefix("export ").partition("=")
    name = name.strip()
    if not equals or not NAME.fullmatch(name):
        raise ValueError("expected NAME=value")
    return name, unquote(value.strip())


def unquote(value: str) -> str:
    quote = value[:1]
    if quote not in ("'", '"'):
        return re.split(r"(?:^|\s)#", value, maxsplit=1)[0].strip()
    inside, closed, rest = value[1:].partition(quote)
    if not closed or (rest.strip() and not rest.strip().startswith("#")):
        raise ValueError("a quoted value must end with the same quote")
    return inside


def store(path: Path, name: str, value: str) -> None:
    """Set one variable, keep every other line, and leave the file readable by its owner alone.

    The file is replaced whole: a crash leaves the old one or the new one.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
    kept = [line for line in lines if not is_assignment_of(name, line)]
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # mode 0600
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join([*kept, f"{name}={value}"]) + "\n")
    os.replace(temporary, path)


def is_assignment_of(name: str, line: str) -> bool:
    try:
        assignment = parse_line(line)
    except ValueError:
        return False
    return assignment is not None and assignment[0] == name
