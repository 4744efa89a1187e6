"""The images of a prompt: what is taken for one, and what is refused without waiting for it."""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentsrv.errors import Forbidden, InvalidInput
from agentsrv.model import Image
from agentsrv.workspace.files import images
from agentsrv.workspace.files.images import InlineImage, read_images
from agentsrv.workspace.paths import Workspace
from tests.pictures import GIF, JPEG, PICTURES, PNG

MIB = 1024 * 1024


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base" / "proj").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(PNG)
    (tmp_path / "base" / "proj" / "red.png").write_bytes(PNG)
    return tmp_path / "base"


@pytest.fixture
def workspace(base: Path) -> Workspace:
    return Workspace(base, private=[base / "state"])


def base64(data: bytes) -> str:
    return b64encode(data).decode()


def image(media_type: str, data: bytes) -> Image:
    return Image(media_type, b64encode(data))


def refused(workspace: Workspace, *sources: str | InlineImage) -> tuple[str, str]:
    """(field, why) of the one thing that is wrong."""
    with pytest.raises(InvalidInput) as caught:
        read_images(workspace, sources)
    (problem,) = caught.value.problems
    assert caught.value.message == f"{problem.path}: {problem.message}"
    return problem.path, problem.message


def test_images_come_in_every_way(workspace: Workspace, base: Path) -> None:
    """By a path from the workspace on or an absolute one, in a data: URL, inline; in the order that was asked for."""
    (base / "link.txt").symlink_to("proj/red.png")
    found = read_images(
        workspace,
        [
            "proj/red.png",
            f"data:image/gif;base64,{base64(GIF)}",
            InlineImage(data=base64(JPEG), media_type="image/jpeg"),
            str(base / "proj/../link.txt"),
        ],
    )

    png = image("image/png", PNG)
    assert found == (png, image("image/gif", GIF), image("image/jpeg", JPEG), png)


@pytest.mark.parametrize(("media_type", "picture"), PICTURES.items())
def test_the_first_bytes_say_what_it_is(
    workspace: Workspace, base: Path, media_type: str, picture: bytes
) -> None:
    """Not the name of the file."""
    (base / "picture.bmp").write_bytes(picture)

    assert read_images(workspace, ["picture.bmp"]) == (image(media_type, picture),)


def test_a_data_url_may_say_more_than_it_must(workspace: Workspace) -> None:
    """Parameters and capitals are fine."""
    url = f"DATA:Image/PNG;charset=utf-8;BASE64,{base64(PNG)}"

    assert read_images(workspace, [url]) == (image("image/png", PNG),)


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG", b"<svg/>", b"BM" + bytes(60), b"RIFF....WAVE", b"root:x:0:0", b"%PDF-1.7"]
)
def test_what_is_no_image_is_refused(workspace: Workspace, base: Path, data: bytes) -> None:
    """Also when it says that it is one."""
    (base / "picture.png").write_bytes(data)
    inline = InlineImage(data=base64(data), media_type="image/png")
    reason = "is not a PNG, JPEG, GIF or WebP image"

    assert refused(workspace, "proj/red.png", "picture.png") == ("images.1", reason)
    assert refused(workspace, f"data:image/png;base64,{base64(data)}") == ("images.0", reason)
    assert refused(workspace, inline) == ("images.0.data", reason)


def test_an_image_is_what_it_is_said_to_be(workspace: Workspace) -> None:
    """The type that the request says must be that of the data."""
    url, inline = f"data:image/png;base64,{base64(GIF)}", InlineImage(base64(PNG), "image/jpg")

    assert refused(workspace, url) == ("images.0", "says image/png, but the image is image/gif")
    assert refused(workspace, inline)[0] == "images.0.mediaType"
    assert "says nothing" in refused(workspace, f"data:;base64,{base64(GIF)}")[1]


