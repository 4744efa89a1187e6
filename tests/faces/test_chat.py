"""Agents as models: the official client of OpenAI, against scripted and real agents."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from typing import Any

import openai
import pytest
import yaml

from tests.conftest import ServerMaker
from tests.faces.conftest import ClientMaker
from tests.kit import ROOT, Answer, Server, script, wait_until
from tests.pictures import PNG

PAGE = (ROOT / "docs/clients.md").read_text()
(LIBRECHAT,) = yaml.safe_load(*re.findall(r"```yaml\n(version: .*?)```", PAGE, re.DOTALL))["endpoints"][
    "custom"
]
"""The endpoint as docs/clients.md has it. Its fields are those of `librechat.example.yaml` of version 1.3.17, and what
stands for the conversation's id is made in `packages/api/src/utils/env.ts`; a new one has an id before its first prompt
(`api/server/controllers/agents/request.js`)."""
PIXEL = "data:image/png;base64," + b64encode(PNG).decode()


def said(text: Any, role: str = "user") -> Any:
    return {"role": role, "content": text}


def test_models_are_the_agents_that_can_be_used(claude_server: Server, client_of: ClientMaker) -> None:
    names = [model.id for model in client_of(claude_server).models.list()]

    assert names[0] == "claude-code"
    assert any(name.startswith("claude-code/") for name in names)


def test_one_model_is_found_by_its_name(claude_server: Server, client_of: ClientMaker) -> None:
    client = client_of(claude_server)
    found = [client.models.retrieve(model.id).id for model in client.models.list()]

    assert found == [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-9")
    assert refused.value.code == "model_not_found"


def test_completion_is_what_the_agent_says(claude_server: Server, client_of: ClientMaker) -> None:
    """Whole and streamed; the same conversation goes on, and only its last message is said again."""
    client = client_of(claude_server)
    first = client.chat.completions.create(
        model="claude-code",
        messages=[said("Be brief.", "system"), said(script("usage 100 10", "text hello there"))],
        extra_headers={"X-Conversation-Id": "a-chat"},
    )
    assert (first.choices[0].message.content, first.choices[0].finish_reason) == ("hello there", "stop")
    assert first.usage is not None
    assert first.usage.completion_tokens == 10

    chunks = list(
        client.chat.completions.create(
            model="claude-code",
            messages=[
                said("old"),
                said("hello there", "assistant"),
                said(script("bash echo hi", "text again")),
            ],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-Conversation-Id": "a-chat"},
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert "".join(delta.content or "" for delta in deltas) == "again"
    assert "echo hi" in thoughts
    assert chunks[-1].usage is not None
    prompts = [event.json for event in claude_server.history("a-chat") if event.json.get("type") == "user"]
    assert not any("The conversation so far" in json.dumps(prompt) for prompt in prompts)


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        (
            {"X-OpenWebUI-Chat-Id": "6f9f2a0c-6f35-4b0e-9d67-3f0f5d3c1b11"},
            "6f9f2a0c-6f35-4b0e-9d67-3f0f5d3c1b11",
        ),
        ({"X-OpenWebUI-Chat-Id": "local:x2bS8dAAAB"}, "chat-"),
        (
            {
                name: value.replace(
                    "{{LIBRECHAT_BODY_CONVERSATIONID}}", "0c1e7f6a-52d3-4c8b-8a57-9a3c6f0b2d44"
                )
                for name, value in LIBRECHAT["headers"].items()
            },
            "0c1e7f6a-52d3-4c8b-8a57-9a3c6f0b2d44",
        ),
    ],
    ids=["Open WebUI", "a temporary chat of it", "LibreChat"],
)
def test_chat_programs_go_on_where_they_were(
    shared_server: Server, client_of: ClientMaker, headers: dict[str, str], session: str
) -> None:
    """As docs/clients.md sets them up: their requests, with the header that names the conversation.

    Of Open WebUI that is `FORWARD_SESSION_INFO_HEADER_CHAT_ID` in `backend/open_webui/env.py`.
    """
    used = []
    words = [script("say one"), "one", script("say two")]
    for said_so_far in (words[:1], words):
        messages = [said(text, ("user", "assistant")[place % 2]) for place, text in enumerate(said_so_far)]
        completions = client_of(shared_server).chat.completions
        with completions.with_streaming_response.create(
            model="claude-code",
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            user="65f1c0ffee",
            extra_headers={"X-OpenWebUI-User-Name": "Ada", **headers},
        ) as response:
            used.append(response.headers["X-Session-Id"])
            response.read()
    prompts = [event for event in shared_server.history(used[0]) if event.json.get("type") == "user"]

    assert used[0] == used[1]
    assert used[0].startswith(session)
    assert [prompt.json["message"]["content"][0]["text"] for prompt in prompts] == [words[0], words[2]]


def test_what_open_webui_asks_for_itself_is_no_part_of_the_chat(
    shared_server: Server, client_of: ClientMaker
) -> None:
    """For a title and tags it asks the same model, with the header of the chat, and without a stream."""
    chat = {"X-OpenWebUI-Chat-Id": "named-by-it"}
    used = []
    for stream, text in ((False, "a title"), (True, script("say hello")), (False, "some tags")):
        completions = client_of(shared_server).chat.completions
        with completions.with_streaming_response.create(
            model="claude-code", messages=[said(text)], stream=stream, user="65f1c0ffee", extra_headers=chat
        ) as response:
            used.append(response.headers["X-Session-Id"])
            response.read()
    prompts = [event for event in shared_server.history("named-by-it") if event.json.get("type") == "user"]

    assert [prompt.json["message"]["content"][0]["text"] for prompt in prompts] == [script("say hello")]
    assert (used[1], len(set(used))) == ("named-by-it", 3)


def test_agent_that_was_not_there_is_told_what_was_said(server: Server, client_of: ClientMaker) -> None:
    messages = [said("My name is Ada."), said("Hello Ada.", "assistant"), said(script("say hello"))]
    with client_of(server).chat.completions.with_streaming_response.create(
        model="claude-code", messages=messages
    ) as response:
        session = response.headers["X-Session-Id"]
        response.read()
    prompt = server.history(session)[0].json["message"]["content"][0]["text"]

    assert prompt.startswith("The conversation so far:\n\nuser: My name is Ada.\n\nassistant: Hello Ada.")
    assert prompt.endswith("SCRIPT: say hello")


def test_what_the_server_refuses_is_an_error_of_the_protocol(server: Server, client_of: ClientMaker) -> None:
    client = client_of(server)
    server.start_job(script("hang"), "busy")

    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=[said("hello")])
    with pytest.raises(openai.BadRequestError) as nothing:
        client.chat.completions.create(model="claude-code", messages=[said("hello", "assistant")])
    with pytest.raises(openai.ConflictError) as busy:
        client.chat.completions.create(
            model="claude-code", messages=[said("hello")], extra_body={"session_id": "busy"}
        )
    with pytest.raises(openai.BadRequestError) as headers:
        client.chat.completions.create(
            model="claude-code", messages=[said("hello")], extra_headers={"X-Session-Id": "../x"}
        )
    parts: Any = [{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]
    with pytest.raises(openai.BadRequestError) as picture:
        client.chat.completions.create(model="claude-code", messages=[{"role": "user", "content": parts}])

    assert [error.value.code for error in (unknown, nothing, busy)] == [
        "unsupported_option",
        "invalid_input",
        "session_busy",
    ]
    assert (headers.value.param, picture.value.param) == ("X-Session-Id", "messages.0.content.0")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/openai/v1/models", {"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ("POST", "/openai/v1/embeddings", {}, 404, "not_found"),
        ("GET", "/openai/v1/chat/completions", {}, 405, "method_not_allowed"),
    ],
)
def test_what_is_refused_before_a_route_is_told_by_openais_client_too(
    shared_server: Server, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    """A wrong key most of all: the client shows only what has OpenAI's shape."""
    answer = shared_server.ask(method, path, **headers)

    assert (answer.status, answer.json["error"]["code"]) == (status, code)


