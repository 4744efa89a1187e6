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
