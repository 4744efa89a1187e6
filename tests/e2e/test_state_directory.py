"""What a start makes of a state directory in which somebody else has put things in the places of ours."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit import Server

ROOMS = ("runners", "terminals", "uploads")
LINKS: dict[str, Callable[[Path], str]] = {
    "link": lambda place: f"{place.parent.parent}/elsewhere",
    "dangling": lambda place: f"{place.parent.parent}/nowhere",
    "loop": lambda place: place.name,
}


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Somebody's data, in directories and files whose names are as ours."""
    for path in ("0" * 32 + "/out", "0" * 32 + "/exit", "upload-1", "data/out"):
        (tmp_path / "server/elsewhere" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "server/elsewhere" / path).write_text("precious")
    (tmp_path / "server/state").mkdir(mode=0o700)
    return tmp_path / "server/elsewhere"


def tree(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


@pytest.mark.parametrize("name", ["state", *(f"state/{room}" for room in ROOMS)])
@pytest.mark.parametrize("kind", LINKS)
def test_a_link_in_place_of_a_directory_of_ours_ends_the_start(
    precious: Path, fake_agent: Path, name: str, kind: str
) -> None:
    """In one line that says which; where it leads to nothing is removed, and nothing is made."""
    server, before = Server(precious.parent, fake_agent), tree(precious)
    place = precious.parent / name
    if place.exists():
        place.rmdir()
    place.symlink_to(LINKS[kind](place))
    with pytest.raises(AssertionError, match="not ready"):
        server.start()
    server.close()

    assert (before, False) == (tree(precious), (precious.parent / "nowhere").exists())
    assert f"{place} is a link" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_what_is_no_directory_does_not_end_the_start(precious: Path, fake_agent: Path, kind: str) -> None:
    """All of them at once: the server moves them aside, works, and says each once."""
    server = Server(precious.parent, fake_agent)
    for room in ROOMS:
        place = precious.parent / "state" / room
        match kind:
            case "pipe":
                os.mkfifo(place)
            case "socket":
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(place))
            case _:
                place.write_text("mine")
    server.start()
    try:
        assert server.generate("hi").rest()[-1].json["status"] == "completed"
        assert [1] * 3 == [server.log.count(f"{room} was not a directory") for room in ROOMS]
        assert [1] * 3 == [len(list((precious.parent / "state").glob(f"{room}.*"))) for room in ROOMS]
    finally:
        server.close()


FILES = (
    "server.lock",
    "agentsrv.db-wal",
    "agentsrv.db-shm",
    "agentsrv.db-journal",
    "agentsrv.db.migrate.lock",
)
NO_FILES: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda place, data: place.symlink_to(data),
    "dangling": lambda place, data: place.symlink_to(data.with_name("nowhere")),
    "pipe": lambda place, _: os.mkfifo(place),
    "directory": lambda place, _: place.mkdir(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_in_place_of_one_ends_the_start(
    precious: Path, fake_agent: Path, name: str, kind: str
) -> None:
    """In one line that says which, and at once: nothing is waited for, written to, or made elsewhere."""
    server, data = Server(precious.parent, fake_agent), precious / "data/out"
    NO_FILES[kind](precious.parent / "state" / name, data)
    before = tree(precious)
    with pytest.raises(AssertionError, match="not ready"):
        server.start()
    code = server.ended()
    server.close()

    assert (78, "precious", before) == (code, data.read_text(), tree(precious))
    assert f"state/{name} is " in server.log
    assert "Traceback" not in server.log