def test_key_of_a_request_has_a_length(shared_server: Server) -> None:
    body = {"model": "claude-code", "messages": [said("x")]}
    answer = shared_server.ask("POST", "/openai/v1/chat/completions", body, Idempotency_Key="x" * 201)

    assert (answer.status, answer.json["error"]["param"]) == (400, "Idempotency-Key")


TEXT = {"type": "text", "text": "x"}
PICTURE, NO_PICTURE = (
    {"type": "image_url", "image_url": {"url": url}} for url in (PIXEL, "data:image/png;base64,!")
)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
            "tool_choice",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "endless"}, "reasoning_effort"),
        ({"model": "gpt-4"}, "model"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}},
            "response_format",
        ),
        ({"messages": [said("x" * 100_001, "system"), said("x")]}, "messages"),
        ({"messages": [said([TEXT, *[PICTURE] * 21])]}, "messages"),
        ({"messages": [said([TEXT, NO_PICTURE])]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0"),
        ({"metadata": {"session_id": 7}}, "metadata.session_id"),
    ],
)
def test_what_no_agent_can_is_refused_by_name(
    shared_server: Server, wrong: dict[str, Any], param: str
) -> None:
    """In OpenAI's shape, before anything has happened."""
    sessions = shared_server.ask("GET", "/sessions?limit=1000").json["count"]
    body = {"model": "claude-code", "messages": [said("x")], **wrong}
    answer = shared_server.ask("POST", "/openai/v1/chat/completions", body)

    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert shared_server.ask("GET", "/sessions?limit=1000").json["count"] == sessions


