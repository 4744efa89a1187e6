"""A scripted Responses API on loopback: the model behind the real `codex` in tests.

The prompt says what the model does, one step a line; everything else in the prompt is ignored:

    SCRIPT: text Hello there              a message
    SCRIPT: deltas 50 0.01                a message of 50 deltas, 0.01 s apart
    SCRIPT: fill 100000                   a message of so many characters, in deltas of 1,000
    SCRIPT: think Hmm                     a reasoning summary
    SCRIPT: bash echo hi                  a command; `bash-bg` returns to the model after 0.3 s, the command goes on
    SCRIPT: write notes.txt some text     a patch that adds a file; the path has no blanks
    SCRIPT: edit notes.txt some any       a patch of a line: path, old line, new line, each of one word
    SCRIPT: tool name {"input": 1}        any function; `space.name`: one of a namespace, never by JavaScript
    SCRIPT: error 429 2                   this HTTP error twice, then the rest; without a count: always
    SCRIPT: failed context_length_exceeded    the answer ends as failed, with this code
    SCRIPT: incomplete max_output_tokens  the answer ends there, for this reason
    SCRIPT: hang                          nothing more, until the client goes away
    SCRIPT: drip 0.01                     what follows is sent in crumbs of 7 bytes, so far apart
    SCRIPT: drop                          the connection is cut
    SCRIPT: usage 1000 100                input and output tokens of this answer
    SCRIPT: and                           between two tools: the model uses them in one answer

A model call plays the steps up to and including the next tool; the tool's result comes back in the next call,
which plays on from there. A call beyond the script, or without one, answers `ok`. Models that have but one tool,
which takes JavaScript, get the commands and patches as JavaScript.

Run alone: `python -m tests.fakes.responses_api` prints its URL and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.fakes.scripted import (
    TOOLS,
    ScriptedApi,
    Step,
    part_after,
    script_of,
    serve,
    stream,
    text_parts,
    usage_of,
)

CALLS = frozenset({"function_call", "custom_tool_call"})
"""The items by which a model uses a tool; each ends a part of the script."""


@dataclass(frozen=True, slots=True)
class ResponsesCall:
    """One call of `POST /v1/responses` as it came in."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str | None:
        """The credential that came with the call."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def effort(self) -> str | None:
        effort: str | None = (self.body.get("reasoning") or {}).get("effort")
        return effort

    @property
    def output_schema(self) -> dict[str, Any] | None:
        schema: dict[str, Any] | None = (self.body.get("text") or {}).get("format", {}).get("schema")
        return schema

    @property
    def instructions(self) -> str:
        """What the model is told besides the conversation."""
        told = texts_of(self.body["input"], "developer")
        return "\n".join([str(self.body.get("instructions", "")), *told])

    @property
    def conversation(self) -> str:
        """All of it, with the results of tools, as JSON."""
        return json.dumps(self.body["input"], ensure_ascii=False)

    @property
    def user_texts(self) -> list[str]:
        """Every text of every user message, oldest first; a prompt is one of them, byte for byte."""
        return texts_of(self.body["input"], "user")

    @property
    def images(self) -> list[tuple[str, bytes]]:
        """(type, bytes) of every image of every user message, oldest first."""
        urls = parts_of(self.body["input"], "user", "image_url")
        heads = [url.removeprefix("data:").partition(";base64,") for url in urls]
        return [(media_type, b64decode(data)) for media_type, _, data in heads]

    @property
    def is_code_mode(self) -> bool:
        """Has the model but one tool, which takes JavaScript?"""
        tools = [*self.body.get("tools", [])]
        for item in self.body["input"]:
            tools += item.get("tools", []) if item.get("type") == "additional_tools" else []
        return not any(tool.get("name") in ("exec_command", "Bash") for tool in tools)


class ResponsesApi(ScriptedApi[ResponsesCall]):
    """The fake. `async with ResponsesApi() as api:` serves at `api.url`; `api.requests` is what it was asked."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self._ids = itertools.count(1)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/responses", self._responses)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/responses: the next part of the script."""
        call = ResponsesCall(dict(request.headers), await request.json())
        self.requests.append(call)
        steps = next_steps(call.body["input"])
        for step in steps:
            if status := self.error_status(step, call.body["input"]):
                error = {"message": f"scripted error {status}", "type": "scripted", "code": None}
                return web.json_response({"error": error}, status=status)
        return await stream(request, self._play(call, steps), {"x-request-id": "req_fake"})

    async def _play(self, call: ResponsesCall, steps: list[Step]) -> AsyncIterator[dict[str, Any] | Step]:
        """The API's stream events for `steps`; `hang`, `drop` and `drip` come out as they are."""
        response: dict[str, Any] = {"id": f"resp_{next(self._ids)}", "model": call.model}
        yield {"type": "response.created", "response": response}
        for index, step in enumerate(steps):
            match step.verb:
                case "error" | "usage":
                    continue
                case "hang" | "drop" | "drip":
                    yield step
                case "failed":
                    error = {"code": step.rest, "message": f"scripted failure {step.rest}"}
                    yield {"type": "response.failed", "response": response | {"error": error}}
                    return
                case "incomplete":
                    reason = {"incomplete_details": {"reason": step.rest}, "usage": usage(steps)}
                    yield {"type": "response.incomplete", "response": response | reason}
                    return
                case "think":
                    for event in thought(index, f"rs_{next(self._ids)}", step.rest):
                        yield event
                case verb if verb in TOOLS:
                    item = tool_call(step, f"call_{next(self._ids)}", call.is_code_mode)
                    for event in called(index, f"fc_{next(self._ids)}", item):
                        yield event
                case _:
                    async for event in message(index, f"msg_{next(self._ids)}", step):
                        yield event
        yield {"type": "response.completed", "response": response | {"usage": usage(steps)}}


