"""What is known of a `claude` process from its lines, and of the turn that runs in it."""

from __future__ import annotations

import msgspec

from agentsrv.model import Outcome, PermissionMode


class Process(msgspec.Struct):
    """Holds between turns. `asks`: it was started to ask, whatever its mode is now. `cwd`: where the CLI works, as it
    says itself; empty before its first turn. `tasks`: of those in the background, by id, their kind and what they are
    for. `has_key`: its credentials are an API key, and no login that somebody may be renewing.
    """

    cost_usd: float = 0.0
    background_tasks: int = 0
    tasks: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    permission_mode: PermissionMode = PermissionMode.BYPASS
    asks: bool = False
    has_state_events: bool = False
    has_key: bool = False
    conversation: str | None = None
    cwd: str = ""


class TurnState(msgspec.Struct):
    """`dealt_with`: of the prompt and of `steered`, what the CLI has finished with. `tools`: those that it waits
    for, by the ids of their calls. `plans`: of those that plan something for later, what. `told_error`: the kind of
    an error that comes before its result. `blocked`: what a hook has done to the prompt, and why.
    """

    prompt_id: str | None = None
    steered: set[str] = msgspec.field(default_factory=set)
    dealt_with: set[str] = msgspec.field(default_factory=set)
    tools: dict[str, str] = msgspec.field(default_factory=dict)
    plans: dict[str, tuple[str, dict[str, str]]] = msgspec.field(default_factory=dict)
    cost_usd: float = 0.0
    outcome: Outcome | None = None
    has_begun: bool = False
    has_result: bool = False
    told_error: str | None = None
    blocked: tuple[str, str] | None = None
