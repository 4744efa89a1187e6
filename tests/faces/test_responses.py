"""Agents as models with a memory: the official client of OpenAI, through its Responses and Conversations."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.conftest import ServerMaker
from tests.faces.conftest import ClientMaker
from tests.faces.test_chat import PIXEL
from tests.kit import Server, script, wait_until

MODEL = "claude-code"


def kinds_of(events: list[Any]) -> list[str]:
    return [event.type for event in events]


def test_response_is_what_the_agent_says_and_does(claude_server: Server, client_of: ClientMaker) -> None:
    """Streamed, whole, and fetched later, it is the same; the next one goes on where it was."""
    client = client_of(claude_server)
    prompt = script("usage 100 10", "think hm", "bash echo hi", "text hello there")
    events: list[Any] = list(
        client.responses.create(model=MODEL, input=prompt, instructions="Be brief.", stream=True)
    )
    streamed = events[-1].response
    fetched = client.responses.retrieve(streamed.id)
    following = client.responses.create(
        model=MODEL,
        input=script("text again"),
        previous_response_id=streamed.id,
        metadata={"for": "a test"},
    )
    listed = list(client.conversations.items.list(following.conversation.id, limit=2))  # type: ignore[union-attr]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds_of(events)[:2] == ["response.created", "response.in_progress"]
    assert (events[-1].type, streamed.output_text) == ("response.completed", "hello there")
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta")
        == "hello there"
    )
    (call,) = [item for item in streamed.output if item.type == "mcp_call"]
    assert (call.status, "echo hi" in call.arguments, call.output) == ("completed", True, "hi")
    assert (streamed.usage.output_tokens >= 10, streamed.instructions) == (True, "Be brief.")
    assert fetched == streamed
    assert (following.output_text, following.previous_response_id) == ("again", streamed.id)
    assert following.metadata == {"for": "a test"}
    assert following.conversation == streamed.conversation
    texts = [item.content[0].text for item in listed if item.type == "message"]  # type: ignore[union-attr]
    assert texts == ["again", script("text again"), "hello there", prompt]


def test_cut_stream_goes_on_at_the_next_number(make_server: ServerMaker, client_of: ClientMaker) -> None:
    """kill -9 of the server in the middle: what comes after `starting_after` is what had not come, number by number."""
    server = make_server()
    client = client_of(server)
    steps = [step for number in range(6) for step in (f"say <{number}>", "sleep 0.2")]
    stream: Any = client.responses.create(model=MODEL, input=script(*steps), stream=True, background=True)
    seen: list[Any] = []
    for event in stream:
        seen.append(event)
        if "<1>" in getattr(event, "delta", ""):
            break
    server.kill9()
    server.start()
    rest: list[Any] = list(
        client_of(server).responses.retrieve(
            seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number
        )
    )
    whole: list[Any] = list(client_of(server).responses.retrieve(seen[0].response.id, stream=True))

    assert [*seen, *rest] == whole
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert whole[-1].response.output_text == "".join(f"<{number}>" for number in range(6))


def test_every_place_of_a_response_can_be_resumed(claude_server: Server, client_of: ClientMaker) -> None:
    """From each number on, the rest is what it was, to the byte: of texts, thoughts and calls."""
    steps = script("think hm", 'text \u20ac " \\ \u2028', "bash echo hi", "deltas 9 0")
    response = client_of(claude_server).responses.create(model=MODEL, input=steps)
    path = f"/openai/v1/responses/{response.id}?stream=true"
    frames = claude_server.ask("GET", path).body().split(b"\n\n")[:-1]
    rests = [
        claude_server.ask("GET", f"{path}&starting_after={number}").body().split(b"\n\n")[:-1]
        for number in range(len(frames))
    ]

    head = frames[0].partition(b"event:")[0]
    assert len(frames) > 20
    assert rests[:-1] == [
        [head + frames[number + 1], *frames[number + 2 :]] for number in range(len(frames) - 1)
    ]
    numbers = [json.loads(frame.partition(b"data: ")[2])["sequence_number"] for frame in frames]
    assert numbers == list(range(len(frames)))


def test_background_response_is_polled_and_cancelled(server: Server, client_of: ClientMaker) -> None:
    client = client_of(server)
    begun = client.responses.create(model=MODEL, input=script("say begun", "hang"), background=True)
    wait_until(lambda: client.responses.retrieve(begun.id).output_text == "begun")
    running = client.responses.retrieve(begun.id)
    cancelled = client.responses.cancel(begun.id)
    events: list[Any] = list(client.responses.retrieve(begun.id, stream=True))

    assert (begun.status, running.status, running.background) == ("in_progress", "in_progress", True)
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "begun")
    assert client.responses.cancel(begun.id) == cancelled
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "cancelled")


def test_failed_turn_is_a_failed_response(server: Server, client_of: ClientMaker) -> None:
    client = client_of(server)
    failed = client.responses.create(model=MODEL, input=script("die"))
    events: list[Any] = list(client.responses.create(model=MODEL, input=script("die"), stream=True))

    assert failed.error is not None
    assert (failed.status, "agent" in failed.error.message) == ("failed", True)
    assert events[-1].type == "response.failed"


def test_same_key_again_is_the_same_response(server: Server, client_of: ClientMaker) -> None:
    """Also where the client has no name for the conversation."""
    client = client_of(server)
    answers = [
        client.responses.create(
            model=MODEL, input=script("say hello"), extra_headers={"Idempotency-Key": "one"}
        )
        for _ in range(2)
    ]

    assert answers[0] == answers[1]
    assert answers[0].output_text == "hello"


def test_conversation_is_a_session(server: Server, client_of: ClientMaker) -> None:
    """It is made, noted on, used by responses and by others, read in both orders, and deleted with all that it has."""
    client = client_of(server)
    made = client.conversations.create(metadata={"topic": "demo"})
    session_id = made.id.removeprefix("conv_")
    for word in ("one", "two"):
        client.responses.create(model=MODEL, input=script(f"say {word}"), conversation=made.id)
    server.generate(script("say three"), session_id).rest()
    noted = client.conversations.update(made.id, metadata={"topic": "other"})
    newest = [item.id for item in client.conversations.items.list(made.id, limit=1)]
    oldest = list(client.conversations.items.list(made.id, limit=4, order="asc"))
    said = [part.text for item in oldest for part in item.content if item.role == "assistant"]  # type: ignore[union-attr]
    client.conversations.delete(made.id)

    assert (made.metadata, noted.metadata) == ({"topic": "demo"}, {"topic": "other"})
    assert (said, newest) == (["one", "two", "three"], [item.id for item in reversed(oldest)])
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_response_is_deleted_where_it_is_alone(server: Server, client_of: ClientMaker) -> None:
    """One that others have followed goes with its conversation, and nobody can go on from it as if they had not."""
    client = client_of(server)
    alone = client.responses.create(model=MODEL, input=script("say a"))
    first = client.responses.create(model=MODEL, input=script("say b"))
    client.responses.create(model=MODEL, input=script("say c"), previous_response_id=first.id)
    client.responses.delete(alone.id)

    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(alone.id)
    with pytest.raises(openai.ConflictError) as part:
        client.responses.delete(first.id)
    with pytest.raises(openai.ConflictError) as superseded:
        client.responses.create(model=MODEL, input="x", previous_response_id=first.id)
    assert (part.value.code, superseded.value.code) == ("response_in_conversation", "response_superseded")


def test_pictures_shapes_and_servers_reach_the_agent(claude_server: Server, client_of: ClientMaker) -> None:
    """And what was said before is told where the agent was not there."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    said: Any = [
        {"role": "user", "content": "My name is Ada."},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello Ada."}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not sing."}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": script('structured {"a": 1}', "text done")},
                {"type": "input_image", "image_url": PIXEL},
            ],
        },
    ]
    shape: Any = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
    response = client_of(claude_server).responses.create(
        model=MODEL, input=said, text=shape, extra_body={"session_id": "s"}
    )
    prompt = claude_server.history("s")[0].json["message"]["content"]

    assert json.loads(response.output_text) == {"a": 1}
    assert {block["type"] for block in prompt} == {"text", "image"}
    told = "user: My name is Ada.\n\nassistant: Hello Ada.\n\nassistant: I will not sing."
    assert told in json.dumps(prompt).replace("\\n", "\n")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"model": "gpt-4"}, "model"),
        ({"instructions": "x" * 100_001}, "instructions"),
        ({"reasoning": {"effort": "endless"}}, "reasoning.effort"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [7]}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content.0"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools.0"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"previous_response_id": "resp_x", "conversation": "conv_x"}, "previous_response_id"),
        ({"conversation": {}}, "conversation"),
        ({"conversation": {"id": ""}}, "conversation"),
        ({"prompt": {"id": "pmpt_x"}}, "prompt"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"conversation": "nothing"}, None),
        ({"previous_response_id": "resp_nothing"}, None),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    shared_server: Server, wrong: dict[str, Any], param: str | None
) -> None:
    """In OpenAI's shape, before anything has happened."""
    answer = shared_server.ask("POST", "/openai/v1/responses", {"model": MODEL, "input": "x", **wrong})
    error = answer.json["error"]

    assert (answer.status, error["param"]) == (400 if param else 404, param)
    assert shared_server.ask("GET", "/generate/v2/jobs").json["jobs"] == []


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_items_behind_one_that_is_not_there_are_not_found(
    claude_server: Server, client_of: ClientMaker, order: Any
) -> None:
    """A page that began the turn again would have a client read it for ever."""
    client = client_of(claude_server)
    response = client.responses.create(model=MODEL, input=script("text hello"))
    assert response.conversation is not None
    items = client.conversations.items
    known = [str(item.id) for item in items.list(response.conversation.id, order=order, limit=1)]
    made_up = f"{known[0].rpartition('_')[0]}_99"

    assert len(known) == len(set(known)) == 2
    with pytest.raises(openai.NotFoundError, match=made_up):
        items.list(response.conversation.id, order=order, after=made_up)


@pytest.mark.parametrize(
    "path",
    [
        "responses/resp_nothing",
        "responses/nothing",
        "responses/resp_%2e%2e",
        "responses/resp_nothing?stream=true&starting_after=1",
        "conversations/conv_nothing",
        "conversations/nothing/items",
        "conversations/conv_nothing/items?after=x",
    ],
)
def test_what_is_not_there_is_not_found(shared_server: Server, path: str) -> None:
    answer = shared_server.ask("GET", f"/openai/v1/{path}")

    assert (answer.status, set(answer.json["error"])) == (404, {"message", "type", "code", "param"})
