"""The confinement at the moment of use: what is opened, what is written to, and what swaps in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.errors import AgentsrvError, Conflict, Forbidden, InvalidInput, NotFound
from agentsrv.workspace.paths import PROTECTED_NAMES, Workspace, displayed, file_uri, is_text


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("base/proj/src", "base/state", "home", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text("secret")
    return tmp_path / "base"


@pytest.fixture
def workspace(base: Path) -> Workspace:
    return Workspace(
        base,
        private=[base / "state"],
        private_files=[base / "proj/agent.db", base / ".env"],
        home=base,
    )


def make_chain(directory: Path, length: int = 2000) -> None:
    """Links `0`, `1`, ... each of which leads to the next."""
    for number in range(length):
        (directory / str(number)).symlink_to(str(number + 1))


@pytest.mark.parametrize("text", ["", "~", "/", ".", "~/", "~//", "proj/.."])
def test_the_workspace_itself_has_many_names(workspace: Workspace, base: Path, text: str) -> None:
    """What earlier clients send for it all means the same directory."""
    assert workspace.resolve(text) == str(base)


@pytest.mark.parametrize(
    "text", ["..", "/../base2", "~/..", "~/../base2", "a/../../..", "/etc", "file:///etc/passwd", "file:///"]
)
def test_what_lies_outside_is_forbidden(workspace: Workspace, text: str) -> None:
    """However it is spelled."""
    with pytest.raises(Forbidden, match="outside the workspace"):
        workspace.resolve(text)


@pytest.mark.parametrize("text", ["....//", "..%2f", "..\\", "~root", "file:relative", "a\nb", "$(id)"])
def test_odd_names_are_names(workspace: Workspace, base: Path, text: str) -> None:
    """They lead to nothing else than to what has this name, in the workspace."""
    assert workspace.resolve(text) == str(base / text)


@pytest.mark.parametrize("text", ["file:///a%00b", "a\0", "\udcff", "x" * 5000, "file:///" + "%41" * 5000])
def test_what_cannot_be_a_path_is_invalid(workspace: Workspace, text: str) -> None:
    """NUL, lone surrogates, too long; the field is named."""
    with pytest.raises(InvalidInput) as caught:
        workspace.resolve(text, field="from")

    assert [problem.path for problem in caught.value.problems] == ["from"]


def test_a_chain_of_links_has_an_end(workspace: Workspace, base: Path) -> None:
    """A repository may bring thousands of links, each leading to the next: the path is refused."""
    make_chain(base / "proj")

    with pytest.raises(InvalidInput, match="symbolic links"):
        workspace.resolve("proj/0/x")


@given(st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, 0x2F}))
def test_every_name_survives_the_round_trip(name: bytes) -> None:
    """As text where it is UTF-8, else as a URI; what is shown can always be written in JSON."""
    workspace = Workspace(Path("/nowhere-at-all"))
    path = f"/nowhere-at-all/{name.decode('utf-8', 'surrogateescape')}"
    if name in (b".", b".."):
        return

    assert workspace.resolve(file_uri(path)) == path
    assert displayed(path).encode().decode() == displayed(path)
    assert is_text(path) == (displayed(path) == path)


@pytest.mark.parametrize(
    "text", ["state", "state/x", "proj/agent.db", "proj/agent.db-wal", "proj/agent.db.legacy-1.bak", ".env"]
)
def test_the_servers_own_files_are_not_there(workspace: Workspace, text: str) -> None:
    """State, database with its journal and copies, and settings."""
    with pytest.raises(Forbidden, match="server itself"):
        workspace.resolve(text)


def test_neighbours_of_the_servers_files_are_fine(workspace: Workspace, base: Path) -> None:
    """Only what belongs to it is kept away."""
    assert workspace.resolve("proj/agent.dbx") == str(base / "proj/agent.dbx")


PROTECTED = [
    *(f"proj/{name}" for name in sorted(PROTECTED_NAMES)),
    ".git/config",
    "proj/.git/hooks/pre-commit",
    "proj/.GIT/config",
    ".ssh/authorized_keys",
    ".config/autostart/x.desktop",
    "bare.git/hooks/update",
]


@pytest.mark.parametrize("text", PROTECTED)
def test_what_would_run_later_is_not_written(workspace: Workspace, base: Path, text: str) -> None:
    """Git's internals, keys, what shells and desktops start."""
    for name in ("objects", "refs", "hooks"):
        (base / "bare.git" / name).mkdir(parents=True)
    (base / "bare.git/HEAD").write_text("ref: refs/heads/main\n")
    path = str(base / text)
    with pytest.raises(Forbidden) as caught:
        workspace.require_writable(path)

    assert caught.value.code == "protected_path"


@pytest.mark.parametrize(
    "text",
    [
        "proj/.github/workflows/ci.yml",
        "proj/.gitignore",
        "proj/.env",
        "git",
        "x.git",
        ".worktrees/proj/s/.env",
    ],
)
def test_ordinary_files_are_written(workspace: Workspace, base: Path, text: str) -> None:
    """A dot in front is no reason, outside of the home directory."""
    workspace.require_writable(str(base / text))