def next_steps(conversation: list[dict[str, Any]]) -> list[Step]:
    """The steps that this call plays: the part after the one that the model's last tool call was in."""
    script: list[Step] = []
    answered = 0
    for item in conversation:
        if item.get("type") in CALLS:
            answered += 1
        elif item.get("role") == "user" and (found := script_of(texts_of([item], "user"))):
            script, answered = found, 0
    return part_after(script, answered)


def texts_of(items: list[dict[str, Any]], role: str) -> list[str]:
    return parts_of(items, role, "text")


def parts_of(items: list[dict[str, Any]], role: str, name: str) -> list[str]:
    """What the parts of these messages have under `name`; those without it are left out."""
    messages = [item for item in items if item.get("type") == "message" and item.get("role") == role]
    return [part[name] for item in messages for part in item["content"] if name in part]


async def message(index: int, item_id: str, step: Step) -> AsyncIterator[dict[str, Any]]:
    """A message item: added, deltas, done."""
    item: dict[str, Any] = {"type": "message", "id": item_id, "role": "assistant", "content": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": item}
    pause_s, pieces = text_parts(step)
    for piece in pieces:
        if pause_s:
            await asyncio.sleep(pause_s)
        yield {
            "type": "response.output_text.delta",
            "item_id": item_id,
            "output_index": index,
            "content_index": 0,
            "delta": piece,
        }
    item = item | {"content": [{"type": "output_text", "text": "".join(pieces), "annotations": []}]}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def thought(index: int, item_id: str, text: str) -> Iterator[dict[str, Any]]:
    """A reasoning item with a summary of one part."""
    item: dict[str, Any] = {"type": "reasoning", "id": item_id, "summary": []}
    where = {"item_id": item_id, "output_index": index, "summary_index": 0}
    part = {"type": "summary_text", "text": text}
    yield {"type": "response.output_item.added", "output_index": index, "item": item}
    yield {"type": "response.reasoning_summary_part.added", **where, "part": part | {"text": ""}}
    yield {"type": "response.reasoning_summary_text.delta", **where, "delta": text}
    yield {"type": "response.output_item.done", "output_index": index, "item": item | {"summary": [part]}}


def called(index: int, item_id: str, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A tool's item as it comes: a function's arguments by themselves, too, which translators read."""
    if item["type"] == "function_call":
        item = item | {"id": item_id}
        where = {"item_id": item_id, "output_index": index}
        yield {"type": "response.output_item.added", "output_index": index, "item": item | {"arguments": ""}}
        yield {"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]}
        yield {"type": "response.function_call_arguments.done", **where, "arguments": item["arguments"]}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def tool_call(step: Step, call_id: str, is_code_mode: bool) -> dict[str, Any]:
    """The item by which the model uses the tool of a step."""
    name, arguments = tool_of(step)
    namespace, _, function = name.rpartition(".")
    if namespace:
        item = {"type": "function_call", "call_id": call_id, "namespace": namespace, "name": function}
        return item | {"arguments": json.dumps(arguments)}
    if is_code_mode:
        javascript = f"text(await tools.{name}({json.dumps(arguments)}));"
        return {"type": "custom_tool_call", "call_id": call_id, "name": "exec", "input": javascript}
    if isinstance(arguments, str):
        return {"type": "custom_tool_call", "call_id": call_id, "name": name, "input": arguments}
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": json.dumps(arguments)}


def tool_of(step: Step) -> tuple[str, dict[str, Any] | str]:
    """The tool's name and what it gets: an object, or the text of a patch."""
    match step:
        case Step("bash", command):
            return "exec_command", {"cmd": command, "yield_time_ms": 30_000}
        case Step("bash-bg", command):
            return "exec_command", {"cmd": command, "yield_time_ms": 300}
        case Step("write", rest):
            path, _, content = rest.partition(" ")
            return "apply_patch", patch(f"*** Add File: {path}", f"+{content}")
        case Step("edit", rest):
            path, old, new = rest.split(" ", 2)
            return "apply_patch", patch(f"*** Update File: {path}", "@@", f"-{old}", f"+{new}")
        case Step("tool", rest):
            name, _, arguments = rest.partition(" ")
            return name, json.loads(arguments or "{}")
        case _:
            raise ValueError(f"unknown step in the script: {step.verb} {step.rest}")


def patch(*lines: str) -> str:
    return "\n".join(("*** Begin Patch", *lines, "*** End Patch"))


def usage(steps: list[Step]) -> dict[str, Any]:
    used_in, used_out = usage_of(steps)
    return {
        "input_tokens": used_in,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": used_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used_in + used_out,
    }


if __name__ == "__main__":
    asyncio.run(serve(ResponsesApi()))
