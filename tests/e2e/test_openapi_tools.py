"""Tools of others take the OpenAPI document as it is, and find that the server does what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agentsrv.api.openapi import document
from agentsrv.api.routes import ROUTES
from tests.kit import KEY, Server, script

HERE = Path(__file__).parent / "openapi"
PROGRAMS = HERE / "node_modules" / ".bin"
ENDLESS = ("watch_activity", "watch_directory", "follow_session", "open_terminal")
"""Operations whose answer ends when the client leaves."""


@pytest.fixture
def api(tmp_path: Path) -> Path:
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document(ROUTES, "1.0")))
    return file


def run(program: Path | str, *arguments: Path | str, cwd: Path) -> str:
    """What it prints. Fails when it fails."""
    if isinstance(program, Path) and not program.exists():
        pytest.fail(f"{program.name} is not installed; `python3 dev.py tools` does it")
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python_program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@pytest.mark.tools
def test_redocly_has_nothing_to_say(api: Path, tmp_path: Path) -> None:
    """No licence has been chosen; a WebSocket answers 101, and the console's short address 308."""
    without = ("--skip-rule=info-license", "--skip-rule=operation-2xx-response")
    found = json.loads(run(PROGRAMS / "redocly", "lint", "--format=json", *without, api, cwd=tmp_path))

    assert found["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}


@pytest.mark.tools
def test_spectral_has_nothing_to_say(api: Path, tmp_path: Path) -> None:
    """Nor is there anybody to contact; all other rules hold."""
    rules = {"info-contact": "off", "operation-success-response": "off"}
    (tmp_path / ".spectral.json").write_text(json.dumps({"extends": ["spectral:oas"], "rules": rules}))

    run(PROGRAMS / "spectral", "lint", "--ruleset=.spectral.json", "--fail-severity=hint", api, cwd=tmp_path)


@pytest.mark.tools
def test_a_client_in_typescript_knows_what_streams_tell(api: Path, tmp_path: Path) -> None:
    """Types are made from the document, and a client that uses them is right, or is told where it is wrong."""
    run(PROGRAMS / "openapi-typescript", api, "--output", "api.d.ts", cwd=tmp_path)
    (tmp_path / "client.ts").write_text(
        'import type { components } from "./api";\n'
        'const take = (event: components["schemas"]["WatchEvent"]) =>\n'
        '  event.type === "changes" ? event.changes.map((change) => change.path) : [event.timestamp];\n'
        "// @ts-expect-error There is no such field.\n"
        'export const wrong = (job: components["schemas"]["JobView"]) => [take, job.nothing];\n'
    )
    run(PROGRAMS / "tsc", "--noEmit", "--strict", "client.ts", cwd=tmp_path)


@pytest.mark.tools
def test_a_client_in_python_is_made(api: Path, tmp_path: Path) -> None:
    """It has a module for each operation, and nothing is left out."""
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"post_hooks": [], "content_type_overrides": {"application/gzip": "application/octet-stream"}}
        )
    )
    options = ("--output-path", "made", "--meta=none", "--config=config.json", "--fail-on-warning")
    run(python_program("openapi-python-client"), "generate", "--path", api, *options, cwd=tmp_path)

    names = {op["operationId"] for path in document(ROUTES, "1")["paths"].values() for op in path.values()}
    assert names <= {path.stem for path in (tmp_path / "made" / "api").rglob("*.py")}


NIGHTLY = [pytest.mark.nightly, pytest.mark.timeout(900)]  # two minutes of two cores


@pytest.mark.parametrize(
    "phases", ["fuzzing", pytest.param("examples,coverage,fuzzing", marks=NIGHTLY)], ids=["few", "many"]
)
def test_schemathesis_finds_nothing(server: Server, tmp_path: Path, phases: str) -> None:
    """Some requests to each route, and at night two thousand that are each right or wrong in one way: all answers are
    as the document says.
    """
    options = [f"--phases={phases}", "--max-examples=2", "--seed=1", "--no-shrink"]
    options += [f"--exclude-operation-id={name}" for name in ENDLESS]
    options += [f"--header=Authorization: Bearer {KEY}", "--request-timeout=60"]
    command = (python_program("schemathesis"), f"--config-file={HERE / 'schemathesis.toml'}", "run")

    run(*command, *options, f"http://127.0.0.1:{server.port}/openapi.json", cwd=tmp_path)


def test_events_are_what_the_document_says(server: Server) -> None:
    """Whatever the server itself says in a stream, in both formats, fits the schema of its kind."""
    job = server.start_job(
        script('ask 1 Bash {"command": "touch x"}', "raw {not json", "say words", "exit 3"),
        permission_mode="ask",
    )
    for format in ("native", "acp"):
        with server.ask("GET", f"/generate/v2/jobs/{job}/stream?format={format}") as stream:
            question = stream.until(lambda event: event.type == "permission_request").json
            answer = {"decision": "allow", "remember": "session"}
            server.ask("POST", f"/generate/v2/jobs/{job}/permissions/{question['requestId']}", answer).body()
            seen = {kind for event in stream.rest() if (kind := fitting(event.json))}

        known = {"PermissionRequest", "PermissionResolved", "UnreadOutput", "JobError", "JobDone"}
        assert seen == (known if format == "native" else {*known, "AgentUpdate"})


def fitting(event: dict[str, Any]) -> str | None:
    """The schema of this kind of event, which it must fit; None for what the agent says in its own words."""
    schemas = document(ROUTES, "1")["components"]["schemas"]
    by_type = {
        schema["properties"]["type"]["enum"][0]: name
        for name in ("PermissionRequest", "PermissionResolved", "UnreadOutput", "JobError")
        if (schema := schemas[name])
    }
    name = (
        "JobDone" if "done" in event else "AgentUpdate" if "update" in event else by_type.get(event["type"])
    )
    if name is not None:
        root = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        Draft202012Validator(root).validate(event)
    return name
