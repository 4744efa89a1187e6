"""What holds on every route of the table: a key, a scope, and a line in the audit log."""

from __future__ import annotations

import re

import pytest

from agentsrv.api.keys import AUDIT, KEYRING
from agentsrv.api.operations import Operation
from agentsrv.api.routes import OPERATIONS, ROUTES
from agentsrv.model import Scope
from tests.api.kit import Answer, Server

pytestmark = pytest.mark.at_home("keys and the audit log are those of the server that is asked")

PUBLIC = {
    "health", "ready", "welcome", "docs", "openapi", "console", "enter_console",
    "redeem_code", "open_terminal",  # with a code and a token of their own
}  # fmt: skip
ANY_KEY = {"list_tokens", "create_token", "revoke_token", "create_code", "create_ticket"}
"""Of whoever has a key, about keys of its own."""
BY_MESSAGE = {"mcp", "acp", "send_acp", "end_acp"}
"""Which scope it needs is in what it says: tests/faces/test_rules.py."""

SCOPES = {op: scope for group in ROUTES for op in group.operations for scope in [group.scopes()[op.handler]]}
WITH_KEY = [op for op in OPERATIONS if not op.is_public]
CHANGING = [op for op in WITH_KEY if op.method != "GET"]


def url_of(operation: Operation) -> str:
    return re.sub(r"{\w+[^}]*}", "x", operation.path)


def test_what_is_open_to_everybody_is_decided_here() -> None:
    """A new route without a key, or for any key, is noticed."""
    assert {op.name for op in OPERATIONS if op.is_public} == PUBLIC
    assert {op.name for op in WITH_KEY if SCOPES[op] is None} == ANY_KEY | BY_MESSAGE


@pytest.mark.parametrize("operation", WITH_KEY, ids=lambda op: op.name)
async def test_route_wants_a_key_with_its_scope(server: Server, operation: Operation) -> None:
    """401 without one; with one that may do all else, 403."""
    url, scope = url_of(operation), SCOPES[operation]
    stranger = await server.ask(operation.method, url, key=None)
    others = set(Scope) - {scope, Scope.ADMIN}
    _, token = await server.app[KEYRING].add("all else", others)
    other = await server.ask(operation.method, url, key=token)

    assert stranger.status == 401
    assert scope is None or (other.status, code_of(other)) == (403, "scope_missing")


def code_of(refusal: Answer) -> str:
    """Where OpenAI's clients look for it, below their routes."""
    error = refusal.json["error"]
    code: str = error["code"] if isinstance(error, dict) else refusal.json["code"]
    return code


@pytest.mark.parametrize("operation", CHANGING, ids=lambda op: op.name)
async def test_what_changes_something_is_in_the_audit_log(server: Server, operation: Operation) -> None:
    """Whoever does it or tries to; the name of a key and what is in a URL are one line of JSON, whatever they hold."""
    _, token = await server.app[KEYRING].add("odd\r\nname\u202e", {Scope.ADMIN})
    await server.ask(operation.method, f"{url_of(operation)}?path=a%0d%0a%1b%5b2K", key=token, data=b"{")
    await server.app[AUDIT].written()
    entries = (await server.ask("GET", "/audit")).json["entries"]

    assert [(entry["key"], entry["action"]) for entry in entries] == [("odd\r\nname\u202e", operation.name)]
