"""The server as an agent: the Agent Client Protocol (ACP), version 1, for editors and whoever else drives agents.

One `AcpFace` is one connection. Sessions are the server's own and outlive it: what runs goes on, and who comes back
loads or resumes a session, follows what runs there, and is asked again what still waits for an answer.

A client that wants to miss nothing over a cut names a prompt (`_meta.agentsrv.messageId`) and says which event it has
seen last (`_meta.agentsrv.lastEventId`; each update tells its own): the same prompt again is followed from there.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from agentsrv.access import Caller
from agentsrv.errors import AgentsrvError, Forbidden, NotFound
from agentsrv.faces.acp_turns import ASK, Means, Opened, Send, Telling
from agentsrv.faces.acp_words import (
    MESSAGE_ID,
    OPTIONS,
    Params,
    RpcError,
    answer_in,
    content_of,
    error_of,
    greeting,
    mcp_servers_of,
    ours_in,
    seen_in,
    session_id_of,
    settings_of,
    text_of,
)
from agentsrv.faces.rpc import (
    INTERNAL,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_ID_CHARACTERS,
    METHOD_NOT_FOUND,
    refusal,
    wrong_in,
)
from agentsrv.jsontext import as_object
from agentsrv.model import (
    DEFAULT_MODEL,
    MODEL,
    SESSION_ID,
    Answer,
    Decision,
    PermissionMode,
    Scope,
    Session,
    SessionId,
    TurnId,
    TurnOptions,
)
from agentsrv.tasks import Tasks
from agentsrv.turns.prompts import Prompt

log = logging.getLogger(__name__)

MAX_REQUESTS = 64
"""So many requests of one connection are worked on at once."""
PAGE = 50

Note = Callable[[str, str], None]
"""Tells the audit log of what has been done, and to which session."""


class AcpFace:
    """One connection. `receive` takes its messages, `send` gets ours; `close` leaves what runs running."""

    def __init__(self, means: Means, caller: Caller, send: Send, note: Note) -> None:
        self._means = means
        self._caller = caller
        self.send = send
        self._note = note
        self._tasks = Tasks("acp")
        self._busy = 0
        self._is_initialized = False
        self._telling = Telling(means, send, self._tasks)
        self._prompted: dict[TurnId, SessionId] = {}
        """The turns whose ends are waited for."""
        self._orders: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()
        self._requests: dict[str, tuple[Scope | None, Callable[[Params], Awaitable[dict[str, Any]]]]] = {
            "initialize": (None, self._initialize),
            "authenticate": (None, self._nothing),
            "session/new": (Scope.PROMPT, self._new),
            "session/load": (Scope.READ, self._load),
            "session/resume": (Scope.READ, self._resume),
            "session/fork": (Scope.PROMPT, self._fork),
            "session/list": (Scope.READ, self._list),
            "session/close": (Scope.READ, self._close_session),
            "session/delete": (Scope.PROMPT, self._delete),
            "session/prompt": (Scope.PROMPT, self._prompt),
            "session/cancel": (Scope.PROMPT, self._cancel),
            "session/set_mode": (Scope.PROMPT, self._set_mode),
            "session/set_config_option": (Scope.PROMPT, self._set_option),
        }

    async def receive(self, message: Any) -> None:
        """Take one message; what it asks for is answered when that is done, maybe behind later ones."""
        if (wrong := wrong_in(message)) is not None:
            await self.send([refusal(*wrong)])
        elif (method := message.get("method")) is None:
            self._answered(message.get("id"), message)
        elif "id" not in message:
            self._notified(method, message.get("params", {}))
        elif self._busy >= MAX_REQUESTS:
            busy = f"{MAX_REQUESTS} requests are being worked on; wait for one of them"
            await self.send([refusal(message["id"], INTERNAL, busy)])
        else:
            self._busy += 1
            self._tasks.spawn(self._answer(message), name=f"{method[:40]}")

    async def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request in which nothing is wrong."""
        try:
            found: dict[str, Any] = {
                "result": await self._result(message["method"], message.get("params", {}))
            }
        except RpcError as exc:
            found = {"error": exc.error}
        except AgentsrvError as exc:
            found = {"error": error_of(exc)}
        return {"jsonrpc": "2.0", "id": message["id"], **found}

    async def close(self) -> None:
        """The connection is gone. Closing twice is fine."""
        await self._tasks.close()

    async def _answer(self, message: Mapping[str, Any]) -> None:
        try:
            answer = await self.answer(message)
        except Exception:  # A request without an answer is waited for for ever.
            log.exception("a request of ACP has failed")
            answer = refusal(message["id"], INTERNAL, "the server has failed; its log says why")
        finally:
            self._busy -= 1
        await self.send([answer])

    async def _result(self, method: str, params: Params) -> dict[str, Any]:
        if (found := self._requests.get(method)) is None:
            raise RpcError(METHOD_NOT_FOUND, f"there is no method {method[:100]}")
        scope, does = found
        if not self._is_initialized and method != "initialize":
            raise RpcError(INVALID_REQUEST, "send `initialize` first")
        self._require(scope)
        if scope is Scope.PROMPT:
            self._note(method, str(params.get("sessionId", ""))[:MAX_ID_CHARACTERS])
        return await does(params)

    def _require(self, scope: Scope | None) -> None:
        if scope is not None and not self._caller.may(scope):
            raise Forbidden(f"this key lacks the scope `{scope}`", code="scope_missing")

    async def _here(self, params: Params) -> SessionId:
        """The session that is meant, which is at home on no other server."""
        session_id = session_id_of(params)
        await self._means.sessions.require_not_elsewhere(session_id)
        return session_id

    # The connection

    async def _nothing(self, _: Params) -> dict[str, Any]:
        return {}

    async def _initialize(self, params: Params) -> dict[str, Any]:
        self._is_initialized = True
        elicitation = as_object(params.get("clientCapabilities")).get("elicitation")
        self._telling.can_be_asked = isinstance(elicitation, dict) and "form" in elicitation
        return greeting(self._means.version, self._means.max_message_bytes)

    # Sessions

    async def _new(self, params: Params) -> dict[str, Any]:
        ours, servers = ours_in(params), mcp_servers_of(params)
        session = await self._means.sessions.create(
            session_id=text_of(ours, "sessionId", SESSION_ID),
            agent=text_of(ours, "agent"),
            cwd=text_of(params, "cwd"),
            model=text_of(ours, "model", MODEL),
            name=None,
        )
        self._telling.opened[session.id] = Opened(servers)
        return {"sessionId": session.id, **await self._settings(session)}

    async def _load(self, params: Params) -> dict[str, Any]:
        """All that was said comes before the answer; then what happens."""
        session = await self._opened(params)
        last = await self._means.sessions.last_seq(session.id)
        await self._telling.replay(session, last)
        self._telling.follow_running(session, last)
        return await self._settings(session)

    async def _resume(self, params: Params) -> dict[str, Any]:
        """Nothing is told again, but for what comes after the event that the client has seen, if it names one."""
        session = await self._opened(params)
        last = await self._means.sessions.last_seq(session.id)
        ours = ours_in(params)
        seen = seen_in(ours, last)
        if ours.get("follow") is not False:
            self._telling.follow_running(session, last if seen is None else seen)
        return await self._settings(session)

    async def _fork(self, params: Params) -> dict[str, Any]:
        servers = mcp_servers_of(params)
        session = await self._means.sessions.fork(await self._here(params), session_id=None)
        self._telling.opened[session.id] = Opened(servers)
        return {"sessionId": session.id, **await self._settings(session)}

    async def _list(self, params: Params) -> dict[str, Any]:
        page = await self._means.listing.page(
            limit=PAGE, cursor=text_of(params, "cursor"), cwd=text_of(params, "cwd")
        )
        sessions = [
            {
                "sessionId": session.id,
                "cwd": session.cwd,
                "title": session.name or session.preview,
                "updatedAt": session.updated_at,
                "_meta": {"agentsrv": {"agent": session.agent, "taskId": session.active_task_id}},
            }
            for session in page.sessions
        ]
        more = {"nextCursor": page.next_cursor} if page.next_cursor else {}
        silent = (
            {} if page.unreachable is None else {"_meta": {"agentsrv": {"unreachable": page.unreachable}}}
        )
        return {"sessions": sessions, **more, **silent}

    async def _close_session(self, params: Params) -> dict[str, Any]:
        self._telling.leave(await self._here(params))
        return {}

    async def _delete(self, params: Params) -> dict[str, Any]:
        session_id = await self._here(params)
        self._telling.leave(session_id)
        with suppress(NotFound):
            await self._means.sessions.delete(session_id, force=True)
        return {}

    async def _set_mode(self, params: Params) -> dict[str, Any]:
        await self._change(params, "permission_mode", params.get("modeId"))
        return {}

    async def _set_option(self, params: Params) -> dict[str, Any]:
        option = params.get("configId")
        if option not in ("mode", *OPTIONS):
            raise RpcError(INVALID_PARAMS, f"`configId` must be one of mode, {', '.join(OPTIONS)}")
        field = "permission_mode" if option == "mode" else str(option)
        session = await self._change(params, field, params.get("value"))
        return {"configOptions": (await self._settings(session))["configOptions"]}

    async def _change(self, params: Params, field: str, value: object) -> Session:
        """Of a session, for the prompts that come; its mode also for the turn that runs."""
        session_id = await self._here(params)
        wanted: str | None
        if field == "permission_mode":
            if value not in list(PermissionMode):
                raise RpcError(INVALID_PARAMS, f"the mode must be one of {', '.join(PermissionMode)}")
            wanted = PermissionMode(str(value))
        else:
            text = text_of({field: value}, field, MODEL)
            wanted = None if text == DEFAULT_MODEL else text
        session = await self._means.sessions.update(session_id, **{field: wanted})
        if field == "permission_mode":
            update = {"sessionUpdate": "current_mode_update", "currentModeId": wanted}
            await self._telling.notify(session_id, update)
        return session

    async def _opened(self, params: Params) -> Session:
        session = await self._means.sessions.get(await self._here(params))
        opened = self._telling.opened.setdefault(session.id, Opened())
        opened.mcp_servers = mcp_servers_of(params) or opened.mcp_servers
        return session

    async def _settings(self, session: Session) -> dict[str, Any]:
        agent = await self._means.agents.known(session.agent)
        return settings_of(session, agent, self._means.default_mode)

    # Turns

    async def _prompt(self, params: Params) -> dict[str, Any]:
        session_id, ours = session_id_of(params), ours_in(params)
        text, images = content_of(params.get("prompt"))
        async with self._in_order(session_id):
            # One that does not exist is not made: a client has got its id from somewhere.
            session = await self._means.sessions.get(await self._here(params))
            opened = self._telling.opened.setdefault(session_id, Opened())
            seen = seen_in(ours, await self._means.sessions.last_seq(session_id))
            prompt = Prompt(
                session_id=session_id,
                text=text,
                images=images,
                options=TurnOptions(mcp_servers=opened.mcp_servers, partial_messages=True),
                message_id=text_of(ours, "messageId", MESSAGE_ID) or str(uuid.uuid4()),
            )
            turn = (await self._means.prompts.send(prompt)).turn
        self._prompted[turn.id] = session_id
        try:
            return await self._telling.follow(session, turn, seen or max(turn.first_seq - 1, 0))
        finally:
            self._prompted.pop(turn.id, None)

    async def _cancel(self, params: Params) -> dict[str, Any]:
        session_id = session_id_of(params)
        async with self._in_order(session_id):
            await self._means.turns.stop(await self._here(params))
        return {}

    def _in_order(self, session_id: SessionId) -> asyncio.Lock:
        """A turn that a client begins has begun before what it says next ends it, and the other way round.

        To be taken before anything is waited for.
        """
        return self._orders.setdefault(session_id, asyncio.Lock())

    # Answers and notifications of the client

    def _answered(self, id_: Any, message: Mapping[str, Any]) -> None:
        """An error says that the client cannot ask: the question stays, for others."""
        if "result" not in message or not self._caller.may(Scope.ANSWER) or not str(id_).startswith(ASK):
            return
        turn_id, _, question_id = str(id_).removeprefix(ASK).partition("/")
        answer = answer_in(as_object(message["result"]))
        if answer is not None:
            giving = self._give(TurnId(turn_id), question_id, answer)
        elif (session_id := self._prompted.get(TurnId(turn_id))) is not None:
            giving = self._dismiss(session_id, TurnId(turn_id), question_id)
        else:
            return
        self._note("answer", turn_id)
        self._tasks.spawn(giving, name=f"answer:{turn_id}")

    async def _dismiss(self, session_id: SessionId, turn_id: TurnId, question_id: str) -> None:
        """Who has begun the turn will not say yes. When that is because it has stopped it, this comes after."""
        async with self._in_order(session_id):
            await self._give(turn_id, question_id, Answer(Decision.DENY))

    async def _give(self, turn_id: TurnId, question_id: str, answer: Answer) -> None:
        with suppress(AgentsrvError):  # Answered by somebody else, or the turn has ended.
            await self._means.turns.answer(turn_id, question_id, answer)

    def _notified(self, method: str, params: Params) -> None:
        if method == "session/cancel":
            self._tasks.spawn(self._heed(method, params), name="cancel")

    async def _heed(self, method: str, params: Params) -> None:
        with suppress(AgentsrvError, RpcError):  # Nothing runs any more; nobody waits to be told.
            await self._result(method, params)
