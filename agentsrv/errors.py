"""Everything that can go wrong and that a caller should understand.

    AgentsrvError
    ├── InvalidInput           the request cannot be understood or asks for something we do not do
    ├── AuthenticationFailed   no credential, or a wrong one
    ├── Forbidden              an origin, host or path that is not allowed
    ├── NotFound
    ├── NotAcceptable          it is there, but not in the form that was asked for
    ├── Conflict               busy, exists already, belongs to something else
    ├── Gone                   it existed and was pruned
    ├── PreconditionFailed     it is not any more what the client has seen
    ├── TooSlow                the body did not arrive in time
    ├── TooLarge
    ├── UnsupportedMediaType
    ├── Unprocessable          understood, but what it is about cannot be worked with, such as a broken repository
    ├── LimitReached           try again later: `retry_after_s`
    ├── Unavailable            a dependency is away or the server is draining: `retry_after_s`
    └── StorageFull
    StartupError               the server cannot start; one line for the operator, exit code 78

`code` is stable and part of the wire contract; the message says what happened, to what, and what to do.
Nothing here knows HTTP: `api/middleware.py` maps classes to statuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong: where (`images.0.data`) and why."""

    path: str
    message: str


class AgentsrvError(Exception):
    """Base of all errors that a client may see."""

    default_code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        problems: Sequence[Problem] = (),
        retry_after_s: int | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.problems = tuple(problems)
        self.retry_after_s = retry_after_s
        self.extra = extra or {}


class InvalidInput(AgentsrvError):
    default_code = "invalid_input"


class AuthenticationFailed(AgentsrvError):
    default_code = "unauthorized"


class Forbidden(AgentsrvError):
    default_code = "forbidden"


class NotFound(AgentsrvError):
    default_code = "not_found"


class NotAcceptable(AgentsrvError):
    default_code = "not_acceptable"


class Conflict(AgentsrvError):
    default_code = "conflict"


class Gone(AgentsrvError):
    default_code = "gone"


class PreconditionFailed(AgentsrvError):
    default_code = "precondition_failed"


class TooSlow(AgentsrvError):
    default_code = "request_timeout"


class TooLarge(AgentsrvError):
    default_code = "too_large"


class UnsupportedMediaType(AgentsrvError):
    default_code = "unsupported_media_type"


class Unprocessable(AgentsrvError):
    default_code = "unprocessable"


class LimitReached(AgentsrvError):
    default_code = "limit_reached"


class Unavailable(AgentsrvError):
    default_code = "unavailable"


class StorageFull(AgentsrvError):
    default_code = "storage_full"


class StartupError(Exception):
    """The server cannot start. The message is one line: what is wrong and what to do."""


def unsupported(option: str, message: str) -> InvalidInput:
    return InvalidInput(
        f"{option}: {message}", code="unsupported_option", problems=[Problem(option, message)]
    )


def invalid_field(field: str, message: str) -> InvalidInput:
    """One field of a request is wrong."""
    return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])


def invalid_fields(problems: Sequence[Problem]) -> InvalidInput:
    """All that is wrong with a request, up to a hundred fields; the message names the first five."""
    summary = "; ".join(
        f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in problems[:5]
    )
    return InvalidInput(summary, problems=problems[:100])