def test_a_link_is_the_thing_itself_where_it_is_removed(workspace: Workspace, base: Path) -> None:
    """Not what it leads to, which may lie outside."""
    (base / "link").symlink_to(base.parent / "outside")
    with workspace.open_place("link") as place:
        assert (place.path, place.name) == (str(base / "link"), "link")


@pytest.mark.parametrize("text", ["", "/", "proj/..", "proj/.", "."])
def test_a_place_has_a_name(workspace: Workspace, text: str) -> None:
    """The workspace itself, and what `..` leads to, cannot be removed or replaced."""
    with pytest.raises((Forbidden, InvalidInput)), workspace.open_place(text):
        pass


def test_nothing_but_files_is_opened(workspace: Workspace, base: Path) -> None:
    """A pipe does not hang, a directory is no file."""
    os.mkfifo(base / "pipe")
    for name in ("pipe", "proj"):
        with pytest.raises(InvalidInput, match="not a file"):
            workspace.open_file(str(base / name))
    with pytest.raises(NotFound):
        workspace.open_file(str(base / "missing"))


def test_a_directory_that_becomes_a_link_is_noticed(workspace: Workspace, base: Path) -> None:
    """Between the check and the opening somebody puts a link in its place, anywhere on the way."""
    inner = workspace.resolve("proj/src")
    file = workspace.resolve("proj/src/secret")
    os.rename(base / "proj", base / "old")
    (base.parent / "outside" / "src").mkdir()
    (base.parent / "outside" / "src" / "secret").write_text("secret")
    (base / "proj").symlink_to(base.parent / "outside")

    with pytest.raises(Conflict) as directory, workspace.open_directory(inner):
        pass
    with pytest.raises(Conflict) as opened:
        workspace.open_file(file)
    with pytest.raises(AgentsrvError), workspace.make_directories(f"{inner}/new", []):
        pass

    assert (directory.value.code, opened.value.code) == ("moved", "moved")
    assert not (base.parent / "outside" / "src" / "new").exists()


@pytest.fixture
def swapping(base: Path) -> Iterator[None]:
    """Somebody who exchanges a directory and a link out of the workspace, as fast as they can."""
    over = threading.Event()
    real, link, spare = base / "swap", base / "swap-link", base / "swap-spare"
    real.mkdir()
    (real / "file").write_text("inside")
    (base.parent / "outside" / "file").write_text("secret")
    link.symlink_to(base.parent / "outside")

    def swap() -> None:
        while not over.is_set():
            for source, target in ((real, spare), (link, real), (real, link), (spare, real)):
                os.rename(source, target)

    thread = threading.Thread(target=swap)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("swapping")
def test_a_race_gains_nothing(workspace: Workspace, base: Path) -> None:
    """A thousand tries: what is read comes from inside, and what is made is made inside."""
    seen = set()
    for number in range(1000):
        try:
            descriptor = workspace.open_file(workspace.resolve("swap/file"))
            seen.add(os.read(descriptor, 100))
            os.close(descriptor)
            with workspace.open_place(f"swap/made-{number}") as place:
                os.mkdir(place.name, dir_fd=place.directory)
        except AgentsrvError:
            continue

    assert seen <= {b"inside"}
    assert sorted(os.listdir(base.parent / "outside")) == ["file", "secret"]


def test_a_link_to_what_is_protected_is_protected(base: Path) -> None:
    """Who takes away or replaces `.env` or the state directory, which are links, takes the thing itself."""
    (base.parent / "elsewhere").mkdir()
    (base / "state").rmdir()
    (base / "state").symlink_to(base.parent / "elsewhere")
    (base.parent / "secrets").write_text("API_KEY=x")
    (base / ".env").symlink_to(base.parent / "secrets")
    workspace = Workspace(base, private=[base / "state"], private_files=[base / ".env"])

    for name in ("state", ".env"):
        with pytest.raises(Forbidden), workspace.open_place(name):
            pass


@pytest.mark.parametrize(
    ("last", "others"),
    [
        ("HEAD", ("objects/x", "refs/x")),
        ("objects/x", ("HEAD", "refs/x")),
        ("refs/x", ("HEAD", "objects/x")),
        ("HEAD", ("commondir",)),
        ("commondir", ("HEAD",)),
    ],
)
def test_what_would_complete_a_git_directory_is_not_written(
    base: Path, last: str, others: tuple[str, ...]
) -> None:
    """In whatever order: git would take its hooks and its settings, from elsewhere with a `commondir`."""
    (base / "bare").mkdir()
    for name in others:
        (base / "bare" / name).parent.mkdir(exist_ok=True)
        (base / "bare" / name).touch()

    with pytest.raises(Forbidden):
        Workspace(base).require_writable(str(base / "bare" / last))
    Workspace(base).require_writable(str(base / "bare/other"))
