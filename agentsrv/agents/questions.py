"""What the adapters' questions to people have in common: titles, answers, and refusals in words."""

from __future__ import annotations

from typing import Any

from agentsrv.agents.base import Question
from agentsrv.errors import InvalidInput, Problem
from agentsrv.model import Answer, Decision

MAX_TITLE_CHARS = 200

REFUSALS = {
    Decision.DENY: "The user does not allow this.",
    Decision.TIMED_OUT: "Nobody answered in time, so this is not allowed.",
    Decision.CANCELLED: "The turn was stopped.",
}


def title(text: str) -> str:
    """`text` as one line that fits on a screen."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_TITLE_CHARS else line[: MAX_TITLE_CHARS - 1] + "…"


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
