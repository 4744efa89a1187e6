"""What the adapters' questions to people have in common: titles, answers, and refusals in words."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from msgspec.structs import replace

from agentsrv.agents.contract import Question
from agentsrv.errors import InvalidInput, Problem
from agentsrv.model import Answer, Decision

MAX_TITLE_CHARS = 200

DECEPTIVE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Controls, marks that turn the order of reading around, and what has no width."""

PLAIN_ID = re.compile(r'(?!\.{1,2}\Z)[\w:."-]{1,200}', re.ASCII)
"""What can be a segment of a URL as it is, whichever proxy it passes."""

OWN_ID = "ownId"

REFUSALS = {
    Decision.DENY: "The user does not allow this.",
    Decision.TIMED_OUT: "Nobody answered in time, so this is not allowed.",
    Decision.CANCELLED: "The turn was stopped.",
}


def title(text: str) -> str:
    """`text` as one line that fits on a screen and shows as what it is.

    What would move the cursor, change the order of reading or be invisible stands as its code: what is approved
    must be what is seen. A longer text says how long it is.
    """
    line = DECEPTIVE.sub(_escaped, " ".join(text[: MAX_TITLE_CHARS * 4].split()))
    if len(line) <= MAX_TITLE_CHARS and len(text) <= MAX_TITLE_CHARS * 4:
        return line
    return f"{line[:MAX_TITLE_CHARS]}… ({len(text)} characters)"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def question_id(own: str) -> str:
    """What a question is called for people: as the agent calls it, or a name made from that where it fits no URL."""
    if PLAIN_ID.fullmatch(own):
        return own
    return f"q-{hashlib.sha256(own.encode(errors='surrogatepass')).hexdigest()[:32]}"


def with_plain_id(question: Question) -> Question:
    """The same, called by `question_id`; the agent's own name is in its details where it is another."""
    if (plain := question_id(question.id)) == question.id:
        return question
    return replace(question, id=plain, details=question.details | {OWN_ID: question.id})


def own_id(question: Question) -> str:
    """What the agent calls it."""
    own = question.details.get(OWN_ID)
    return own if isinstance(own, str) and question_id(own) == question.id else question.id


def refusal(answer: Answer) -> str:
    """What the agent is told of an answer that does not allow."""
    return answer.message or REFUSALS[answer.decision]


def answers_to(question: Question, answer: Answer) -> dict[str, list[str]]:
    """The answers to a question, by id: each of them texts, one unless several may be chosen.

    Those to optional questions may be missing. Raises InvalidInput.
    """
    asked = {entry["id"]: entry for entry in question.input["questions"]}
    given = (answer.updated_input or {}).get("answers", {})
    if not isinstance(given, dict):
        raise _unfit("answers must be an object", asked)
    if unknown := given.keys() - asked.keys():
        raise _unfit(f"there is no question {sorted(unknown)[0]!r}", asked)
    missing = [id_ for id_, entry in asked.items() if id_ not in given and not entry.get("optional")]
    if missing:
        raise _unfit(f"question {missing[0]!r} is not answered", asked)
    return {id_: _texts(id_, value, asked) for id_, value in given.items()}


def _texts(id_: str, value: Any, asked: dict[str, Any]) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _unfit(f"the answer to {id_!r} must be a text or a list of texts", asked)
    if len(texts) > 1 and not asked[id_].get("multiSelect"):
        raise _unfit(f"question {id_!r} has one answer", asked)
    return texts


def _unfit(trouble: str, asked: dict[str, Any]) -> InvalidInput:
    shape = f'must be {{"answers": {{id: text or list of texts}}}} with the ids {", ".join(asked)}'
    message = f"{shape}: {trouble}"
    return InvalidInput(f"updatedInput {message}", problems=[Problem("updatedInput", message)])


def unfit_answer(id_: str, trouble: str) -> InvalidInput:
    """The answer to one question is none that the agent can use."""
    message = f"the answer to {id_!r} {trouble}"
    return InvalidInput(
        f"updatedInput: {message}", problems=[Problem(f"updatedInput.answers.{id_}", message)]
    )
