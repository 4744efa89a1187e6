"""A scripted Messages API on loopback: the model behind the real `claude` in tests.

The prompt says what the model does, one step a line; everything else in the prompt is ignored:

    SCRIPT: text Hello there              a text block
    SCRIPT: deltas 50 0.01                a text block of 50 deltas, 0.01 s apart
    SCRIPT: fill 100000                   a text block of so many characters, in deltas of 1,000
    SCRIPT: think Hmm                     a thinking block
    SCRIPT: bash echo hi                  the Bash tool; `bash-bg` runs it in the background
    SCRIPT: write notes.txt some text     the Write tool; the path has no blanks
    SCRIPT: edit notes.txt some any       the Edit tool: path, old word, new text
    SCRIPT: tool Name {"input": 1}        any tool
    SCRIPT: structured {"n": 5}           the StructuredOutput tool
    SCRIPT: error 429 2                   this HTTP error twice, then the rest; without a count: always
    SCRIPT: context_too_long              the 400 of a prompt that does not fit
    SCRIPT: billing                       the 400 of an account without money
    SCRIPT: stop refusal                  the answer ends for this reason
    SCRIPT: hang                          nothing more, until the client goes away
    SCRIPT: drip 0.01                     what follows is sent in crumbs of 7 bytes, so far apart
    SCRIPT: drop                          the connection is cut
    SCRIPT: usage 1000 100                input and output tokens of this answer
    SCRIPT: and                           between two tools: the model uses them in one answer
    SCRIPT: end                           the answer ends; what follows is for a call that nobody prompted

A model call plays the steps up to and including the next tool (or `end`); the tool's result comes back in the
next call, which plays on from there. A call beyond the script, or without one, answers `ok`. So the fake has no
conversation state of its own: what to play follows from the request, except for the counted errors.

Run alone: `python -m tests.fakes.model_api` prints its URL and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.fakes.scripted import (
    TOOLS,
    ScriptedApi,
    Step,
    cut,
    part_of,
    script_of,
    serve,
    stream,
    text_parts,
    usage_of,
)

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One call of `POST /v1/messages` as it came in."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def effort(self) -> str | None:
        effort: str | None = self.body.get("output_config", {}).get("effort")
        return effort

    @property
    def instructions(self) -> str:
        """What the model is told besides the conversation."""
        return "\n".join(texts(self.body.get("system", "")))

    @property
    def conversation(self) -> str:
        """All of it, with the results of tools, as JSON."""
        return json.dumps(self.body["messages"], ensure_ascii=False)

    @property
    def output_schema(self) -> dict[str, Any] | None:
        """What the tool takes by which the model answers in the wanted form."""
        tools = [tool for tool in self.body.get("tools", []) if tool.get("name") == "StructuredOutput"]
        return tools[0]["input_schema"] if tools else None

    @property
    def tools(self) -> list[str]:
        return [str(tool.get("name")) for tool in self.body.get("tools", [])]

    @property
    def user_texts(self) -> list[str]:
        """Every text block of every user message, oldest first; a prompt is one of them, byte for byte."""
        return [text for content in self._user_contents for text in texts(content)]

    @property
    def images(self) -> list[tuple[str, bytes]]:
        """(type, bytes) of every image of every user message, oldest first."""
        blocks = [block for content in self._user_contents if isinstance(content, list) for block in content]
        sources = [block["source"] for block in blocks if block["type"] == "image"]
        return [(source["media_type"], b64decode(source["data"])) for source in sources]

    @property
    def _user_contents(self) -> list[str | list[dict[str, Any]]]:
        return [message["content"] for message in self.body["messages"] if message["role"] == "user"]


class ModelApi(ScriptedApi[Recorded]):
    """The fake. `async with ModelApi() as api:` serves at `api.url`; `api.requests` is what it was asked."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_route("HEAD", "/", self._probe)
        router.add_post("/v1/messages", self._messages)

    async def _probe(self, request: web.Request) -> web.Response:
        """HEAD /: the CLI's reachability probe."""
        return web.Response()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages: the next part of the script, as SSE or as one JSON body."""
        body = await request.json()
        self.requests.append(Recorded(dict(request.headers), body))
        steps = next_steps(body)
        for step in steps:
            if error := self._error(step, body):
                return error
        if body.get("stream"):
            return await stream(request, play(body, steps), {"request-id": "req_fake"})
        if any(step.verb == "drop" for step in steps):
            return cut(request)
        if any(step.verb == "hang" for step in steps):
            await asyncio.Event().wait()
        return web.json_response(whole_message(body, steps))

    def _error(self, step: Step, body: dict[str, Any]) -> web.Response | None:
        if step.verb == "context_too_long":
            return error_response(400, "prompt is too long: 250000 tokens > 200000 maximum")
        if step.verb == "billing":
            return error_response(400, "Your credit balance is too low to access the Anthropic API.")
        status = self.error_status(step, body["messages"])
        return error_response(status, f"scripted error {status}") if status else None


def next_steps(body: dict[str, Any]) -> list[Step]:
    """The steps that this call plays: the group after those that the assistant's messages have answered."""
    script: list[Step] = []
    answered = 0
    for message in body["messages"]:
        if message["role"] == "assistant":
            answered += 1
        elif found := script_of(texts(message["content"])):
            script, answered = found, 0
    return part_of(script, answered)


