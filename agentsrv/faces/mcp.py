"""The server as a set of tools for other agents: MCP (Model Context Protocol), JSON-RPC 2.0 without sessions.

https://modelcontextprotocol.io/specification/2025-11-25. A tool that cannot do what it is asked for says so in
its result, for the model to read; what is wrong with the message itself is an error of the protocol.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from agentsrv.access import Caller
from agentsrv.errors import AgentsrvError, Forbidden
from agentsrv.faces.listing import Listing
from agentsrv.faces.rpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_ID_CHARACTERS,
    METHOD_NOT_FOUND,
    is_id,
)
from agentsrv.model import (
    MODEL_PATTERN,
    SESSION_ID_PATTERN,
    Answer,
    Decision,
    PermissionMode,
    Scope,
    SessionId,
    Turn,
    TurnId,
    TurnOptions,
)
from agentsrv.turns.prompts import Prompt, Prompts
from agentsrv.turns.questions import WaitingQuestion
from agentsrv.turns.requests import IfBusy
from agentsrv.turns.service import TurnService
from agentsrv.turns.sessions import SessionService
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.git.workers import GitWorkers

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
"""The newest first."""

MAX_WAIT_S = 50
"""Clients give up a call after about a minute."""

MAX_DIFF_BYTES = 200_000
"""Of an answer that a model is to read."""

INSTRUCTIONS = (
    "Starts coding agents on this machine and follows what they do. send_prompt returns at once; call wait until the "
    "job has ended, and answer what its agent asks meanwhile."
)

Text = Annotated[str, Meta(min_length=1, max_length=8192)]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
Progress = Callable[[str], Awaitable[None]]
Note = Callable[..., None]
"""Adds to what the audit log says of the call."""


class SendPrompt(msgspec.Struct, forbid_unknown_fields=True):
    """Give an agent something to do, in a session that is new or has been used before. Returns the job at once."""

    prompt: Annotated[str, Meta(min_length=1, description="what the agent is to do")]
    session_id: (
        Annotated[str, Meta(pattern=SESSION_ID_PATTERN, description="leave it out for a new session")] | None
    ) = None
    agent: Annotated[Text, Meta(description="which agent works in a new session")] | None = None
    cwd: Annotated[Text, Meta(description="the directory of a new session, in the workspace")] | None = None
    model: Annotated[str, Meta(pattern=MODEL_PATTERN)] | None = None
    effort: Text | None = None
    permission_mode: (
        Annotated[
            PermissionMode,
            Meta(description="`ask`: it asks before it changes anything; `bypass`: it asks nothing"),
        ]
        | None
    ) = None
    use_worktree: Annotated[bool, Meta(description="work in a git worktree of its own")] = False
    if_busy: Annotated[IfBusy, Meta(description="when the session works already")] = IfBusy.REJECT
    message_id: (
        Annotated[
            str, Meta(min_length=1, max_length=200, description="the same one again starts nothing twice")
        ]
        | None
    ) = None


class Wait(msgspec.Struct, forbid_unknown_fields=True):
    """Wait until a job has ended or its agent asks something; call it again until then. Status, result, questions."""

    task_id: Id
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = MAX_WAIT_S


class AnswerQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Answer what a job's agent asks: allow or deny the call, or reply to its question."""

    task_id: Id
    request_id: Id
    decision: Decision
    remember: Annotated[bool, Meta(description="allow the like for the rest of the session")] = False
    message: Annotated[str, Meta(description="why it is denied")] | None = None
    updated_input: (
        Annotated[dict[str, Any], Meta(description="the input to go on with, or the replies")] | None
    ) = None


class Stop(msgspec.Struct, forbid_unknown_fields=True):
    """Stop a job, whether it runs or waits for its turn."""

    task_id: Id


