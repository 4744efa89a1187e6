"""Images on their way to the model: the real CLIs behind the server, scripted models behind the CLIs."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conformance.dialects import AGENTS
from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.kit import Answer, Server, rss_bytes, script, wait_for_at_most, wait_until
from tests.pictures import GIF, PICTURES, PNG, WEBP, noise

MIB = 1024 * 1024

RECODED = {("codex", "image/gif"): "image/png"}
"""What an agent makes another type of. Everything else that is small reaches its model byte for byte."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A server, the agent that it is asked for, and the model behind that one."""

    name: str
    server: Server
    model: ModelApi | ResponsesApi

    def prompt(self, *images: Any, **options: Any) -> Answer:
        """A prompt with `images` that is answered with a word."""
        prompt = script("text seen")
        return self.server.generate(prompt, agent=self.name, images=list(images), **options)

    @property
    def seen(self) -> list[tuple[str, bytes]]:
        """The images that the model was shown last."""
        return self.model.requests[-1].images


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> Agent:
    server, model = AGENTS[request.param].fixtures
    return Agent(request.param, request.getfixturevalue(server), request.getfixturevalue(model))


def data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


def inline(media_type: str, data: bytes) -> dict[str, str]:
    return {"data": b64encode(data).decode(), "mediaType": media_type}


def source(media_type: str, data: bytes) -> dict[str, str]:
    """An image as events have it."""
    return {"type": "base64", "media_type": media_type, "data": b64encode(data).decode()}


@pytest.mark.parametrize("media_type", PICTURES)
def test_every_way_leads_to_the_model(agent: Agent, media_type: str) -> None:
    """From a path, relative or absolute, a data URL or inline: the model is shown the same picture."""
    picture = PICTURES[media_type]
    path = agent.server.workspace / "picture"
    path.write_bytes(picture)
    ways = ("workspaces/picture", str(path), data_url(media_type, picture), inline(media_type, picture))
    events = agent.prompt(*ways).rest()

    assert events[-1].json["status"] == "completed"
    assert len(agent.seen) == 4
    if (agent.name, media_type) in RECODED:
        assert {kind for kind, _ in agent.seen} == {RECODED[agent.name, media_type]}
    else:
        assert agent.seen == [(media_type, picture)] * 4


def test_images_are_in_the_history(agent: Agent) -> None:
    """The session's messages and its streams have the prompt with its pictures, behind the text, and only once."""
    events = agent.prompt(data_url("image/png", PNG), inline("image/gif", GIF)).rest()
    messages = agent.server.ask("GET", "/sessions/s/messages").json["messages"]

    content = messages[0]["message"]["content"]
    assert [block["type"] for block in content] == ["text", "image", "image"]
    assert [block["source"] for block in content[1:]] == [source("image/png", PNG), source("image/gif", GIF)]
    assert events[0].json["message"]["content"] == content
    assert sum(b64encode(PNG) in event.data for event in events) == 1


def test_later_turns_remember_the_image(agent: Agent) -> None:
    """In the same process, and in another one after a restart of the server and the agent."""
    agent.prompt(inline("image/png", PNG)).rest()
    agent.prompt().rest()
    in_same_process = agent.seen
    agent.server.terminate()
    agent.server.start()
    agent.prompt(inline("image/webp", WEBP)).rest()

    assert in_same_process == [("image/png", PNG)]
    assert agent.seen == [("image/png", PNG), ("image/webp", WEBP)]


def test_repeated_prompt_starts_nothing(agent: Agent) -> None:
    """The same message_id again is the same job, also when the file of its image is gone meanwhile."""
    path = agent.server.workspace / "picture.png"
    path.write_bytes(PNG)
    first = agent.prompt("workspaces/picture.png", message_id="once").rest()
    path.unlink()
    again = agent.prompt("workspaces/picture.png", message_id="once").rest()

    assert again == first
    assert len(agent.model.requests) == 1


def test_image_may_be_gone_when_the_agent_starts(agent: Agent) -> None:
    """What counts is what the file was when the prompt was taken."""
    path = agent.server.workspace / "picture.png"
    path.write_bytes(PNG)
    task_id = agent.prompt("workspaces/picture.png", background=True).json["taskId"]
    path.write_bytes(b"something else")

    assert agent.server.ended_job(task_id)["status"] == "completed"
    assert agent.seen == [("image/png", PNG)]


@pytest.mark.parametrize("if_busy", ["queue", "steer"])
def test_prompt_that_comes_while_a_turn_runs_keeps_its_images(agent: Agent, if_busy: str) -> None:
    """Whether it waits for its turn or joins the one that runs."""
    go = agent.server.workspace / "go"
    steps = script("bash touch begun; until [ -e go ]; do sleep 0.05; done", "text done")
    with agent.server.generate(steps, agent=agent.name) as running:
        wait_until((agent.server.workspace / "begun").exists)
        task_id = agent.prompt(inline("image/png", PNG), if_busy=if_busy, background=True).json["taskId"]
        go.touch()
        running.rest()

    assert agent.server.ended_job(task_id)["status"] == "completed"
    assert agent.seen == [("image/png", PNG)]


def test_largest_images_arrive(agent: Agent) -> None:
    """20 MiB of pictures: the model is shown them, made smaller if the agent likes, and nothing repeats them."""
    for name in ("a", "b"):
        (agent.server.workspace / name).write_bytes(noise(1860))
    task_id = agent.prompt("workspaces/a", "workspaces/b", background=True).json["taskId"]

    assert agent.server.ended_job(task_id)["status"] == "completed"
    assert len(agent.seen) == 2
    assert sum(len(event.data) for event in agent.server.follow(task_id, after=1).rest()) < MIB


def test_images_leave_no_memory_behind(server: Server) -> None:
    """After twelve prompts of 5 MiB each the server is as large as after four."""
    (server.workspace / "picture.png").write_bytes(noise(1300))
    sizes = []
    for _ in range(12):
        task_id = server.start_job("hello", images=["workspaces/picture.png"])
        assert server.ended_job(task_id)["status"] == "completed"
        sizes.append(rss_bytes(server.pid))

    wait_for_at_most((max(sizes[:4]) + 16 * MIB,), lambda: (rss_bytes(server.pid),))
