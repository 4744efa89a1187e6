"""ACP's own schema, read strictly: the models of the protocol's package, which on their own forgive a lot."""

from __future__ import annotations

from typing import Any

from acp.schema import PromptResponse, RequestPermissionRequest, SessionNotification
from pydantic import BaseModel


def check_frame(frame: dict[str, Any]) -> None:
    """Fail unless the data of a frame is what it should be: a notification, or one of the server's own values."""
    if "update" in frame:
        check(SessionNotification, frame)
    elif "request" in frame:
        check(RequestPermissionRequest, frame["request"])
    elif "stopReason" in frame:
        check(PromptResponse, {"stopReason": frame["stopReason"]})
    else:
        assert frame.get("type") or frame.get("done"), frame


def check(model: type[BaseModel], value: dict[str, Any]) -> None:
    """The models drop fields that they do not know and values that do not fit: nothing may be missing then."""
    understood = model.model_validate(value).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert understood == value
