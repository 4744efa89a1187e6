"""The images of a prompt: out of a file of the workspace, a `data:` URL or the request itself.

What an image is follows from its first bytes, whatever its name or its sender says. Nothing is fetched from
anywhere. Blocking functions, for threads.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from agentsrv.errors import Forbidden, InvalidInput, NotFound, Problem
from agentsrv.model import Image
from agentsrv.workspace.paths import Workspace

S = TypeVar("S", str, bytes)

MIB = 1024 * 1024
PIECE = 3 * 256 * 1024
MAX_IMAGES = 20
MAX_IMAGE_BYTES = 10 * MIB
MAX_TOTAL_BYTES = 20 * MIB

SIGNATURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
"""What files of the types that every agent takes begin with."""

URL = re.compile(r"[a-z][a-z0-9+.-]*://|file:|data:", re.IGNORECASE)


class InlineImage(Struct, frozen=True, rename="camel"):
    """An image that the request brings along. `data` is base64."""

    data: str
    media_type: str


def read_images(workspace: Workspace, sources: Sequence[str | InlineImage]) -> tuple[Image, ...]:
    """The images that `sources` name, in their order; a text is a path or a `data:` URL.

    Raises Forbidden (`outside_workspace`, `permission_denied`), and InvalidInput that names `images.N` for
    whatever is not a PNG, JPEG, GIF or WebP within the limits. It waits for nothing but the disk.
    """
    if len(sources) > MAX_IMAGES:
        raise _invalid("images", f"are more than {MAX_IMAGES}; send fewer")
    images: list[Image] = []
    left = MAX_TOTAL_BYTES
    for number, source in enumerate(sources):
        media_type, data = _read(workspace, source, f"images.{number}")
        left -= len(data)
        if left < 0:
            raise _invalid("images", f"have more than {MAX_TOTAL_BYTES // MIB} MiB together; send fewer")
        images.append(Image(media_type, b"".join(map(base64.b64encode, _pieces(data)))))
    return tuple(images)


def _read(workspace: Workspace, source: str | InlineImage, field: str) -> tuple[str, bytes]:
    """The type of an image, and its file."""
    if isinstance(source, InlineImage):
        image = _image(_decoded(source.data, f"{field}.data"), f"{field}.data")
        return _as_declared(image, source.media_type, f"{field}.mediaType")
    scheme = URL.match(source)
    if scheme is None:
        return _image(_read_file(workspace, source, field), field)
    if scheme[0].lower() != "data:":
        raise _invalid(
            field, "nothing is fetched from URLs; give a path in the workspace or the image itself"
        )
    head, _, text = source[len(scheme[0]) :].partition(",")
    media_type, *parameters = head.lower().split(";")
    if parameters[-1:] != ["base64"]:
        raise _invalid(field, "must be a path, or data:image/...;base64,...")
    return _as_declared(_image(_decoded(text, field), field), media_type, field)


def _read_file(workspace: Workspace, text: str, field: str) -> bytes:
    try:
        descriptor = workspace.open_file(workspace.resolve(text, field=field), field=field)
    except NotFound as exc:
        raise _invalid(field, f"{exc.message}; relative paths begin at the top of the workspace") from exc
    except InvalidInput as exc:
        raise _invalid(field, exc.message.removeprefix(f"{field}: ")) from exc
    except Forbidden as exc:
        problem = Problem(field, exc.message)
        raise Forbidden(f"{field}: {exc.message}", code=exc.code, problems=[problem]) from exc
    with open(descriptor, "rb") as file:
        # What the kernel makes up (/proc, in a workspace that has it) says it is empty, and may never end.
        return file.read(min(os.fstat(descriptor).st_size, MAX_IMAGE_BYTES + 1))


def _decoded(text: str, field: str) -> bytes:
    if len(text) > (MAX_IMAGE_BYTES + 3) // 3 * 4:
        raise _too_large(field)
    try:
        if "=" in text[:-2]:
            raise ValueError("padding in the middle")
        return b"".join(base64.b64decode(piece, validate=True) for piece in _pieces(text))
    except (binascii.Error, ValueError) as exc:
        raise _invalid(field, "is not base64 (with padding, without line breaks)") from exc


def _pieces(data: S) -> Iterator[S]:
    """Nothing else runs while one is converted, so they are small. Each is whole groups of 3 bytes or 4 letters."""
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE))


def _image(data: bytes, field: str) -> tuple[str, bytes]:
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_large(field)
    media_type = next((type_ for type_, signature in SIGNATURES.items() if signature.match(data)), None)
    if media_type is None:
        raise _invalid(field, "is not a PNG, JPEG, GIF or WebP image")
    return media_type, data


def _as_declared(image: tuple[str, bytes], media_type: str, field: str) -> tuple[str, bytes]:
    if media_type != image[0]:
        raise _invalid(field, f"says {media_type[:100] or 'nothing'}, but the image is {image[0]}")
    return image


def _too_large(field: str) -> InvalidInput:
    return _invalid(field, f"is larger than {MAX_IMAGE_BYTES // MIB} MiB, which is the limit for an image")


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])