@pytest.mark.parametrize(
    "text", ["", "data:", "data:,", "data:image/png", "data:image/png,x", "data:base64,eA=="]
)
def test_a_data_url_is_base64(workspace: Workspace, text: str) -> None:
    """Of an image; nothing else is guessed at."""
    assert refused(workspace, text or "data:image/png;base64")[0] == "images.0"


@pytest.mark.parametrize("data", ["iVBORw0KGgo", "iVBO\nRw0KGgo=", "iVBORw0K!!!!", "é", "-_-_", "=" * 9])
def test_base64_is_exact(workspace: Workspace, data: str) -> None:
    """No missing padding, line breaks or other alphabets."""
    assert refused(workspace, InlineImage(data, "image/png"))[0] == "images.0.data"
    assert "is not base64" in refused(workspace, f"data:image/png;base64,{data}")[1]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "HTTPS://host/a.png",
        "file:///etc/passwd",
        "file:a.png",
        "ftp://x",
    ],
)
def test_nothing_is_fetched(workspace: Workspace, url: str) -> None:
    """A URL is refused, whatever it leads to; one that is none names a file that is not there."""
    assert refused(workspace, url)[0] == "images.0"


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/proc/self/environ", "../..", "../outside.png", "out.png", "up/outside.png", "state/x"],
)
def test_what_lies_outside_is_forbidden(workspace: Workspace, base: Path, path: str) -> None:
    """However it is spelled, and also where a link leads out."""
    (base / "out.png").symlink_to("../outside.png")
    (base / "up").symlink_to("..")
    with pytest.raises(Forbidden, match=r"^images\.0: .*(outside the workspace|to the server)"):
        read_images(workspace, [path])


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo, make_socket])
def test_what_is_no_file_is_refused_at_once(
    workspace: Workspace, base: Path, make: Callable[[Path], Any]
) -> None:
    """Missing, a directory, a pipe that nobody writes to, a socket: an answer that names it, and no waiting."""
    make(base / "picture.png")
    field, reason = refused(workspace, "picture.png")

    assert field == "images.0"
    assert "picture.png" in reason


@pytest.mark.parametrize("path", ["dev/zero", "proc/self/environ", "proc/kmsg", "proc/self/mem"])
def test_a_workspace_that_is_the_whole_machine_has_no_traps(path: str) -> None:
    """Devices and what the kernel makes up are no images, and are not waited for."""
    try:
        field, _ = refused(Workspace(Path("/")), path)
    except Forbidden:
        return  # Not root, or in a container.
    assert field == "images.0"


def test_an_image_has_a_limit(workspace: Workspace, base: Path) -> None:
    """Of 10 MiB, in a file and inline; the answer says so."""
    largest = PNG + bytes(images.MAX_IMAGE_BYTES - len(PNG))
    (base / "largest").write_bytes(largest)
    (base / "larger").write_bytes(largest + b"\0")
    too_large = "is larger than 10 MiB, which is the limit for an image"

    assert read_images(workspace, ["largest"]) == (image("image/png", largest),)
    assert refused(workspace, "larger") == ("images.0", too_large)
    assert refused(workspace, InlineImage(base64(largest + b"\0"), "image/png")) == (
        "images.0.data",
        too_large,
    )
    assert refused(workspace, "data:image/png;base64," + "A" * 14 * MIB) == ("images.0", too_large)


def test_all_images_together_have_a_limit(workspace: Workspace, base: Path) -> None:
    """Of 20 MiB."""
    (base / "large").write_bytes(PNG + bytes(images.MAX_IMAGE_BYTES - len(PNG)))

    assert len(read_images(workspace, ["large", "large"])) == 2
    field, reason = refused(workspace, "large", "large", "proj/red.png")
    assert (field, reason) == ("images", "have more than 20 MiB together; send fewer")


def test_an_endless_file_is_not_read_to_its_end(workspace: Workspace, base: Path) -> None:
    """A file of a terabyte costs no more than one that is just too large."""
    with (base / "huge").open("wb") as file:
        file.write(PNG)
        file.truncate(1 << 40)

    assert "larger than 10 MiB" in refused(workspace, "huge")[1]
