"""`images` of a prompt, over HTTP."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from agentsrv.config import Config
from tests.api.kit import Server, events_of
from tests.pictures import GIF, PNG

INLINE = {"data": b64encode(PNG).decode(), "mediaType": "image/png"}


@pytest.fixture
def base(config: Config) -> Path:
    (config.workspace_base / "red.png").write_bytes(PNG)
    return config.workspace_base


async def test_the_agent_gets_text_and_images(server: Server, base: Path) -> None:
    """The user message, as the agent reads it and as the stream shows it, has the pictures behind the text."""
    answer = await server.generate("SCRIPT: echo", images=["red.png", INLINE])
    (_, user), *others = events_of(answer.text)

    text, *images = user["message"]["content"]
    assert text == {"type": "text", "text": "SCRIPT: echo"}
    assert [image["source"]["data"] for image in images] == [INLINE["data"]] * 2
    assert INLINE["data"] in str(others)


@pytest.mark.parametrize(
    ("images", "field"),
    [
        (["red.png", 1], "images.1"),
        ([INLINE | {"data": 1}], "images.0.data"),
        (["red.png", INLINE | {"mediaType": None}], "images.1.mediaType"),
        (["red.png", "red.png", "missing.png"], "images.2"),
        ([INLINE | {"mediaType": "image/gif"}], "images.0.mediaType"),
        ([INLINE | {"data": "eA=="}], "images.0.data"),
        ([f"data:image/png;base64,{b64encode(GIF).decode()}"], "images.0"),
        (["red.png"] * 21, "images"),
    ],
)
async def test_the_wrong_one_is_named(server: Server, base: Path, images: list[Any], field: str) -> None:
    """400, and where in the request it is."""
    answer = await server.generate(images=images)

    assert answer.status == 400
    assert [problem["path"] for problem in answer.json["details"]] == [field]


async def test_a_pipe_holds_up_nobody(server: Server, base: Path) -> None:
    """Nobody writes to it: 400 at once, and the session neither exists nor is busy."""
    os.mkfifo(base / "pipe.png")
    refused = await asyncio.gather(*[server.generate(images=["pipe.png"]) for _ in range(20)])
    session = await server.ask("GET", "/sessions/s")

    assert ({answer.status for answer in refused}, session.status) == ({400}, 404)
    assert (await server.generate(images=["red.png"])).status == 200


async def test_an_image_is_not_fetched(server: Server) -> None:
    """A URL is refused without a connection to where it leads."""
    connections = []
    listener = await asyncio.start_server(lambda *connection: connections.append(connection), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        answer = await server.generate(images=[f"http://127.0.0.1:{port}/red.png"])

    assert (answer.status, connections) == (400, [])
    assert "fetched" in answer.json["error"]


async def test_a_repeated_prompt_does_not_look_at_its_images(server: Server, base: Path) -> None:
    """The same message_id is the same job, whatever has become of the file."""
    first = await server.generate(images=["red.png"], message_id="once")
    (base / "red.png").unlink()
    again = await server.generate(images=["red.png"], message_id="once")

    assert (first.status, again.status) == (200, 200)
    assert events_of(again.text) == events_of(first.text)
