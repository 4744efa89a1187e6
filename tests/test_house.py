"""How the project is built: what ships, what is pinned, what modules may know."""

from __future__ import annotations

import ast
import graphlib
import re
import statistics
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import grimp
import pytest

import agentsrv
from tests.wheel import build_wheel

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SOURCES = sorted((ROOT / "agentsrv").rglob("*.py"))
SECRET = re.compile(r"(?:^|_)(?:secret|token|ticket|password|signature|api_key)s?$")
"""How a variable is called that holds something with which a stranger could come in."""


BY_VALUE = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("dist")))


def test_the_wheel_is_complete(wheel: zipfile.ZipFile) -> None:
    """Who installs the wheel gets migrations, types and every module."""
    shipped = set(wheel.namelist())
    migrations = {f"agentsrv/_migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")}
    modules = {str(path.relative_to(ROOT)) for path in SOURCES}
    console = {f"agentsrv/console/{path.name}" for path in (ROOT / "agentsrv" / "console").iterdir()}

    assert migrations
    assert console
    assert migrations | modules | console | {"agentsrv/py.typed"} <= shipped


def test_the_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests, no local files."""
    assert {name.split("/")[0] for name in wheel.namelist()} == {
        "agentsrv",
        f"agentsrv-{agentsrv.__version__}.dist-info",
    }


def test_the_public_surface_is_what_it_says() -> None:
    """`from agentsrv import ...` gives all that `__all__` promises, and unknown names are an error."""
    assert all(getattr(agentsrv, name) for name in agentsrv.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = agentsrv.no_such_name


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_pin_by_hash_and_name_no_registry(lock: Path) -> None:
    """Anyone can install the same files from any mirror."""
    content = lock.read_text()
    entries = re.split(r"\n(?=\S)", content.strip())

    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
    assert re.findall(r"https?://|--index|--find-links|@ ", content) == []


def test_locks_cover_what_the_project_asks_for() -> None:
    """A dependency that is added without `make lock` is noticed."""
    wanted = {
        "run.txt": PROJECT["dependencies"],
        "dev.txt": [*PROJECT["dependencies"], *extra("test"), *extra("dev")],
        "agents.txt": extra("agents"),
    }

    missing = {
        (lock, need) for lock, needs in wanted.items() for need in needs if name_of(need) not in pinned(lock)
    }
    assert missing == set()


def test_tests_run_with_the_versions_that_run() -> None:
    """The development lock has every package of the server in the same version."""
    assert pinned("run.txt").items() - pinned("dev.txt").items() == set()


def extra(name: str) -> list[str]:
    return [need for need in PROJECT["optional-dependencies"][name] if not need.startswith("agentsrv[")]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=~!\[ ;]", requirement)[0]


def pinned(lock: str) -> dict[str, str]:
    return dict(
        re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE)
    )


def test_the_runner_needs_nothing_but_python() -> None:
    """The zygote starts in milliseconds and never breaks with a dependency."""
    child = ROOT / "agentsrv/runner/child"
    loaded = "import sys; sys.argv[0] = __file__; print(*sys.modules)"
    program = (child / "__main__.py").read_text().replace("main()", loaded)
    argv = [sys.executable, "-I", "-S", "-c", f"__file__ = {str(child / '__main__.py')!r}\n{program}"]
    modules = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    ours = {name for name in modules if name.startswith("agentsrv")}

    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names == {"agentsrv", "__main__"}
    assert ours - {name for name in ours if name.startswith("agentsrv.runner.child")} == {
        "agentsrv", "agentsrv.linux", "agentsrv.runner",
    }  # fmt: skip


def test_a_protocol_is_a_view_and_no_server_of_its_own() -> None:
    """What speaks it fits into small files. That these know services and projections alone `lint-imports` sees."""
    lengths = {path.name: path.read_text().count("\n") for path in (ROOT / "agentsrv/faces").glob("*.py")}

    assert {name: length for name, length in lengths.items() if length >= 400} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_have_no_state(path: Path) -> None:
    """Two applications in one process share nothing: no `global`, no container waiting to be filled."""
    tree = ast.parse(path.read_text())
    globals_ = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)]
    containers = [node.lineno for node in tree.body if is_empty_container(node)]

    assert globals_ + containers == []


def test_functions_are_small() -> None:
    """Who reads a function sees it whole: half of them have at most 8 lines, nine of ten at most 20."""
    lengths = sorted(length(function) for path in SOURCES for function in functions(path))

    assert statistics.median(lengths) <= 8
    assert lengths[len(lengths) * 9 // 10] <= 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_have_one_subject(path: Path) -> None:
    """No file is so long that it must have two subjects, no object needs more than eight others."""
    wide = [f.lineno for f in functions(path) if f.name == "__init__" and parameters(f) > 8]

    assert path.read_text().count("\n") <= 500
    assert wide == []


def test_modules_import_in_no_circle() -> None:
    """Each can be read after those that it builds on; this goes for types, too."""
    graph = grimp.build_graph("agentsrv", exclude_type_checking_imports=False)
    # The root imports nothing when it is imported: it hands out names when they are asked for.
    modules = graph.modules - {"agentsrv"}
    imports = {module: graph.find_modules_directly_imported_by(module) for module in modules}

    graphlib.TopologicalSorter(imports).prepare()


def test_secrets_are_compared_in_constant_time() -> None:
    """`hmac.compare_digest`, never `==` or `in`, which tell by their time how much of a guess was right."""
    found = [(path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]

    assert [] == [(str(path), ast.unparse(node)) for path, node in found if tells_by_its_time(node)]


@pytest.mark.parametrize(
    ("code", "is_told"),
    [
        ("given == secret", True),
        ("self._secret != given", True),
        ("token in own", True),
        ("any(token == key for key in own)", True),
        ("given == request.app[HOP_SECRET]", True),
        ("hmac.compare_digest(given, secret)", False),
        ("len(tokens) == 1", False),
        ("token is None", False),
        ("TICKET in request.query", False),
    ],
)
def test_comparison_of_a_secret_is_known(code: str, is_told: bool) -> None:
    """The rule above sees what it is to see."""
    assert is_told == any(tells_by_its_time(one) for one in ast.walk(ast.parse(code)))


def test_one_place_says_who_is_a_server_of_the_fleet() -> None:
    """The header with the fleet's secret is read where it is compared, and nowhere else."""
    readers = {
        (str(path.relative_to(ROOT)), function.name, "hmac.compare_digest" in ast.unparse(function))
        for path in SOURCES
        for function in functions(path)
        if any(is_looked_up(node, "HOP") for node in ast.walk(function))
    }

    assert {("agentsrv/api/hop.py", "is_hop", True)} == readers