def texts(content: str | list[dict[str, Any]]) -> list[str]:
    """The text blocks of a message's content; tool results are not among them."""
    if isinstance(content, str):
        return [content]
    return [block["text"] for block in content if block.get("type") == "text"]


async def play(body: dict[str, Any], steps: list[Step]) -> AsyncIterator[dict[str, Any] | Step]:
    """The API's stream events for `steps`; `hang`, `drop` and `drip` come out as they are."""
    used_in, used_out = usage_of(steps)
    message = message_head(body, used_in)
    stop_reason = "end_turn"
    index = 0
    started = False
    for step in steps:
        if step.verb == "stop":
            stop_reason = step.rest
        if step.verb in {"error", "usage", "stop"}:
            continue
        if step.verb in {"hang", "drop", "drip"}:
            yield step
            continue
        if not started:
            yield {"type": "message_start", "message": message}
            started = True
        async for event in play_block(index, step):
            yield event
        index += 1
        if step.verb in TOOLS:
            stop_reason = "tool_use"
    if not started:
        yield {"type": "message_start", "message": message}
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": used_out}}
    yield {"type": "message_stop"}


async def play_block(index: int, step: Step) -> AsyncIterator[dict[str, Any]]:
    """One content block: start, deltas, stop."""
    empty, pause_s, deltas = block_parts(step)
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        if pause_s:
            await asyncio.sleep(pause_s)
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def block_parts(step: Step) -> tuple[dict[str, Any], float, list[dict[str, Any]]]:
    """A block's empty form, the pause between its deltas in seconds, and the deltas."""
    if step.verb == "think":
        thought = {"type": "thinking_delta", "thinking": step.rest}
        signature = {"type": "signature_delta", "signature": "c2lnbmF0dXJl"}
        return {"type": "thinking", "thinking": "", "signature": ""}, 0, [thought, signature]
    if step.verb in TOOLS:
        name, tool_input = tool_call(step)
        tool_id = "toolu_" + hashlib.sha256(f"{step}{id(tool_input)}".encode()).hexdigest()[:20]
        block = {"type": "tool_use", "id": tool_id, "name": name, "input": {}}
        return block, 0, [{"type": "input_json_delta", "partial_json": json.dumps(tool_input)}]
    pause_s, pieces = text_parts(step)
    return {"type": "text", "text": ""}, pause_s, [{"type": "text_delta", "text": text} for text in pieces]


def tool_call(step: Step) -> tuple[str, dict[str, Any]]:
    """The tool's name and input for a tool step."""
    match step:
        case Step("bash", command):
            return "Bash", {"command": command, "description": "run a command"}
        case Step("bash-bg", command):
            return "Bash", {"command": command, "description": "run a command", "run_in_background": True}
        case Step("write", rest):
            path, _, content = rest.partition(" ")
            return "Write", {"file_path": path, "content": content}
        case Step("edit", rest):
            path, old, new = rest.split(" ", 2)
            return "Edit", {"file_path": path, "old_string": old, "new_string": new}
        case Step("structured", rest):
            return "StructuredOutput", json.loads(rest)
        case Step("tool", rest):
            name, _, tool_input = rest.partition(" ")
            return name, json.loads(tool_input or "{}")
        case _:
            raise ValueError(f"unknown step in the script: {step.verb} {step.rest}")


def whole_message(body: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
    """The answer to a call that does not stream: the same blocks, whole."""
    used_in, used_out = usage_of(steps)
    message = message_head(body, used_in)
    message["usage"]["output_tokens"] = used_out
    message["stop_reason"] = "end_turn"
    for step in steps:
        if step.verb == "stop":
            message["stop_reason"] = step.rest
        if step.verb in {"error", "usage", "drip", "stop"}:
            continue
        block, _, deltas = block_parts(step)
        if step.verb in TOOLS:
            block["input"] = json.loads(deltas[0]["partial_json"])
            message["stop_reason"] = "tool_use"
        elif block["type"] == "text":
            block["text"] = "".join(delta["text"] for delta in deltas)
        else:
            block |= {"thinking": deltas[0]["thinking"], "signature": deltas[1]["signature"]}
        message["content"].append(block)
    return message


def message_head(body: dict[str, Any], used_in: int) -> dict[str, Any]:
    return {
        "id": "msg_" + hashlib.sha256(json.dumps(body["messages"], default=str).encode()).hexdigest()[:20],
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": used_in,
            "output_tokens": 1,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


def error_response(status: int, text: str) -> web.Response:
    kind = ERROR_TYPES.get(status, "api_error")
    body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_fake"}
    return web.json_response(body, status=status)


if __name__ == "__main__":
    asyncio.run(serve(ModelApi()))