class ListSessions(msgspec.Struct, forbid_unknown_fields=True):
    """All sessions, the newest first."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Text | None = None


class Diff(msgspec.Struct, forbid_unknown_fields=True):
    """What has changed in the repository that a session works in, against HEAD or another revision."""

    session_id: Id
    base: Text | None = None
    summary: Annotated[bool, Meta(description="only which files, and how many lines")] = False
    paths: list[str] = []


class Call(Struct, frozen=True):
    """Who calls, and how to tell them how far it is."""

    caller: Caller
    note: Note
    progress: Progress | None = None


class _Wrong(Exception):
    """The message is not one that can be answered."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Mcp:
    """Answers one message at a time; nothing is kept between them."""

    def __init__(
        self,
        version: str,
        prompts: Prompts,
        turns: TurnService,
        sessions: SessionService,
        listing: Listing,
        git: GitWorkers,
    ) -> None:
        self._version = version
        self._prompts = prompts
        self._turns = turns
        self._sessions = sessions
        self._listing = listing
        self._git = git
        self._tools: dict[str, tuple[type[msgspec.Struct], Scope, Callable[..., Awaitable[Any]]]] = {
            "send_prompt": (SendPrompt, Scope.PROMPT, self._send_prompt),
            "wait": (Wait, Scope.READ, self._wait),
            "answer": (AnswerQuestion, Scope.ANSWER, self._answer),
            "stop": (Stop, Scope.PROMPT, self._stop),
            "list_sessions": (ListSessions, Scope.READ, self._list_sessions),
            "diff": (Diff, Scope.READ, self._diff),
        }

    async def answer(self, message: dict[str, Any], call: Call) -> dict[str, Any] | None:
        """The answer to a message; None to what wants none (a notification, or an answer of theirs)."""
        id, method, params = message.get("id"), message.get("method"), message.get("params", {})
        if method is None or "id" not in message:
            return None
        is_named = id is not None and is_id(id)
        try:
            if not isinstance(method, str) or not is_named:
                raise _Wrong(
                    INVALID_REQUEST,
                    f"`method` must be a string, and `id` a whole number or at most {MAX_ID_CHARACTERS} characters",
                )
            if not isinstance(params, dict):
                raise _Wrong(INVALID_PARAMS, "`params` must be an object")
            return {"jsonrpc": "2.0", "id": id, "result": await self._result(method, params, call)}
        except _Wrong as exc:
            error = {"code": exc.code, "message": str(exc)}
            return {"jsonrpc": "2.0", "id": id if is_named else None, "error": error}

    async def _result(self, method: str, params: dict[str, Any], call: Call) -> dict[str, Any]:
        match method:
            case "initialize":
                return self._hello(params.get("protocolVersion"))
            case "ping":
                return {}
            case "tools/list":
                return {"tools": [_described(name, tool[0]) for name, tool in self._tools.items()]}
            case "tools/call":
                return await self._call(params.get("name"), params.get("arguments") or {}, call)
            case _:
                raise _Wrong(METHOD_NOT_FOUND, f"there is no method {method[:100]}")

    def _hello(self, wanted: object) -> dict[str, Any]:
        return {
            "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "agentsrv", "version": self._version},
            "instructions": INSTRUCTIONS,
        }

    async def _call(self, name: object, arguments: object, call: Call) -> dict[str, Any]:
        if not isinstance(name, str) or name not in self._tools:
            raise _Wrong(INVALID_PARAMS, f"`name` must be one of: {', '.join(self._tools)}")
        kind, scope, tool = self._tools[name]
        call.note(tool=name)
        try:
            if not call.caller.may(scope):
                raise Forbidden(f"this key lacks the scope `{scope}`", code="scope_missing")
            return _told(await tool(msgspec.convert(arguments, kind), call))
        except msgspec.ValidationError as exc:
            return _told({"error": f"wrong arguments: {exc}", "code": "invalid_input"}, is_error=True)
        except AgentsrvError as exc:
            return _told({"error": exc.message, "code": exc.code, **exc.extra}, is_error=True)

    # The tools

    async def _send_prompt(self, wanted: SendPrompt, call: Call) -> dict[str, Any]:
        text = wanted.prompt.encode(errors="replace")
        session_id = SessionId(wanted.session_id or f"mcp-{uuid.uuid4()}")
        call.note(session=session_id, bytes=len(text), sha256=sha256(text).hexdigest())
        prompt = Prompt(
            session_id=session_id,
            text=wanted.prompt,
            agent=wanted.agent,
            cwd=wanted.cwd,
            permission_mode=wanted.permission_mode,
            options=TurnOptions(model=wanted.model, effort=wanted.effort),
            message_id=wanted.message_id,
            if_busy=wanted.if_busy,
            use_worktree=wanted.use_worktree,
        )
        return _job((await self._prompts.send(prompt)).turn, [])

    async def _wait(self, wanted: Wait, call: Call) -> dict[str, Any]:
        turn = await self._turns.get(TurnId(wanted.task_id))
        if not turn.status.is_final and not self._asked(turn):
            with suppress(TimeoutError):
                async with asyncio.timeout(wanted.timeout_s):
                    await self._ended_or_asks(turn, call)
        turn = await self._turns.get(turn.id)
        return _job(turn, self._asked(turn))

    async def _ended_or_asks(self, turn: Turn, call: Call) -> None:
        async with aclosing(self._turns.follow_turn(turn, self._turns.last_seq(turn))) as chunks:
            async for chunk in chunks:
                if call.progress is not None:
                    await call.progress(f"event {chunk.last_seq} of session {turn.session_id}")
                if self._asked(turn):
                    return

    def _asked(self, turn: Turn) -> list[WaitingQuestion]:
        return [waiting for waiting in self._turns.questions() if waiting.turn.id == turn.id]

    async def _answer(self, wanted: AnswerQuestion, call: Call) -> dict[str, Any]:
        call.note(decision=wanted.decision)
        answer = Answer(
            wanted.decision,
            remember=wanted.remember,
            message=wanted.message,
            updated_input=wanted.updated_input,
        )
        await self._turns.answer(TurnId(wanted.task_id), wanted.request_id, answer)
        return {"request_id": wanted.request_id, "decision": wanted.decision}

    async def _stop(self, wanted: Stop, call: Call) -> dict[str, Any]:
        return _job(await self._turns.cancel(TurnId(wanted.task_id)), [])

    async def _list_sessions(self, wanted: ListSessions, call: Call) -> dict[str, Any]:
        page = await self._listing.page(limit=wanted.limit, cursor=wanted.cursor)
        sessions = [
            {
                "session_id": session.id,
                "name": session.name or None,
                "agent": session.agent,
                "cwd": session.cwd,
                "model": session.model,
                "begins": session.preview,
                "task_id": session.active_task_id,
                "worktree": session.worktree,
            }
            for session in page.sessions
        ]
        silent = {} if page.unreachable is None else {"unreachable": page.unreachable}
        return {"sessions": sessions, "next_cursor": page.next_cursor, **silent}

    async def _diff(self, wanted: Diff, call: Call) -> bytes:
        session = await self._sessions.get(SessionId(wanted.session_id))
        request = DiffRequest(path=session.cwd, base=wanted.base, paths=wanted.paths, summary=wanted.summary)
        found = await self._git.ask(request) + b"}"
        if len(found) <= MAX_DIFF_BYTES or wanted.summary:
            return found[:MAX_DIFF_BYTES]
        return (
            b'{"truncated":"the diff is too large to be read whole; ask for some `paths` of these","summary":'
            + (await self._diff(msgspec.structs.replace(wanted, summary=True), call))
            + b"}"
        )


