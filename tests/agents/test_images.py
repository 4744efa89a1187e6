"""Images on their way through the adapters."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.contract import Agent
from agentsrv.model import Image, TurnOptions
from tests.agents import test_claude_code, test_codex
from tests.agents.test_codex import PROMPT, make_session
from tests.pictures import GIF, PNG

IMAGES = (Image("image/png", b64encode(PNG)), Image("image/gif", b64encode(GIF)))
URL = f"data:image/png;base64,{b64encode(PNG).decode()}"


@pytest.fixture(params=["claude", "codex"])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Agent:
    if request.param == "claude":
        return test_claude_code.make_agent(tmp_path)
    return test_codex.make_agent(tmp_path)


def block(image: Image) -> dict[str, Any]:
    source = {"type": "base64", "media_type": image.media_type, "data": image.data.decode()}
    return {"type": "image", "source": source}


def test_images_follow_the_text(agent: Agent) -> None:
    """In one shape for all agents, on one line."""
    event = agent.user_event(make_session(), PROMPT, "look\n", IMAGES)

    assert json.loads(event)["message"]["content"] == [
        {"type": "text", "text": "look\n"},
        *map(block, IMAGES),
    ]
    assert b"\n" not in event


def test_claude_reads_the_event_as_it_is(tmp_path: Path) -> None:
    """Nothing about it is changed on its way."""
    agent = test_claude_code.make_agent(tmp_path)
    event = agent.user_event(make_session(), PROMPT, "look", IMAGES)

    assert agent.adapter(make_session(), {}).prompt(event) == event + b"\n"


def codex_echo(method: str, item: dict[str, Any]) -> bytes:
    """A line about an item of the conversation."""
    return json.dumps({"method": method, "params": {"item": item, "threadId": "t", "turnId": "u"}}).encode()


def test_codex_gets_data_urls(tmp_path: Path) -> None:
    """The images are inputs of the turn, in their order."""
    agent = test_codex.make_agent(tmp_path)
    adapter = agent.adapter(make_session(), {"thread_id": "t"})
    adapter.begin_turn(PROMPT, TurnOptions())
    request = adapter.prompt(agent.user_event(make_session(), PROMPT, "look", IMAGES[:1]))

    assert request is not None
    inputs = json.loads(request)["params"]["input"]
    assert inputs == [{"type": "text", "text": "look"}, {"type": "image", "url": URL}]


@pytest.mark.parametrize("method", ["item/started", "item/completed"])
def test_codex_does_not_repeat_images(method: str) -> None:
    """It tells of the prompt twice: the log keeps that without the images, which it has already."""
    content = [{"type": "text", "text": "look"}, {"type": "image", "url": URL, "detail": "auto"}]
    item = {"type": "userMessage", "id": "1", "content": content}
    effect = test_codex.make_adapter(state={"thread_id": "t"}).receive(codex_echo(method, item))

    kept = [content[0], content[1] | {"url": "data:image/png;base64,"}]
    assert effect is not None
    assert effect.event is not None
    assert json.loads(effect.event) == json.loads(codex_echo(method, item | {"content": kept}))


@pytest.mark.parametrize(
    "item",
    [
        {"type": "agentMessage", "text": f'"{URL}"', "content": [{"url": URL}]},
        {"type": "userMessage", "content": [{"type": "text", "text": "look"}]},
    ],
)
def test_codex_is_taken_at_its_word_otherwise(item: dict[str, Any]) -> None:
    """What has no image of a prompt is logged as it was written."""
    assert (
        test_codex.make_adapter(state={"thread_id": "t"}).receive(codex_echo("item/completed", item)) is None
    )


@pytest.mark.parametrize("content", [None, 1, URL, {"url": URL}, [URL, None, [URL], {"url": {"x": URL}}]])
def test_odd_echoes_do_no_harm(content: Any) -> None:
    """A content that is not a list of blocks is kept as it is."""
    line = codex_echo("item/completed", {"type": "userMessage", "content": content, "also": URL})
    effect = test_codex.make_adapter(state={"thread_id": "t"}).receive(line)

    assert effect is not None
    assert json.loads(effect.event or b"") == json.loads(line)
