"""A scripted Gemini API on loopback: the model behind the real `gemini` in tests.

The steps are those of `tests/fakes/chat_api.py`; `stop SAFETY` ends the answer for this reason.

Run alone: `python -m tests.fakes.gemini_api` prints its URL and serves until it is ended.
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

from tests.fakes.chat_api import last_prompts, tool_of
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


@dataclass(frozen=True, slots=True)
class GeminiCall:
    """One call of `POST /v1beta/models/MODEL:streamGenerateContent` as it came in."""

    headers: dict[str, str]
    model: str
    body: dict[str, Any]

    @property
    def key(self) -> str | None:
        return self.headers.get("x-goog-api-key")

    @property
    def effort(self) -> str | None:
        return None

    @property
    def instructions(self) -> str:
        return "\n".join(texts_of(self.body.get("systemInstruction") or {}))

    @property
    def conversation(self) -> str:
        return json.dumps(self.body["contents"], ensure_ascii=False)

    @property
    def user_texts(self) -> list[str]:
        users = [content for content in self.body["contents"] if content.get("role") == "user"]
        return [text for content in users for text in texts_of(content)]

    @property
    def images(self) -> list[tuple[str, bytes]]:
        parts = [part for content in self.body["contents"] for part in content.get("parts", [])]
        data = [part["inlineData"] for part in parts if "inlineData" in part]
        return [(image["mimeType"], b64decode(image["data"])) for image in data]

    @property
    def tools(self) -> dict[str, dict[str, Any]]:
        groups = [tool.get("functionDeclarations", []) for tool in self.body.get("tools") or []]
        found = [function for group in groups for function in group]
        return {function["name"]: properties_of(function) for function in found}


class GeminiApi(ScriptedApi[GeminiCall]):
    """The fake. `async with GeminiApi() as api:` serves at `api.url`; `api.requests` is what it was asked."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self._ids = itertools.count(1)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/{version}/models/{call}", self._generate)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        model, _, verb = request.match_info["call"].partition(":")
        call = GeminiCall(dict(request.headers), model, await request.json())
        if verb == "countTokens":
            return web.json_response({"totalTokens": 10})
        if not call.tools:
            return await self._aside(call, verb)
        self.requests.append(call)
        steps = next_steps(call.body["contents"])
        for step in steps:
            if status := self.error_status(step, call.body["contents"]):
                error = {"code": status, "message": f"scripted error {status}", "status": "SCRIPTED"}
                return web.json_response({"error": error}, status=status)
        return await stream(request, self._play(call, steps))

    async def _aside(self, call: GeminiCall, verb: str) -> web.Response:
        """What it asks beside the conversation: which model to take, whether the other one goes on."""
        wanted = properties_of({"parameters": call.body.get("generationConfig", {}).get("responseSchema")})
        wanted |= properties_of(
            {"parameters": call.body.get("generationConfig", {}).get("responseJsonSchema")}
        )
        text = json.dumps(dict.fromkeys(wanted, "flash"))
        answer = chunk([{"text": text}], [], "STOP")
        if verb != "streamGenerateContent":
            return web.json_response(answer)
        return web.Response(text=f"data: {json.dumps(answer)}\n\n", content_type="text/event-stream")

    async def _play(self, call: GeminiCall, steps: list[Step]) -> AsyncIterator[dict[str, Any] | Step]:
        reason = "STOP"
        for step in steps:
            match step.verb:
                case "error" | "usage":
                    continue
                case "hang" | "drop":
                    yield step
                case "stop":
                    reason = step.rest
                case verb if verb in TOOLS:
                    name, arguments = tool_of(step, call.tools)
                    used = {"name": name, "args": arguments, "id": f"fc_{next(self._ids)}"}
                    yield chunk([{"functionCall": used}], steps)
                case _:
                    pause_s, pieces = text_parts(step)
                    for piece in pieces:
                        await asyncio.sleep(pause_s)
                        yield chunk([{"text": piece}], steps)
        yield chunk([], steps, reason)


def next_steps(contents: list[dict[str, Any]]) -> list[Step]:
    """The steps that this call plays: the part after the one that the model's last tool call was in."""
    script: list[Step] = []
    answered = 0
    for content in contents:
        answered += sum("functionCall" in part for part in content.get("parts", []))
        if content.get("role") == "user" and (found := script_of(last_prompts(texts_of(content)))):
            script, answered = found, 0
    return part_after(script, answered)


def texts_of(content: dict[str, Any]) -> list[str]:
    return [part["text"] for part in content.get("parts", []) if "text" in part]


def properties_of(function: dict[str, Any]) -> dict[str, Any]:
    schema = function.get("parametersJsonSchema") or function.get("parameters") or {}
    properties: dict[str, Any] = schema.get("properties") or {}
    return properties


def chunk(parts: list[dict[str, Any]], steps: list[Step], reason: str | None = None) -> dict[str, Any]:
    used_in, used_out = usage_of(steps)
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    counts = {"promptTokenCount": used_in, "candidatesTokenCount": used_out}
    counts["totalTokenCount"] = used_in + used_out
    return {"candidates": [candidate], "usageMetadata": counts}


if __name__ == "__main__":
    asyncio.run(serve(GeminiApi()))
