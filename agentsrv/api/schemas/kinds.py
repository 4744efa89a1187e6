"""The kinds of text and number that several bodies and queries have."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agentsrv.model import MODEL_PATTERN, NAME_PATTERN, SESSION_ID_PATTERN

MESSAGE_ID_PATTERN = r"^[!-~]{1,200}\Z"

# The description of a pattern goes on from "must be".
_NAME = "1 to 128 letters, digits, dots, dashes and underscores, a letter or digit first"
NameText = Annotated[str, Meta(pattern=NAME_PATTERN, description=_NAME)]
SessionIdText = Annotated[str, Meta(pattern=SESSION_ID_PATTERN, description=f"{_NAME}, and not `filesystem`")]
ModelText = Annotated[
    str, Meta(pattern=MODEL_PATTERN, description="the name of a model, in ASCII and without blanks")
]
# Empty: it has none.
TitleOrEmptyText = Annotated[str, Meta(max_length=200)]
TitleText = Annotated[str, Meta(min_length=1, max_length=200)]
PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
PathOrEmptyText = Annotated[str, Meta(max_length=4096)]
RevisionText = Annotated[str, Meta(max_length=1024)]
# Longer than a path may be: a `file:` URI needs three characters for a byte.
FilePathText = Annotated[str, Meta(max_length=13_000)]
# A path in the workspace, or a `data:` URL.
ImageText = Annotated[str, Meta(min_length=1)]
SearchText = Annotated[str, Meta(max_length=1000)]
DepthNumber = Annotated[int, Meta(ge=1)]
CursorText = Annotated[str, Meta(min_length=1, max_length=500)]
ServerText = Annotated[str, Meta(pattern=NAME_PATTERN, description="the name of one of this fleet's servers")]
MessageIdText = Annotated[
    str, Meta(pattern=MESSAGE_ID_PATTERN, description="1 to 200 ASCII characters without blanks")
]
SeqText = Annotated[str, Meta(pattern=r"^[0-9]{0,18}\Z", description="the id of an event, a whole number")]
AgentText = Annotated[
    str, Meta(min_length=1, max_length=100, description="the name of an agent; GET /agents lists them")
]
Format = Literal["native", "acp"]
