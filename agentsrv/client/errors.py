"""What can go wrong, by the names that users of other SDKs know.

AgentsrvError
├── APIConnectionError          no answer: refused, cut off, not to be found
│   └── APITimeoutError         no answer in time
├── APIStatusError              an answer that is not 2xx
│   ├── BadRequestError           400
│   ├── AuthenticationError       401
│   ├── PermissionDeniedError     403
│   ├── NotFoundError             404
│   ├── ConflictError             409
│   ├── RequestTooLargeError      413
│   ├── UnprocessableEntityError  422
│   ├── RateLimitError            429
│   ├── InternalServerError       5xx
│   └── ServiceUnavailableError   503
└── JobFailed                   the job has ended, and not well

No message and no attribute holds the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class AgentsrvError(Exception):
    """Whatever this client raises."""


class APIConnectionError(AgentsrvError):
    """The server did not answer. `url` is the server's, `reason` what the network said."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} does not answer: {reason}")
        self.url = url
        self.reason = reason


class APITimeoutError(APIConnectionError):
    """The server did not answer in time."""


class APIStatusError(AgentsrvError):
    """The server answered, and refused. `code` is stable, `message` is for people.

    `details` has `{"path", "message"}` for each field that is wrong; `body` is the whole answer, in which some
    refusals say more, such as the `taskId` of a busy session. `retry_after` is in seconds, when the server says.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: tuple[dict[str, Any], ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body or {}

    def __str__(self) -> str:
        details = [f"{each.get('path')}: {each.get('message')}" for each in self.details]
        return "; ".join([self.message, *(each for each in details if each not in self.message)])


class BadRequestError(APIStatusError):
    """400: the request is wrong; `details` say where."""


class AuthenticationError(APIStatusError):
    """401: no key, or one that the server does not take."""


class PermissionDeniedError(APIStatusError):
    """403: not allowed, such as a path outside the workspace."""


class NotFoundError(APIStatusError):
    """404: there is no such session, job, file or route."""


class ConflictError(APIStatusError):
    """409: something is in the way, such as a turn that runs or an answer that was given otherwise."""


class RequestTooLargeError(APIStatusError):
    """413: the body is over the server's limit."""


class UnprocessableEntityError(APIStatusError):
    """422: understood, and cannot be worked with."""


class RateLimitError(APIStatusError):
    """429: a limit of the server is reached; `retry_after` says when to ask again."""


class InternalServerError(APIStatusError):
    """5xx: the server's fault. Its log has it under `request_id`."""


class ServiceUnavailableError(InternalServerError):
    """503: the server shuts down, or something that it needs is away."""


class JobFailed(AgentsrvError):
    """A job ended as `failed`, `cancelled` or `interrupted` (`status`). `code` is stable, and may be empty."""

    def __init__(self, status: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: RequestTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    503: ServiceUnavailableError,
}


def status_error(status: int, headers: Mapping[str, str], content: bytes) -> APIStatusError:
    """The error that an answer is, also one of a proxy that knows nothing of us."""
    body = _json_object(content)
    kind = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    details = body.get("details")
    return kind(
        status,
        str(body.get("code", "")),
        str(body.get("error", "")) or f"the server answered {status}",
        details=tuple(each for each in details if isinstance(each, dict))
        if isinstance(details, list)
        else (),
        request_id=headers.get("X-Request-Id"),
        retry_after=_seconds(headers.get("Retry-After", "")),
        body=body,
    )


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}


def _seconds(text: str) -> float | None:
    return float(text) if text.strip().isdecimal() else None
