"""The confinement: which directories a session may work in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.errors import Forbidden, InvalidInput
from agentsrv.workspace.paths import Workspace


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base" / "workspaces").mkdir(parents=True)
    (tmp_path / "base" / "state" / "runners").mkdir(parents=True)
    (tmp_path / "base-2").mkdir()
    return tmp_path / "base"


@pytest.fixture
def workspace(base: Path) -> Workspace:
    return Workspace(base, private=(base / "state",))


def test_the_default_is_the_workspaces_directory(workspace: Workspace, base: Path) -> None:
    """Who names no directory works in `<base>/workspaces`."""
    assert workspace.directory(None) == base.resolve() / "workspaces"


@pytest.mark.parametrize(
    "text", ["workspaces", "./workspaces/.", "workspaces/../workspaces", "{base}/workspaces", "{base}"]
)
def test_directories_inside_may_be_used(workspace: Workspace, base: Path, text: str) -> None:
    """Relative to the base or absolute."""
    assert workspace.directory(text.format(base=base)).is_relative_to(base.resolve())


@pytest.mark.parametrize(
    "text", ["..", "../base-2", "/", "/etc", "{base}-2", "workspaces/../..", "workspaces/../../base-2"]
)
def test_what_lies_outside_is_forbidden(workspace: Workspace, base: Path, text: str) -> None:
    """Compared by components: a neighbour whose name begins alike is outside."""
    with pytest.raises(Forbidden, match="outside the workspace"):
        workspace.directory(text.format(base=base))


@pytest.mark.parametrize("text", ["state", "state/runners", "workspaces/../state", "link-to-state"])
def test_what_belongs_to_the_server_is_forbidden(workspace: Workspace, base: Path, text: str) -> None:
    """The server's own files are nobody's workspace, by any name."""
    (base / "link-to-state").symlink_to(base / "state")
    with pytest.raises(Forbidden, match="server itself"):
        workspace.directory(text)


def test_links_are_resolved_not_trusted(workspace: Workspace, base: Path) -> None:
    """A link out of the workspace leads out; one that stays inside is fine."""
    (base / "out").symlink_to("/etc")
    (base / "in").symlink_to("workspaces")

    assert workspace.directory("in") == base.resolve() / "workspaces"
    with pytest.raises(Forbidden):
        workspace.directory("out")


@pytest.mark.parametrize(
    "text", ["", "missing", "~", "a-file", "a\0b", "\ud800", "x" * 5000, "y" * 256, "loop", "workspaces\n"]
)
def test_what_is_no_directory_is_invalid(workspace: Workspace, base: Path, text: str) -> None:
    """The error names the field; nothing is created."""
    (base / "a-file").write_text("")
    (base / "loop").symlink_to("loop")
    before = sorted(base.iterdir())
    with pytest.raises(InvalidInput) as caught:
        workspace.directory(text, field="cwd")

    assert [problem.path for problem in caught.value.problems] == ["cwd"]
    assert sorted(base.iterdir()) == before


def test_a_database_in_the_base_does_not_close_the_workspace(base: Path) -> None:
    """DATABASE_PATH right in the base: the other directories stay usable."""
    assert Workspace(base, private=(base,)).directory("workspaces") == base.resolve() / "workspaces"


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["..", ".", "/", "workspaces", "state", "a\0", "~"])).map("/".join)
)
def test_no_text_leads_outside(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever is asked for, what comes back lies inside, or nothing comes back."""
    base = tmp_path_factory.getbasetemp() / "any-base"
    (base / "workspaces").mkdir(parents=True, exist_ok=True)
    try:
        found = Workspace(base).directory(text)
    except (Forbidden, InvalidInput):
        return
    assert found.is_dir()
    assert found.is_relative_to(base.resolve())
