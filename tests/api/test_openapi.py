"""The OpenAPI document and its page say what the server does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentsrv.api.openapi import document
from agentsrv.api.parameters import PATH, QUERY
from agentsrv.api.routes import ROUTES
from tests.api.kit import Server


def references(value: Any) -> set[str]:
    """Every `$ref` inside."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


async def test_the_document_is_public_and_names_every_route(server: Server) -> None:
    """What the router knows and what the document says is the same, but for what earlier clients call them."""
    answer = await server.ask("GET", "/openapi.json", key=None)
    documented = {
        (method.upper(), path) for path, methods in answer.json["paths"].items() for method in methods
    }
    routed = {
        (route.method, route.resource.canonical)
        for route in server.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    old_names = {
        *((m, path) for m, path in routed if path.startswith("/sessions/filesystem/")),
        *((m, path) for m, path in routed if path.endswith("/") and (m, path[:-1]) in routed),
    }

    assert answer.json["openapi"] == "3.1.0"
    assert documented == routed - old_names


def test_every_reference_leads_somewhere() -> None:
    """No schema is named that is not there."""
    api = document(ROUTES, "1")

    assert {name.rpartition("/")[2] for name in references(api)} <= set(api["components"]["schemas"])


def test_every_operation_is_told_apart_and_described() -> None:
    """Names for generated clients are unique; each has a sentence for people."""
    operations = [op for path in document(ROUTES, "1")["paths"].values() for op in path.values()]

    assert len({op["operationId"] for op in operations}) == len(operations)
    assert all(op["summary"].endswith((".", "?")) or op["summary"] for op in operations)


def test_what_needs_a_key_says_so() -> None:
    """Start page, health, documents and the console are public; a terminal takes a token; all else answers 401."""
    paths = document(ROUTES, "1")["paths"]
    public = {path for path, methods in paths.items() for op in methods.values() if not op["security"]}

    assert public == {
        "/",
        "/health",
        "/health/ready",
        "/openapi.json",
        "/docs",
        "/ws/terminal",
        "/console",
        "/console/{name}",
        "/auth/codes/redeem",
    }
    assert "401" in paths["/ws/terminal"]["get"]["responses"]
    assert all("401" in op["responses"] for path in paths.values() for op in path.values() if op["security"])


def test_headers_that_mean_something_are_told() -> None:
    """A generated client can resume a stream, repeat a prompt, and write a file only if nobody else has."""
    paths = document(ROUTES, "1")["paths"]
    headers = {
        f"{method} {path}": names
        for path, operations in paths.items()
        for method, operation in operations.items()
        if (names := [entry["name"] for entry in operation["parameters"] if entry["in"] == "header"])
    }

    assert headers == {
        "get /sessions/{session_id}/events": ["Last-Event-ID"],
        "post /generate/v2": ["Idempotency-Key", "Last-Event-ID"],
        "get /generate/v2/jobs/{task_id}/stream": ["Last-Event-ID"],
        "post /openai/v1/chat/completions": ["Idempotency-Key"],
        "post /openai/v1/responses": ["Idempotency-Key"],
        "get /acp": ["Acp-Connection-Id", "Acp-Session-Id"],
        "post /acp": ["Acp-Connection-Id", "Acp-Session-Id"],
        "delete /acp": ["Acp-Connection-Id"],
        "get /filesystem/content": ["Range", "If-None-Match", "If-Range"],
        "put /filesystem/content": ["If-Match", "If-None-Match"],
    }


def test_required_is_what_is_always_there() -> None:
    """A client made from the document takes a job that has only begun, and an answer that is not remembered."""
    schemas = document(ROUTES, "1")["components"]["schemas"]
    always = {"taskId", "sessionId", "status", "createdAt", "firstEventId", "lastEventId"}

    assert set(schemas["JobView"]["required"]) == always
    assert "remember" not in schemas["PermissionAnswered"]["required"]
    assert set(schemas["SessionView"]["required"]) == set(schemas["SessionView"]["properties"])


def test_patterns_are_those_of_json_schema() -> None:
    r"""No `\Z`: ECMA-262 does not know it."""
    assert r"\Z" not in str(document(ROUTES, "1"))


async def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    """One file, no other host, no key."""
    answer = await server.ask("GET", "/docs", key=None)

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?://", answer.text)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_everything_is_described() -> None:
    """Each operation has a tag and a description, each parameter a description, each list says of what."""
    api = document(ROUTES, "1")
    operations = [op for path in api["paths"].values() for op in path.values()]
    tags = {tag["name"] for tag in api["tags"]}

    assert [
        op["operationId"] for op in operations if not op["description"] or not tags.issuperset(op["tags"])
    ] == []
    assert [entry for op in operations for entry in op["parameters"] if not entry.get("description")] == []
    assert [found for found in arrays(api) if "items" not in found] == []


def arrays(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("type") == "array":
            yield value
        for part in value.values():
            yield from arrays(part)
    elif isinstance(value, list):
        for part in value:
            yield from arrays(part)


def test_no_description_is_left_over() -> None:
    """A parameter that has gone takes its description with it."""
    operations = [op for path in document(ROUTES, "1")["paths"].values() for op in path.values()]
    used = {(entry["in"], entry["name"]) for op in operations for entry in op["parameters"]}

    assert {("path", name) for name in PATH} | {("query", name) for name in QUERY} <= used
