"""The documents say what is, all of it and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from agentsrv import dotenv
from agentsrv.api.routes import OPERATIONS
from agentsrv.config import Config, read_settings
from agentsrv.services import AGENT_KINDS

ROOT = Path(__file__).parents[1]
HTTP_API = (ROOT / "docs/http-api.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
EXAMPLE = (ROOT / "env.example").read_text()
SOURCES = sorted((ROOT / "agentsrv").rglob("*.py"))
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs").rglob("*.md"),
]

GROUPS = (Config, *(kind.settings for kind in AGENT_KINDS))
SETTINGS = {field.metadata["name"] for group in GROUPS for field in fields(group) if field.metadata}
CREDENTIALS = {"ANTHROPIC_API_KEY", "OPENAI_API_KEY"}
"""Variables that env.example shows and that agents read, not the server."""


def test_every_setting_is_explained() -> None:
    """docs/configuration.md has a line for each setting, and for nothing that is not one."""
    explained = re.findall(r"^\| `([A-Z_]+)` \|", CONFIGURATION, re.MULTILINE)

    assert sorted(SETTINGS) == sorted(explained)


def test_every_setting_is_in_the_example() -> None:
    """env.example shows each setting once."""
    shown = re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE)

    assert sorted(SETTINGS | CREDENTIALS) == sorted(shown)


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    """Taking away the `#` before every line changes nothing."""
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^#([A-Z_]+=)", r"\1", EXAMPLE, flags=re.MULTILINE))
    needed = {"API_KEY": "a-key-that-is-long-enough", "HOME": str(Path("~").expanduser())}

    shown = dotenv.load(file) | needed
    assert Config.from_env(needed) == Config.from_env(shown)
    for kind in AGENT_KINDS:
        assert kind.settings() == kind.settings(**read_settings(kind.settings, shown))


def test_configuration_shows_the_defaults_of_the_example() -> None:
    """Where the table has a default in code, it is the one that env.example has."""
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", CONFIGURATION, re.MULTILINE))
    example = dict(re.findall(r"^#([A-Z_]+)=(\S+)$", EXAMPLE, re.MULTILINE))

    assert example == table


def test_every_route_is_documented() -> None:
    """docs/http-api.md has each route, and none that does not exist."""
    documented = set(re.findall(r"^`(GET|POST|PUT|DELETE) ([^ `]+)`", HTTP_API, re.MULTILINE))
    documented |= set(re.findall(r"\. `(GET) (/docs)` →", HTTP_API))
    routes = {(route.method, re.sub(r"{(\w+)[^}]*}", r"{\1}", route.path)) for route in OPERATIONS}

    assert sorted(routes) == sorted(documented)


def test_every_field_of_a_body_is_documented() -> None:
    """The fields of bodies and queries all stand in docs/http-api.md."""
    kinds = [kind for route in OPERATIONS for kind in (route.body, route.query) if isinstance(kind, type)]
    names = {name for kind in kinds for name in kind.__struct_encode_fields__}

    assert sorted(name for name in names if not re.search(rf'[`"]{name}[`"]', HTTP_API)) == []


def test_every_error_code_is_documented() -> None:
    """A client can look up each code that it may get; no code is documented that nothing sends."""
    documented = set(re.findall(r"`([a-z_]+)`", "".join(code_columns(HTTP_API))))
    sent = {code for path in SOURCES for code in error_codes(ast.parse(path.read_text()))}
    literals = {text for path in SOURCES for text in re.findall(r'"([a-z_]+)"', path.read_text())}

    assert sorted(sent - documented - {"error"}) == []
    assert sorted(documented - literals) == []


def code_columns(document: str) -> Iterator[str]:
    """The cells of tables that have a column `code`."""
    column: int | None = None
    for line in document.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith("|"):
            column = None
        elif "code" in cells:
            column = cells.index("code")
        elif column is not None:
            yield cells[column]


def error_codes(tree: ast.Module) -> Iterator[str]:
    """What is given as `code=`, set as `default_code` or `code`, or stands in a table of codes."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="code" | "error_code", value=ast.Constant(value=str(code))):
                yield code
            case ast.Assign(
                targets=[ast.Name(id="default_code" | "code")], value=ast.Constant(value=str(code))
            ):
                yield code
            case ast.Assign(targets=[ast.Name(id="ERROR_CODES")], value=ast.Dict(values=values)):
                yield from (ast.literal_eval(value) for value in values)
            case ast.Call(func=ast.Name(id="Outcome"), args=[_, _, ast.Constant(value=str(code)), *_]):
                yield code
            case ast.Tuple(elts=[ast.Constant() | ast.JoinedStr(), ast.Constant(value=str(code))]):
                if re.fullmatch(r"agent_[a-z_]+", code):
                    yield code
            case _:
                pass


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link in a document names a file that is there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_decision_has_a_number_of_its_own() -> None:
    """Its file's, its title's, and no other's."""
    files = sorted((ROOT / "docs/decisions").glob("*.md"))

    assert [file.name[:4] for file in files] == [f"{number:04}" for number in range(1, len(files) + 1)]
    assert [file.read_text().splitlines()[0][:8] for file in files] == [
        f"# {file.name[:4]}. " for file in files
    ]