def _described(name: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    schema = msgspec.json.schema(kind)
    defined = schema["$defs"].pop(kind.__name__)
    parameters = {key: value for key, value in defined.items() if key not in ("title", "description")}
    if schema["$defs"]:
        parameters["$defs"] = schema["$defs"]
    return {"name": name, "description": kind.__doc__, "inputSchema": parameters}


def _told(found: dict[str, Any] | bytes, *, is_error: bool = False) -> dict[str, Any]:
    """What a tool has found, for the model as text."""
    text = found.decode() if isinstance(found, bytes) else msgspec.json.encode(found).decode()
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": is_error}
    if isinstance(found, dict) and not is_error:
        result["structuredContent"] = found
    return result


def _job(turn: Turn, questions: list[WaitingQuestion]) -> dict[str, Any]:
    job: dict[str, Any] = {"task_id": turn.id, "session_id": turn.session_id, "status": turn.status}
    if (outcome := turn.outcome) is not None:
        told = {
            "result": outcome.result,
            "structured_output": outcome.structured_output,
            "error": outcome.error,
            "code": outcome.error_code,
            "cost_usd": outcome.cost_usd,
        }
        job |= {name: value for name, value in told.items() if value is not None}
    if questions:
        job["questions"] = [
            {
                "request_id": waiting.question.id,
                "kind": waiting.question.kind,
                "tool": waiting.question.tool,
                "title": waiting.question.title,
                "input": waiting.question.input,
            }
            for waiting in questions
        ]
    return job
