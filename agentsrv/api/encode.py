"""From values to answers: the only place that knows how times, sessions, jobs and errors look on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from agentsrv.agents.contract import AgentInfo
from agentsrv.api.schemas.activity import SessionActivity
from agentsrv.api.schemas.agents import AgentView
from agentsrv.api.schemas.git import WorktreeView
from agentsrv.api.schemas.jobs import JobView, QueuedView
from agentsrv.api.schemas.permissions import PermissionOption, PermissionView
from agentsrv.api.schemas.sessions import ForkedFrom, SessionView
from agentsrv.errors import AgentsrvError
from agentsrv.model import Millis, Outcome, Seq, Session, Turn
from agentsrv.store.prompts import WaitingPrompt
from agentsrv.turns.activity import SessionState
from agentsrv.turns.questions import WaitingQuestion, answer_options
from agentsrv.turns.worktrees import SessionWorktree

T = TypeVar("T")


def json_response(
    answer: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(answer),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


def timestamp(at: Millis | None = None) -> str:
    """ISO 8601 in UTC with milliseconds and `Z`; None: now."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def session_view(session: Session) -> SessionView:
    return SessionView(**_session_fields(session))


def activity_session(state: SessionState) -> SessionActivity:
    last = state.last_turn
    return SessionActivity(
        **_session_fields(state.session),
        status=state.status,
        doing=_some(state.tool),
        last_job=UNSET if last is None else job_view(last, state.last_seq),
        last_event_id=state.last_seq,
        pending_permissions=state.questions,
        queued=state.queued,
        cost_usd=_some(state.cost_usd),
    )


def _session_fields(session: Session) -> dict[str, Any]:
    fork = session.fork
    return {
        "id": session.id,
        "name": session.name or "",
        "agent": session.agent,
        "cwd": session.cwd,
        "model": session.model,
        "internal_session_id": session.internal_session_id or "",
        "created_at": timestamp(session.created_at),
        "updated_at": timestamp(session.updated_at),
        "is_streaming": session.active_turn_id is not None,
        "active_task_id": session.active_turn_id,
        "worktree": session.worktree,
        "preview": session.preview,
        "archived_at": None if session.archived_at is None else timestamp(session.archived_at),
        "permission_mode": session.permission_mode,
        "effort": session.effort,
        "mcp_servers": None if session.mcp_servers is None else list(session.mcp_servers),
        "tags": list(session.tags),
        "metadata": session.metadata,
        "setting_sources": None if session.setting_sources is None else list(session.setting_sources),
        "forked_from": None if fork is None else ForkedFrom(session_id=fork.session_id, event_id=fork.seq),
    }


def job_view(turn: Turn, last_seq: Seq) -> JobView:
    outcome = turn.outcome or Outcome(turn.status)
    return JobView(
        task_id=turn.id,
        session_id=turn.session_id,
        status=turn.status,
        created_at=timestamp(turn.created_at),
        started_at=UNSET if turn.started_at is None else timestamp(turn.started_at),
        finished_at=UNSET if turn.finished_at is None else timestamp(turn.finished_at),
        error=_some(outcome.error),
        code=_some(outcome.error_code),
        first_event_id=turn.first_seq,
        last_event_id=last_seq,
        stop_reason=_some(outcome.stop_reason),
        usage=_some(outcome.usage),
        cost_usd=_some(outcome.cost_usd),
        structured_output=_some(outcome.structured_output),
        result=_some(outcome.result),
    )


def question_view(waiting: WaitingQuestion) -> PermissionView:
    question, turn = waiting.question, waiting.turn
    return PermissionView(
        request_id=question.id,
        task_id=turn.id,
        session_id=turn.session_id,
        kind=question.kind,
        tool=question.tool,
        title=question.title,
        input=question.input,
        tool_call_id=question.tool_call_id,
        options=msgspec.convert(answer_options(question), list[PermissionOption]),
        created_at=timestamp(waiting.created_at),
        expires_at=None if waiting.expires_at is None else timestamp(waiting.expires_at),
    )


def queued_view(prompt: WaitingPrompt, position: int) -> QueuedView:
    return QueuedView(
        task_id=prompt.turn_id,
        position=position,
        prompt=prompt.text,
        created_at=timestamp(prompt.created_at),
    )


def worktree_view(found: SessionWorktree) -> WorktreeView:
    worktree = found.worktree
    return WorktreeView(
        path=worktree.path,
        relative_path=worktree.relative_path,
        root=worktree.root,
        branch=worktree.branch,
        head=worktree.head,
        session_id=found.session_id,
        is_dirty=worktree.is_dirty,
        last_used_at=None if worktree.used_at is None else timestamp(worktree.used_at),
        problem=worktree.problem,
    )


def agent_view(info: AgentInfo) -> AgentView:
    return AgentView(
        name=info.name,
        version=info.version,
        path=info.path,
        available=info.available,
        usable=info.is_usable,
        problem=info.problem,
        credentials=list(info.credentials),
        models=list(info.models),
        efforts=list(info.efforts),
        model_efforts={model: list(efforts) for model, efforts in info.model_efforts.items()},
        permission_modes=list(info.permission_modes),
        options=list(info.options),
    )


def error_body(error: AgentsrvError) -> dict[str, object]:
    """`details` names each field that is wrong; `extra` adds what the error is about, such as `taskId`."""
    body: dict[str, object] = {
        "error": error.message,
        "code": error.code,
        "timestamp": timestamp(),
        **error.extra,
    }
    if error.problems:
        body["details"] = [{"path": problem.path, "message": problem.message} for problem in error.problems]
    return body


def _some(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value