def test_only_a_fleet_knows_redis() -> None:
    """No module but those of `fleet` imports it."""
    knowing = {path.parent.name for path in SOURCES if "redis" in imported(ast.parse(path.read_text()))}

    assert {"fleet"} == knowing


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.walk(ast.parse(path.read_text()))
    return [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without `self`."""
    return len(function.args.args) + len(function.args.kwonlyargs) - 1


def is_empty_container(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return value is not None and ast.unparse(value) in {"[]", "{}", "set()", "list()", "dict()"}


def tells_by_its_time(node: ast.AST) -> bool:
    """Is it a comparison of a secret, byte by byte until one differs?"""
    if not isinstance(node, ast.Compare) or not any(isinstance(op, BY_VALUE) for op in node.ops):
        return False
    return any(SECRET.search(name_of_value(side)) for side in (node.left, *node.comparators))


def name_of_value(node: ast.expr) -> str:
    """How it is called, or what it is looked up by; empty where it has no name. Capitals are names of keys."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Name(id=key) | ast.Attribute(attr=key)):
            return key.lower()
        case _:
            return ""


def is_looked_up(node: ast.AST, key: str) -> bool:
    """`headers[key]`, `headers.get(key)` and the like."""
    match node:
        case ast.Subscript(slice=found, ctx=ast.Load()):
            return name_of_value(found) == key
        case ast.Call(func=ast.Attribute(attr="get" | "getone" | "getall" | "pop"), args=[found, *_]):
            return name_of_value(found) == key
        case _:
            return False


def imported(tree: ast.Module) -> set[str]:
    """The top-level packages that a module imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_the_command_line_starts_without_the_http_stack() -> None:
    """`--version` and `token` answer at once."""
    modules = "'aiohttp', 'sqlite3', 'yoyo', 'redis', 'asyncio'"
    code = f"import sys, agentsrv.__main__; print([m for m in ({modules}) if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert answer.stdout == "[]\n"


def test_documents_and_code_name_no_machine() -> None:
    """Nothing in the project points at one developer's directories."""
    found = [path for path in SOURCES if re.search(r"/(?:root|home/[a-z]+|Users)/", path.read_text())]

    assert found == []
