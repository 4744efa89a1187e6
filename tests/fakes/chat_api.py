"""A scripted chat-completions API on loopback: the model behind agents that speak it.

The steps are those of `tests/fakes/responses_api.py`, without `failed`, `incomplete`, `think`, `drip` and `bash-bg`;
`stop length` ends the answer for this reason. Which tools there are to run a command or to write a file the call
itself says.

Run alone: `python -m tests.fakes.chat_api` prints its URL and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import itertools
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
    part_after,
    script_of,
    serve,
    stream,
    text_parts,
    usage_of,
)

SHELLS = ("bash", "Bash", "shell", "developer__shell", "run_shell_command")
WRITERS = ("write", "Write", "create", "write_file", "developer__write")
NEW_PROMPT = "THE PROMPT BEGINS\n"
"""What a prompt may begin with, so that it is told from another one in the same text."""

PATHS = ("filePath", "file_path", "path")
TEXTS = ("content", "file_text")
"""What they call the file, and what is to be in it."""


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One call of `POST /v1/chat/completions` as it came in."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def effort(self) -> str | None:
        # qwen says it as the other one of OpenAI's APIs has it.
        nested = self.body.get("reasoning") or {}
        effort: str | None = self.body.get("reasoning_effort") or nested.get("effort")
        return effort

    @property
    def instructions(self) -> str:
        return "\n".join(texts_of(self.body["messages"], "system", "developer"))

    @property
    def conversation(self) -> str:
        return json.dumps(self.body["messages"], ensure_ascii=False)

    @property
    def user_texts(self) -> list[str]:
        return texts_of(self.body["messages"], "user")

    @property
    def images(self) -> list[tuple[str, bytes]]:
        parts = [part for message in self.body["messages"] for part in parts_of(message)]
        urls = [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
        heads = [url.removeprefix("data:").partition(";base64,") for url in urls]
        return [(media_type, b64decode(data)) for media_type, _, data in heads]

    @property
    def tools(self) -> dict[str, dict[str, Any]]:
        """What may be used, by name, with the properties that it takes."""
        found = [tool["function"] for tool in self.body.get("tools") or []]
        return {tool["name"]: tool.get("parameters", {}).get("properties", {}) for tool in found}


class ChatApi(ScriptedApi[ChatCall]):
    """The fake. `async with ChatApi() as api:` serves at `api.url`; `api.requests` is what it was asked."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self._ids = itertools.count(1)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self._complete)
        router.add_get("/v1/models", self._models)

    async def _models(self, _: web.Request) -> web.Response:
        models = [{"id": name, "object": "model", "owned_by": "fake"} for name in ("fake-1", "fake-2")]
        return web.json_response({"object": "list", "data": models})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions: the next part of the script."""
        call = ChatCall(dict(request.headers), await request.json())
        self.requests.append(call)
        steps = next_steps(call.body["messages"]) if call.tools else [Step("text", "A title")]
        for step in steps:
            if status := self.error_status(step, call.body["messages"]):
                error = {"message": f"scripted error {status}", "type": "scripted", "code": None}
                return web.json_response({"error": error}, status=status)
        if not call.body.get("stream"):
            return web.json_response(await self._whole(call, steps))
        return await stream(request, self._play(call, steps), last=b"data: [DONE]\n\n")

    async def _play(self, call: ChatCall, steps: list[Step]) -> AsyncIterator[dict[str, Any] | Step]:
        """The stream's chunks for `steps`; `hang` and `drop` come out as they are."""
        head = {"id": f"chatcmpl-{next(self._ids)}", "object": "chat.completion.chunk", "created": 1}
        head["model"] = call.model
        reason, calls = "stop", 0
        yield head | {"choices": [choice({"role": "assistant", "content": ""})]}
        for step in steps:
            match step.verb:
                case "error" | "usage":
                    continue
                case "hang" | "drop":
                    yield step
                case "stop":
                    reason = step.rest
                case verb if verb in TOOLS:
                    used = tool_call(step, f"call_{next(self._ids)}", call.tools)
                    yield head | {"choices": [choice({"tool_calls": [{"index": calls, **used}]})]}
                    reason, calls = "tool_calls", calls + 1
                case _:
                    pause_s, pieces = text_parts(step)
                    for piece in pieces:
                        await asyncio.sleep(pause_s)
                        yield head | {"choices": [choice({"content": piece})]}
        yield head | {"choices": [choice({}, reason)]}
        yield head | {"choices": [], "usage": usage(steps)}

    async def _whole(self, call: ChatCall, steps: list[Step]) -> dict[str, Any]:
        """The same as one answer."""
        content, calls, reason, head = "", [], "stop", {}
        async for chunk in self._play(call, steps):
            assert isinstance(chunk, dict), "only a stream can hang or be cut"
            head = chunk
            for part in chunk["choices"]:
                content += part["delta"].get("content") or ""
                calls += part["delta"].get("tool_calls", [])
                reason = part["finish_reason"] or reason
        message = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
        choices = [{"index": 0, "message": message, "finish_reason": reason}]
        return head | {"object": "chat.completion", "choices": choices}


def next_steps(messages: list[dict[str, Any]]) -> list[Step]:
    """The steps that this call plays: the part after the one that the model's last tool call was in."""
    script: list[Step] = []
    answered = 0
    for message in messages:
        if message.get("tool_calls"):
            answered += len(message["tool_calls"])
        elif message["role"] == "user" and (found := script_of(last_prompts(texts_of([message], "user")))):
            script, answered = found, 0
    return part_after(script, answered)


def last_prompts(texts: list[str]) -> list[str]:
    """Of texts that hold several prompts the last one."""
    return [text.rpartition(NEW_PROMPT)[2] for text in texts]


def parts_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])


def texts_of(messages: list[dict[str, Any]], *roles: str) -> list[str]:
    chosen = [part for message in messages if message["role"] in roles for part in parts_of(message)]
    return [part["text"] for part in chosen if part.get("type") == "text"]


def choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


def tool_call(step: Step, call_id: str, tools: dict[str, dict[str, Any]]) -> dict[str, Any]:
    name, arguments = tool_of(step, tools)
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def tool_of(step: Step, tools: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The tool that does what a step says, of those that there are, and what it gets."""
    match step:
        case Step("bash", command):
            name = next(name for name in SHELLS if name in tools)
            known = {"command": command, "description": "run it"}
            return name, {key: value for key, value in known.items() if key in tools[name]}
        case Step("write", rest):
            path, _, content = rest.partition(" ")
            name = next(name for name in WRITERS if name in tools)
            path_name, text_name = (
                next(known for known in names if known in tools[name]) for names in (PATHS, TEXTS)
            )
            return name, {path_name: path, text_name: content}
        case Step("tool", rest):
            name, _, given = rest.partition(" ")
            return name, json.loads(given or "{}")
        case _:
            raise ValueError(f"unknown step in the script: {step.verb} {step.rest}")


def usage(steps: list[Step]) -> dict[str, Any]:
    used_in, used_out = usage_of(steps)
    return {
        "prompt_tokens": used_in,
        "completion_tokens": used_out,
        "total_tokens": used_in + used_out,
    }


if __name__ == "__main__":
    asyncio.run(serve(ChatApi()))
