"""Log lines on stderr: text for people, JSON (one object per line) for machines.

What a caller passes as `extra` becomes fields: members of a JSON line, `name=value` at a text line's end.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from agentsrv.config import LogFormat, LogLevel

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

IN_THE_MESSAGE = frozenset({"method", "path", "status"})
"""Fields of the access log that its message tells people already."""


def set_up(level: LogLevel, layout: LogFormat) -> None:
    """Install the only handler of the root logger."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if layout == "json" else TextLine())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It tells every statement; `store.migrate` tells which migrations were applied.
    logging.getLogger("yoyo").setLevel(logging.WARNING)
    # At debug it tells every statement with its parameters: prompts and all that agents write.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def moment(record: logging.LogRecord) -> str:
    """ISO 8601, UTC, milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


class TextLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [moment(record), record.levelname.lower(), record.name, one_line(record.getMessage())]
        fields = extra_fields(record).items()
        words += [f"{name}={one_line(str(value))}" for name, value in fields if name not in IN_THE_MESSAGE]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def one_line(text: str) -> str:
    """Control characters are escaped, so that nothing a client sends can forge a line or drive a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