def test_what_means_nothing_to_an_agent_is_no_obstacle(server: Server, client_of: ClientMaker) -> None:
    """Sampling, limits and functions that chat programs send with every request."""
    answer = client_of(server).chat.completions.create(
        model="claude-code",
        messages=[said("Be brief.", "developer"), said(script("say hello"))],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        tool_choice="auto",
        temperature=0.2,
        max_tokens=5,
        seed=1,
        stop=["x"],
        store=True,
        parallel_tool_calls=False,
        response_format={"type": "text"},
    )

    assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == ("hello", None)


def test_failed_turn_is_an_error_streamed_or_not(server: Server, client_of: ClientMaker) -> None:
    client = client_of(server)
    with pytest.raises(openai.APIStatusError) as whole:
        client.chat.completions.create(model="claude-code", messages=[said(script("die"))])
    with pytest.raises(openai.APIError) as streamed:
        list(client.chat.completions.create(model="claude-code", messages=[said(script("die"))], stream=True))

    assert whole.value.status_code == 502
    assert "agent" in whole.value.message
    assert "agent" in streamed.value.message


@pytest.mark.parametrize("choice", ["cancel", "continue"])
def test_client_that_leaves_ends_its_turn_unless_it_says_otherwise(
    server: Server, choice: str, client_of: ClientMaker
) -> None:
    stream = client_of(server).chat.completions.create(
        model="claude-code",
        messages=[said(script("say hello", "sleep 3"))],
        stream=True,
        extra_body={"session_id": "s", "on_disconnect": choice},
    )
    next(iter(stream))
    stream.close()
    (job,) = server.ask("GET", "/generate/v2/jobs?session_id=s").json["jobs"]

    expected = {"cancel": "cancelled", "continue": "completed"}[choice]
    wait_until(lambda: server.job(job["taskId"])["status"] == expected)


def test_failed_turn_is_not_repeated_by_openais_client(server: Server, client_of: ClientMaker) -> None:
    """Which sends again what fails, unless it is told not to: an agent would work three times."""
    with pytest.raises(openai.InternalServerError):
        client_of(server).with_options(max_retries=2).chat.completions.create(
            model="claude-code", messages=[said(script("exit 3"))], extra_body={"session_id": "s"}
        )

    assert len(server.ask("GET", "/generate/v2/jobs?session_id=s").json["jobs"]) == 1


WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/openai/v1/chat/completions", {"messages": [said(script("say before", "hang"))]}),
    "responses": ("/openai/v1/responses", {"input": script("say before", "hang")}),
}


@pytest.mark.parametrize("api", WHOLE)
def test_client_that_gives_up_a_whole_answer_ends_its_turn(server: Server, api: str) -> None:
    path, asked = WHOLE[api]
    connection = server.send("POST", path, {"model": "claude-code", "session_id": "s", **asked})
    job = running_job(server)
    connection.close()

    assert server.ended_job(job)["status"] == "cancelled"


@pytest.mark.parametrize(("api", "is_streamed"), [("chat", False), ("chat", True), ("responses", False)])
def test_answer_that_a_stopping_server_cuts_does_not_look_whole(
    server: Server, api: str, is_streamed: bool
) -> None:
    path, asked = WHOLE[api]
    body = {"model": "claude-code", "session_id": "s", "stream": is_streamed, **asked}
    connection = server.send("POST", path, body)
    job = running_job(server)
    server.terminate()
    answer = Answer(connection)
    told = answer.body()
    server.start()

    assert (answer.status, b'"code":"draining"' in told) == (200 if is_streamed else 503, True)
    assert b'"finish_reason":"' not in told
    assert server.job(job)["status"] == "running"


def running_job(server: Server) -> str:
    """That of session `s`, once its agent has said something."""
    wait_until(lambda: server.ask("GET", "/sessions/s").status == 200)
    with server.ask("GET", "/sessions/s/events") as events:
        events.until(lambda event: event.type == "assistant")
    (job,) = server.ask("GET", "/generate/v2/jobs?session_id=s").json["jobs"]
    return str(job["taskId"])


def test_same_key_again_starts_nothing_twice(server: Server, client_of: ClientMaker) -> None:
    client = client_of(server)
    answers = [
        client.chat.completions.create(
            model="claude-code",
            messages=[said(script("say hello"))],
            user="ada@example.com",
            extra_headers={"Idempotency-Key": "one"},
        )
        for _ in range(2)
    ]

    assert answers[0].id == answers[1].id
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content == "hello"


def test_pictures_and_schemas_reach_the_agent(claude_server: Server, client_of: ClientMaker) -> None:
    parts: Any = [
        {"type": "text", "text": script('structured {"a": 1}', "text done")},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    shape: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    response = client_of(claude_server).chat.completions.create(
        model="claude-code",
        messages=[{"role": "user", "content": parts}],
        response_format=shape,
        extra_body={"session_id": "s"},
    )
    (job,) = claude_server.ask("GET", "/generate/v2/jobs?session_id=s").json["jobs"]
    prompt = claude_server.history("s")[0].json["message"]["content"]

    assert claude_server.job(job["taskId"])["structuredOutput"] == {"a": 1}
    assert {block["type"] for block in prompt} == {"text", "image"}
    assert json.loads(response.choices[0].message.content or "") == {"a": 1}


def test_a_cut_client_finds_its_conversation_again(make_server: ServerMaker, client_of: ClientMaker) -> None:
    """kill -9 of the server: the turn goes on, and the same key again gives the whole answer."""
    server = make_server()
    request: dict[str, Any] = {
        "model": "claude-code",
        "messages": [said(script("say before", "sleep 2", "say after"))],
        "extra_headers": {"Idempotency-Key": "one"},
        "extra_body": {"session_id": "s", "on_disconnect": "continue"},
    }
    stream = client_of(server).chat.completions.create(stream=True, **request)
    next(iter(stream))
    server.kill9()
    server.start()
    again = client_of(server).chat.completions.create(**request)

    assert again.choices[0].message.content == "beforeafter"
