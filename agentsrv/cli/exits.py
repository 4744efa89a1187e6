"""How a command ends: exit codes, and what is said about each error."""

from __future__ import annotations

from typing import Any

from agentsrv.cli.safe import one_line
from agentsrv.client.errors import (
    AgentsrvError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    JobFailed,
    ServiceUnavailableError,
)
from agentsrv.client.servers import ConfigurationError, Server

OK = 0
FAILED = 1
USAGE = 2
QUESTION = 3
CANCELLED = 4
REFUSED = 5
UNAVAILABLE = 69
NO_PERMISSION = 77
CONFIGURATION = 78
TIMEOUT = 124
INTERRUPT = 130
TERMINATED = 143

BY_STATUS = {"completed": OK, "failed": FAILED, "cancelled": CANCELLED, "interrupted": CANCELLED}
"""Of a job that has ended."""


AWAY = APIConnectionError, ServiceUnavailableError
"""A server that may come back."""


class UsageError(Exception):
    """The command line is wrong in a way that only the command can tell."""


class Refused(Exception):
    """What is asked for is not there, or cannot be done."""


def explain(error: BaseException, server: Server | None) -> tuple[int, str, dict[str, Any]]:
    """The exit code, a sentence for people, and further fields for programs."""
    match error:
        case UsageError():
            return USAGE, str(error), {"code": "usage"}
        case Refused():
            return REFUSED, str(error), {"code": "refused"}
        case ConfigurationError():
            return CONFIGURATION, str(error), {"code": "configuration"}
        case APIConnectionError():
            hint = "start it with `agentsrv serve`, or name another one with `agentsrv login URL`"
            return UNAVAILABLE, f"{error}; {hint}", {"code": "unavailable"}
        case AuthenticationError():
            return NO_PERMISSION, _refused_key(server), _fields(error)
        case ServiceUnavailableError():
            return UNAVAILABLE, str(error), _fields(error)
        case APIStatusError():
            return REFUSED, _refusal(error), _fields(error)
        case JobFailed():
            return (
                BY_STATUS.get(error.status, FAILED),
                str(error),
                {"code": error.code, "status": error.status},
            )
        case UnicodeEncodeError():
            told = one_line(str(error.object))
            return USAGE, f"{told} is not UTF-8, and so cannot be told to the server", {"code": "usage"}
        case TimeoutError():
            return TIMEOUT, "the time is over", {"code": "timeout"}
        case AgentsrvError() | OSError():
            return FAILED, str(error), {"code": "error"}
        case _:
            raise error


def _refused_key(server: Server | None) -> str:
    if server is None or not server.key:
        where = server.url if server else "the server"
        return (
            f"there is no key for {where}: set AGENTSRV_API_KEY, give --key-file, or `agentsrv login {where}`"
        )
    return f"{server.url} does not take the key; it came from {server.key_source}"


def _refusal(error: APIStatusError) -> str:
    if error.code == "outside_workspace":
        return f"{error}; WORKSPACE_BASE_PATH of the server confines it"
    return str(error)


def _fields(error: APIStatusError) -> dict[str, Any]:
    fields = {"code": error.code, "status": error.status, "details": list(error.details) or None}
    fields["requestId"] = error.request_id
    return {name: value for name, value in fields.items() if value is not None}
