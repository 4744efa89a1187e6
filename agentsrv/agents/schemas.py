"""Structured output, checked by us: an agent may give what was not wanted, or nothing.

Regular expressions of a schema can take exponential time, and hold the interpreter's lock for as long; references
that double can, too. What may be costly is checked in a process of its own, which has two seconds.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from agentsrv.errors import unsupported
from agentsrv.jsontext import dump
from agentsrv.model import Outcome, TurnOptions, TurnStatus

MAX_SCHEMA_BYTES = 64 * 1024

COSTLY = frozenset({"pattern", "patternProperties", "$ref", "$dynamicRef", "$recursiveRef", "uniqueItems"})
MAX_HERE = 1_000_000
"""Bytes of a schema times bytes of what is to be checked: each of the one may be tried at each of the other."""

CPU_S = 2
TIMEOUT_S = 20.0
"""For the process as a whole: a busy machine may take long to give it its two seconds."""

TOO_LONG = "its check took too long: the schema is too costly for it"

ASIDE = "from agentsrv.agents.schemas import check_aside; check_aside()"


def require_schema(schema: Mapping[str, Any]) -> None:
    """Raises InvalidInput (`unsupported_option`) for what is too large, or no JSON schema. May take its time."""
    if len(dump(schema)) > MAX_SCHEMA_BYTES:
        raise unsupported("output_schema", f"must not be larger than {MAX_SCHEMA_BYTES} bytes of JSON")
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as exc:
        raise unsupported("output_schema", f"is no JSON schema: {exc.message[:200]}") from exc


def checked_output(options: TurnOptions, outcome: Outcome) -> Outcome:
    """The outcome, or a failure when the wanted output is missing or not as wanted. May take its time."""
    schema, output = options.output_schema, outcome.structured_output
    if schema is None or outcome.status is not TurnStatus.COMPLETED:
        return outcome
    if output is None:
        error, code = (
            "the agent has not given the structured output that was asked for",
            "structured_output_missing",
        )
    elif (trouble := _trouble(schema, output)) is not None:
        error, code = f"the structured output is not as asked for: {trouble}", "structured_output_invalid"
    else:
        return outcome
    return replace(outcome, status=TurnStatus.FAILED, error=error, error_code=code, structured_output=None)


def _trouble(schema: Mapping[str, Any], output: Any) -> str | None:
    """What is wrong with it first, and where."""
    is_large = len(dump(schema)) * len(dump(output)) > MAX_HERE
    return _trouble_aside(schema, output) if is_large or _is_costly(schema) else _trouble_here(schema, output)


def _is_costly(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return not COSTLY.isdisjoint(schema) or any(map(_is_costly, schema.values()))
    return isinstance(schema, list) and any(map(_is_costly, schema))


def _trouble_aside(schema: Mapping[str, Any], output: Any) -> str | None:
    """The same, in a process that can be ended."""
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-c", ASIDE],
            input=dump([schema, output]),
            capture_output=True,
            timeout=TIMEOUT_S,
            env={},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TOO_LONG
    return json.loads(ended.stdout)["trouble"] if ended.returncode == 0 else TOO_LONG


def check_aside() -> None:
    """What the process does: read both, say what is wrong."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    schema, output = json.load(sys.stdin)
    _import_all()
    used = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_S, used + CPU_S))
    json.dump({"trouble": _trouble_here(schema, output)}, sys.stdout)


def _import_all() -> None:
    """Before the time runs."""
    _trouble_here({"type": "object"}, {})


def _trouble_here(schema: Mapping[str, Any], output: Any) -> str | None:
    """References lead nowhere but into the schema itself."""
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = validator_for(schema)(schema, registry=Registry())
    try:
        found = best_match(validator.iter_errors(output))
    except (Unresolvable, RecursionError) as exc:
        return f"its schema cannot be followed ({type(exc).__name__})"
    except re.error as exc:
        return f"its schema has an expression that is none: {exc}"
    if found is None:
        return None
    return f"{found.json_path}: {found.message[:500]}"
