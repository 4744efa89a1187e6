"""Finding by name and by content."""

from __future__ import annotations

import asyncio
import os
import shutil
import string
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.threads import Pool
from agentsrv.workspace.files.grep import MAX_FILE_BYTES, MAX_SHOWN, Grep, LineMatch
from agentsrv.workspace.files.search import NameSearch, find_at_word, words_in
from agentsrv.workspace.files.walk import Walk
from agentsrv.workspace.paths import Workspace

RIPGREP = shutil.which("rg")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    return base


def make(base: Path, *paths: str, content: str = "") -> None:
    for path in paths:
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(content)


def walk(
    base: Path, root: str = ".", *, include_ignored: bool = False, private: tuple[Path, ...] = ()
) -> Walk:
    workspace = Workspace(base, private=private)
    return Walk(
        workspace=workspace,
        root=workspace.resolve(root),
        max_depth=10,
        include_ignored=include_ignored,
        deadline=time.monotonic() + 60,
    )


def found(
    base: Path, text: str, *, limit: int = 100, include_files: bool = True, root: str = "."
) -> list[str]:
    search = NameSearch(walk(base, root), text, include_files=include_files, limit=limit)
    return [entry.path for entry in search.entries()]


def test_words_occur_in_their_order_in_any_case(base: Path) -> None:
    """Over directories and name, anything between them."""
    make(base, "App/models/User.py", "app/user/models.py", "docs/userguide.md")

    assert ["App/models/User.py"] == found(base, "MODEL user")
    assert ["app/user/models.py"] == found(base, "user/model")
    assert ["App/models/User.py", "app/user/models.py"] == found(base, "app .py")


def test_the_best_come_first(base: Path) -> None:
    """The name itself, its beginning, beginnings of its words, anywhere in it, partly, only above it."""
    make(base, "x/y/user", "user_list", "list_user", "superuser", "user_dir/other")

    assert ["x/y/user", "user_dir", "user_list", "list_user", "superuser", "user_dir/other"] == found(
        base, "user"
    )


def test_what_is_nearer_is_better(base: Path) -> None:
    """Among matches of one kind."""
    make(base, "a/b/main.py", "c/main.py", "main.py", "c/main.py.bak")

    assert ["main.py", "c/main.py", "a/b/main.py", "c/main.py.bak"] == found(base, "main.py")


@pytest.mark.parametrize(
    "text",
    ["(", ".*", "(a+)+$", "[", "\\", "-x rm", "--exec=touch CANARY", "$(touch CANARY)", "`id`", "%00", "*"],
)
def test_text_is_only_text(base: Path, text: str) -> None:
    """No pattern, no option, no command."""
    make(base, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "plain")
    wanted = f"x{text}y".replace("/", "")
    make(base, wanted)

    assert [wanted] in (found(base, text), found(base, text)[:1])
    assert not Path("CANARY").exists()


def test_only_below_the_root(base: Path) -> None:
    """What the root itself is called does not count."""
    make(base, "app/a.txt", "app/sub/app.txt", "other/app.txt")

    assert ["app/sub/app.txt"] == found(base, "app", root="app")


def test_ignored_folders_and_files_are_asked_for(base: Path) -> None:
    """By default directories alone, and nothing of node_modules but its name."""
    make(base, "node_modules/lib/index.js", "src/lib/x.js")

    assert ["src/lib"] == found(base, "lib", include_files=False)
    assert ["src/lib", "src/lib/x.js"] == found(base, "lib")


def test_a_limit_keeps_the_best(base: Path) -> None:
    """However many there are, and it says that there are more."""
    make(base, *(f"d{n // 100}/item-{n:05}" for n in range(3000)), "z/z/z/item")
    search = NameSearch(walk(base), "item", include_files=True, limit=3)
    entries = search.entries()

    assert ["z/z/z/item", "d0/item-00000", "d0/item-00001"] == [entry.path for entry in entries]
    assert search.is_truncated
    assert entries[0].size == 0


names = st.text(string.ascii_lowercase[:3] + "._-", min_size=1, max_size=8).filter(
    lambda name: name.strip(".")
)


