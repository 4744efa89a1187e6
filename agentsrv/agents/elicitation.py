"""Forms of MCP servers (elicitation): what they want to know, as questions, and answers as the values they want.

The schema is MCP's: an object whose properties are texts, numbers, yes or no, or choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsrv.agents.contract import Question
from agentsrv.agents.questions import answers_to, unfit_answer
from agentsrv.jsontext import as_object
from agentsrv.model import Answer, Decision


def form_questions(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A question for each property of the object that a server asks for."""
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    return [
        _field(name, field) | ({} if name in names else {"optional": True})
        for name, field in _fields(schema).items()
    ]


def elicited(question: Question, answer: Answer, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the server is told; `schema` None: it wanted no form filled in. Raises InvalidInput."""
    if answer.decision is not Decision.ALLOW:
        return {"action": "decline" if answer.decision is Decision.DENY else "cancel"}
    if schema is None:
        return {"action": "accept"}
    fields, given = _fields(schema), answers_to(question, answer)
    return {
        "action": "accept",
        "content": {id_: _value(id_, fields[id_], texts) for id_, texts in given.items()},
    }


def _fields(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: as_object(field) for name, field in as_object(schema.get("properties")).items()}


def _field(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A property as a question."""
    entry: dict[str, Any] = {
        "id": name,
        "question": str(schema.get("description") or schema.get("title") or name),
    }
    if schema.get("title"):
        entry["header"] = str(schema["title"])
    if choices := _choices(schema):
        entry["options"] = [{"label": label} for label in choices]
    if schema.get("type") == "array":
        entry["multiSelect"] = True
    return entry


def _choices(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a property may have, by what people read; empty when it may have any."""
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}
    if schema.get("type") == "array":
        return _choices({**as_object(schema.get("items")), "type": "string"})
    titled = schema.get("oneOf") or schema.get("anyOf")
    if isinstance(titled, list):
        return {str(as_object(one).get("title")): as_object(one).get("const") for one in titled}
    values, names = schema.get("enum"), schema.get("enumNames")
    if not isinstance(values, list):
        return {}
    labels = names if isinstance(names, list) and len(names) == len(values) else values
    return {str(label): value for label, value in zip(labels, values, strict=True)}


def _value(name: str, schema: Mapping[str, Any], texts: list[str]) -> Any:
    """Texts as a value of the property. Raises InvalidInput."""
    choices = _choices(schema)
    values = [choices.get(text, text) for text in texts]
    if schema.get("type") == "array":
        return values
    value = values[0] if values else ""
    if choices and value not in choices.values():
        raise unfit_answer(name, f"must be one of {', '.join(choices)}")
    if schema.get("type") in ("integer", "number") and isinstance(value, str):
        return _number(name, value, int if schema["type"] == "integer" else float)
    return value


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise unfit_answer(name, "must be a number") from None
