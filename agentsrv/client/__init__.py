"""A client that survives what the server survives.

    async with AsyncAgentsrv() as client:
        job = await client.run("Tidy up.")
        async for event in job:
            match event:
                case Text(text=text):
                    print(text, end="")

`Agentsrv` is the same without `await`. What can go wrong is drawn in `agentsrv.client.errors`.
"""

from __future__ import annotations

from agentsrv.client.aio import AsyncAgentsrv
from agentsrv.client.errors import (
    AgentsrvError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    JobFailed,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    ServiceUnavailableError,
    UnprocessableEntityError,
)
from agentsrv.client.events import (
    Answered,
    Done,
    Error,
    Event,
    Gap,
    Notice,
    Plan,
    Question,
    Raw,
    Text,
    Thought,
    ToolCall,
    Unknown,
    Usage,
    UserText,
)
from agentsrv.client.git import Diff
from agentsrv.client.jobs import AsyncJob
from agentsrv.client.models import JobInfo, JobResult, Session
from agentsrv.client.servers import ConfigurationError
from agentsrv.client.sync import Agentsrv, Job

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "Agentsrv",
    "AgentsrvError",
    "Answered",
    "AsyncAgentsrv",
    "AsyncJob",
    "AuthenticationError",
    "BadRequestError",
    "ConfigurationError",
    "ConflictError",
    "Diff",
    "Done",
    "Error",
    "Event",
    "Gap",
    "InternalServerError",
    "Job",
    "JobFailed",
    "JobInfo",
    "JobResult",
    "NotFoundError",
    "Notice",
    "PermissionDeniedError",
    "Plan",
    "Question",
    "RateLimitError",
    "Raw",
    "RequestTooLargeError",
    "ServiceUnavailableError",
    "Session",
    "Text",
    "Thought",
    "ToolCall",
    "Unknown",
    "UnprocessableEntityError",
    "Usage",
    "UserText",
]