@given(
    st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=12), st.text("abc .", max_size=6)
)
def test_it_finds_what_a_simple_search_finds(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], text: str
) -> None:
    """Compared with a look at every path, for any tree."""
    base = tmp_path_factory.mktemp("tree")
    for path in paths:
        if not any((base / parent).is_file() for parent in Path(path).parents) and not (base / path).exists():
            make(base, path)
    below = [str(path.relative_to(base)) for path in base.rglob("*")]
    words = text.split()

    assert sorted(found(base, text)) == sorted(path for path in below if words_in(words, path) == len(words))


@given(st.text("ab-", max_size=12), st.text("ab", min_size=1, max_size=3), st.integers(0, 5))
def test_words_begin_where_no_letter_is_before(text: str, word: str, position: int) -> None:
    """The same as asking at every position."""
    starts = [
        at
        for at in range(position, len(text))
        if text.startswith(word, at) and (at == 0 or not text[at - 1].isalnum())
    ]

    assert find_at_word(text, word, position) == (starts[0] if starts else -1)


ENGINES = [
    pytest.param(None, id="own"),
    pytest.param(RIPGREP or "rg", id="ripgrep", marks=pytest.mark.tools),
]


async def lines(disk: Pool, engine: str | None, base: Path, text: str, **options: bool) -> list[LineMatch]:
    private = (base / "state",)
    include_ignored = options.pop("include_ignored", False)
    grep = Grep(
        walk(base, include_ignored=include_ignored, private=private),
        text,
        ignore_case=options.get("ignore_case", True),
        limit=100,
    )
    return await grep.matches(disk, engine)


@pytest.mark.parametrize("engine", ENGINES)
async def test_lines_are_found_with_their_place(base: Path, disk: Pool, engine: str | None) -> None:
    """Path, line and column in characters, by path and line."""
    make(base, "b.txt", content="nothing\n")
    make(base, "a/x.txt", content="one\nzwölf Wörter\r\nWÖRTER zwölf")
    found = [(m.path, m.line, m.column, m.text) for m in await lines(disk, engine, base, "wörter")]

    assert [("a/x.txt", 2, 7, "zwölf Wörter"), ("a/x.txt", 3, 1, "WÖRTER zwölf")] == found
    assert 1 == len(await lines(disk, engine, base, "Wörter", ignore_case=False))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("text", ["(a+)+$", ".*", "--pre=touch CANARY", "-e", "\\n", "$(id)", "[", "\\"])
async def test_contents_are_searched_for_text(base: Path, disk: Pool, engine: str | None, text: str) -> None:
    """No pattern, no option, no command, and it takes no time."""
    make(base, "a", content="a" * 5000 + "b\n" + f"x{text}y")

    assert [2] == [match.line for match in await lines(disk, engine, base, text)]
    assert not (base / "CANARY").exists()


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_is_not_searched(base: Path, disk: Pool, engine: str | None) -> None:
    """Binary and huge files, ignored folders, links, pipes, and what belongs to the server."""
    make(base, "node_modules/a", ".git/b", "state/c", "ok", content="needle")
    (base / "binary").write_bytes(b"needle\0needle")
    (base / "huge").write_bytes(b"needle\n" + b"x" * MAX_FILE_BYTES)
    (base / "link").symlink_to("ok")
    os.mkfifo(base / "pipe")

    assert ["ok"] == [match.path for match in await lines(disk, engine, base, "needle")]
    assert [".git/b", "node_modules/a", "ok"] == [
        match.path for match in await lines(disk, engine, base, "needle", include_ignored=True)
    ]


@pytest.mark.parametrize("engine", ENGINES)
async def test_odd_contents_and_names(base: Path, disk: Pool, engine: str | None) -> None:
    """What is not UTF-8 is shown as well as can be; of a long line the part with the match."""
    (base / "latin").write_bytes(b"caf\xe9 needle\n")
    (Path(os.fsdecode(os.fsencode(base) + b"/\xff"))).write_text("x" * 5000 + "needle" + "y" * 5000)
    odd, plain = sorted(await lines(disk, engine, base, "needle"), key=lambda match: match.path != "\ufffd")

    assert (plain.text, plain.column) == ("caf\ufffd needle", 6)
    assert (odd.path, odd.uri, odd.column) == ("\ufffd", f"file://{base}/%FF", 5001)
    assert len(odd.text) == MAX_SHOWN
    assert "needle" in odd.text


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_search_in_contents_is_bounded(base: Path, disk: Pool, engine: str | None) -> None:
    """In lines and in time; it says so."""
    make(base, "many", content="needle\n" * 500)
    few = Grep(walk(base), "needle", ignore_case=False, limit=10)
    over = walk(base)
    over.deadline = time.monotonic() - 1
    late = Grep(over, "needle", ignore_case=False, limit=10)

    assert (10, True) == (len(await few.matches(disk, engine)), few.is_truncated)
    assert ([], True) == (await late.matches(disk, engine), late.is_truncated)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_file_of_nothing_but_matches_is_bounded(base: Path, disk: Pool, engine: str | None) -> None:
    """Five million lines that match: the first ones, in no time and no memory."""
    (base / "bomb").write_bytes(b"a\n" * (MAX_FILE_BYTES // 2))
    grep = Grep(walk(base), "a", ignore_case=False, limit=10)
    tracemalloc.start()
    found = await grep.matches(disk, engine)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert ([*range(1, 11)], True) == ([match.line for match in found], grep.is_truncated)
    assert peak_bytes < 5 * MAX_FILE_BYTES


async def test_a_line_that_is_searched_too_long_is_left(base: Path, disk: Pool) -> None:
    """Time runs also within a file."""
    (base / "many").write_bytes(b"x\n" * (MAX_FILE_BYTES // 2 - 10) + b"needle")
    late = Grep(walk(base), "needle", ignore_case=False, limit=10)
    late._walk.deadline = time.monotonic() + 0.1

    assert ([], True) == (await late.matches(disk, None), late.is_truncated)


@pytest.mark.tools
async def test_a_line_of_nothing_but_matches_holds_up_nobody(base: Path, disk: Pool) -> None:
    """Ripgrep tells each of ten million matches in one line: it is ended, and that not all was found is said."""
    (base / "bomb").write_bytes(b"a" * MAX_FILE_BYTES)
    grep = Grep(walk(base), "a", ignore_case=False, limit=10)
    tracemalloc.start()
    assert [] == await grep.matches(disk, RIPGREP or "rg")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert grep.is_truncated
    assert peak_bytes < 5 * MAX_FILE_BYTES


async def test_a_line_of_near_matches_is_given_up_in_time(base: Path, disk: Pool) -> None:
    """Case or not, with ripgrep or without: what takes the product of two lengths does not hold up the loop."""
    (base / "line").write_bytes(b"a" * (MAX_FILE_BYTES - 1))
    grep = Grep(walk(base), "a" * 900 + "b", ignore_case=True, limit=10)
    grep._walk.deadline = time.monotonic() + 0.5
    (base / "line").write_bytes(b"A" * 5_000_000 + b"b" + b"a" * 5_000_000)
    longest, last = 0.0, time.process_time()  # What other programs take of the machine does not count.
    searching = asyncio.ensure_future(grep.matches(disk, None))  # noqa: TID251
    while not searching.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.process_time() - last), time.process_time()

    assert longest < 0.5
    assert grep.is_truncated or len(await searching) == 1


def test_a_directory_of_many_names_is_searched_in_time(base: Path) -> None:
    """Tens of thousands that all match: what was found until then, and that there is more."""
    (base / "many").mkdir()
    for number in range(30_000):
        (base / f"many/name {number}").touch()
    late = walk(base)
    late.deadline = time.monotonic() + 0.15
    search = NameSearch(late, "n a m e", include_files=True, limit=200)
    began = time.monotonic()
    found = search.entries()

    assert time.monotonic() - began < 2
    assert search.is_truncated
    assert len(found) <= 200
