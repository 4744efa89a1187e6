"""What is known of Codex without a process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from agentsrv import __version__
from agentsrv.agents.codex.adapter import CodexAdapter
from agentsrv.agents.codex.lines import REFUSED, decode_envelope, item_of
from agentsrv.agents.codex.requests import Surroundings, request
from agentsrv.agents.codex.rollouts import bring_rollout, find_rollout, put_rollouts_aside
from agentsrv.agents.codex.sandbox import ADVICE, Sandbox
from agentsrv.agents.codex.settings import CodexSettings
from agentsrv.agents.codex.updates import CodexUpdates
from agentsrv.agents.contract import AgentInfo, Check, Launch
from agentsrv.agents.conversations import conversation_lost
from agentsrv.agents.messages import user_event
from agentsrv.agents.model_servers import ModelServer, is_named_with_provider, llm_server, require_llm_server
from agentsrv.agents.options import counts_repository, require_effort, require_mcp_servers
from agentsrv.agents.records import check_records
from agentsrv.agents.schemas import require_schema
from agentsrv.config import Config, read_settings
from agentsrv.errors import unsupported
from agentsrv.jsontext import as_object, dump, load_object
from agentsrv.model import (
    Fork,
    Image,
    PermissionMode,
    Session,
    TurnId,
    TurnOptions,
)
from agentsrv.programs import Program, ask, child_environment, read_version
from agentsrv.threads import Pool
from agentsrv.users import acting_as

EFFORTS = ("low", "medium", "high", "xhigh", "max")
MCP_TYPES = ("stdio", "http")
OPTIONS = (
    "model", "permission_mode", "effort", "system_prompt", "mcp_servers", "output_schema", "partial_messages",
)  # fmt: skip

LOGIN = "set OPENAI_API_KEY, or log in once with `agentsrv agents login codex`"
KEYS = ("CODEX_API_KEY", "OPENAI_API_KEY")
"""The first one that is set is logged in with. The program itself looks at neither of them."""

PASSED_ON = ("OPENAI_ORGANIZATION", "OPENAI_PROJECT", "CODEX_CA_CERTIFICATE", "RUST_LOG")

DELTAS = (
    "item/agentMessage/delta", "item/plan/delta", "item/reasoning/summaryPartAdded",
    "item/reasoning/summaryTextDelta", "item/reasoning/textDelta", "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
)  # fmt: skip

MESSAGE_TYPES = frozenset({"user", "error", "raw", "system"})


class Codex:
    """What is known of Codex without a process."""

    name: ClassVar[str] = "codex"
    settings: ClassVar[type[CodexSettings]] = CodexSettings
    has_whole_messages: ClassVar[bool] = True
    protected_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config, programs: Pool) -> None:
        self._config = config
        self._programs = programs
        self._settings = CodexSettings(**read_settings(CodexSettings, config.environment))
        self._program = Program(
            "codex",
            setting="CODEX_PATH",
            configured=self._settings.program,
            package="codex_cli_bin",
            inside="bin/codex",
            environment=config.environment,
        )
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self._sandbox = Sandbox(programs)

    def adapter(self, session: Session, state: Mapping[str, Any]) -> CodexAdapter:
        return CodexAdapter(self._around(session.cwd, session), session.internal_session_id, state)

    def _around(self, cwd: str, session: Session | None = None) -> Surroundings:
        settings = self._settings
        environment = self._config.environment
        key = next((environment[name] for name in KEYS if environment.get(name)), None)
        return Surroundings(
            cwd,
            own=ModelServer(settings.url, key),
            llm=llm_server(self._config, "/v1"),
            provider=settings.own_provider,
            model=settings.model,
            origin_cwd=None if session is None else session.origin_cwd,
            fork=None if session is None else session.fork,
        )

    def _server(self, options: TurnOptions) -> ModelServer:
        return self._around("").server(options.model or self._settings.model)

    async def prepare(self) -> None:
        """Make its home. Processes that find no database there all make one, and all but one of them fail.

        So a first process comes alone. Nobody asks it anything: it finds the end of its input and exits.
        """
        async with self._preparing:
            if not self._is_prepared:
                with acting_as(self._config.agent_user):
                    self._home().mkdir(mode=0o700, parents=True, exist_ok=True)
                _, trouble = await ask(self._programs, self.program(), "app-server", env=self.environment())
                self._is_prepared = trouble is None

    def launch(self, session: Session, options: TurnOptions, *, resume: bool, directory: Path) -> Launch:
        # Whether there is a thread to resume is the program's own knowledge: the adapter asks it.
        return Launch(
            argv=(str(self.program()), "app-server", *self._arguments(options)),
            env=self.environment(),
            opening=self._opening(options),
        )

    async def check(self, options: TurnOptions) -> None:
        require_effort(options, EFFORTS)
        for field in ("max_turns", "max_budget_usd"):
            if getattr(options, field) is not None:
                raise unsupported(field, "codex has no such limit")
        require_mcp_servers(options, MCP_TYPES)
        if options.output_schema is not None:
            await self._programs.run(require_schema, options.output_schema)
        if options.setting_sources is not None and "user" not in options.setting_sources:
            raise unsupported("setting_sources", "codex always reads the settings in its CODEX_HOME: `user`")
        if options.permission_mode is not PermissionMode.BYPASS and (program := self.find()) is not None:
            await self.prepare()
            await self._sandbox.require(program, self.environment())
        await require_llm_server(options.model or self._settings.model, self._config)

    async def diagnose(self) -> list[Check]:
        if (program := self.find()) is None:
            return []
        trouble = await self._sandbox.find_trouble_elsewhere(program, self.environment())
        is_needed = self._config.default_permission_mode is not PermissionMode.BYPASS
        detail = trouble or "commands can be confined"
        confined = Check("codex sandbox", detail, trouble is None, is_needed, ADVICE if trouble else "")
        return [check_records("codex records", self._home() / "sessions"), confined]

    def process_key(self, options: TurnOptions) -> str | None:
        # A model or an effort stays until another one is named; back to the default leads a new process alone.
        facts = (
            options.partial_messages,
            options.mcp_servers,
            options.model is not None,
            options.effort is not None,
            counts_repository(options),
            is_named_with_provider(options.model),
        )
        return hashlib.sha256(dump(facts)).hexdigest()

    def new_internal_id(self, session_id: str) -> None:
        """Codex names its threads itself."""

    def transcript_of(self, session: Session) -> Path | None:
        if session.internal_session_id is None:
            return None
        return self._rollout(session.internal_session_id)

    def has_record(self, session: Session) -> bool:
        conversation = session.internal_session_id
        if conversation is None or self._rollout(conversation) is not None:
            return conversation is not None
        put_rollouts_aside(conversation, self._home())
        return bring_rollout(conversation, self._earlier_home(), self._home())

    def point_of(self, event: bytes) -> tuple[str, str] | None:
        # Not its beginning: a turn that was killed counts as one that still runs, and cannot be forked at.
        if b'"turn/completed"' not in event:
            return None
        message = load_object(event) or {}
        params = as_object(message.get("params"))
        conversation, point = params.get("threadId"), as_object(params.get("turn")).get("id")
        if message.get("method") != "turn/completed" or not isinstance(conversation, str):
            return None
        return (conversation, point) if isinstance(point, str) else None

    def copy_conversation(self, fork: Fork, cwd: str) -> None:
        # The program forks threads by itself: what it writes then refers to the other thread's file.
        with acting_as(self._config.agent_user):
            if self._rollout(fork.conversation) is None:
                raise conversation_lost(fork.conversation)

    def _rollout(self, thread_id: str) -> Path | None:
        return find_rollout(thread_id, self._home())

    def _earlier_home(self) -> Path:
        """Where the program itself keeps its files, and the earlier server did."""
        return Path(self._config.environment.get("HOME") or Path.home()) / ".codex"

    def user_event(
        self, session: Session, turn_id: TurnId, prompt: str, images: Sequence[Image] = ()
    ) -> bytes:
        return user_event(prompt, turn_id, session.id, images)

    def is_message(self, event: bytes) -> bool:
        try:
            envelope = decode_envelope(event)
        except REFUSED:
            return False
        if envelope.method != "item/completed":
            return envelope.type in MESSAGE_TYPES
        # The user's message is an event of its own already.
        return item_of(event).type != "userMessage"

    def updates(self, *, deltas: bool = True) -> CodexUpdates:
        return CodexUpdates(deltas=deltas)

    def find(self) -> Path | None:
        return self._program.find()

    def program(self) -> Path:
        """The program to start, found or not."""
        return self._program.path

    def environment(self) -> dict[str, str]:
        names = {*PASSED_ON, *self._config.agent_env}
        return child_environment(self._config.environment, names) | {"CODEX_HOME": str(self._home())}

    async def describe(self) -> AgentInfo:
        info = AgentInfo(
            self.name,
            available=False,
            login=LOGIN,
            is_wanted=self._settings.program is not None,
            credentials=self.credentials(),
        )
        program = self.find()
        if program is None:
            return replace(info, problem=self._program.why_missing())
        (version, trouble), models = await asyncio.gather(
            read_version(self._programs, program, self.environment()), self._models(program)
        )
        return replace(
            info,
            available=version is not None,
            version=version,
            path=str(program),
            problem=trouble,
            models=tuple(models),
            efforts=EFFORTS,
            model_efforts=models,
            permission_modes=tuple(PermissionMode),
            options=OPTIONS,
        )

    def credentials(self) -> tuple[str, ...]:
        """Names of the credentials that an agent would use."""
        found = [name for name in KEYS if self._config.environment.get(name)]
        if (self._home() / "auth.json").is_file():
            found.append("auth.json")
        if self._config.llm_server_url is not None:
            found.append("LLM_SERVER_URL")
        return tuple(found)

    async def _models(self, program: Path) -> dict[str, tuple[str, ...]]:
        """The models that the program knows, the best first, with their efforts; none when it does not tell."""
        answer, _ = await ask(self._programs, program, "debug", "models", "--bundled", env=self.environment())
        models = (load_object(answer or b"") or {}).get("models") or []
        listed = [model for model in models if model.get("visibility") == "list"]
        listed.sort(key=lambda model: model.get("priority", 0))
        return {model["slug"]: _efforts(model) for model in listed}

    def _arguments(self, options: TurnOptions) -> tuple[str, ...]:
        server = self._server(options)
        settings = [
            # Without it a closed port is waited for until it opens, for ever.
            "features.unbounded_connection_retries=false",
            # It would write its environment, with what AGENT_ENV names, into a file.
            "features.shell_snapshot=false",
            # Off by default (0.163): the model could not say what it is going to do.
            "tools.update_plan.enabled=true",
        ]
        if server.key is not None:
            settings.append('cli_auth_credentials_store="ephemeral"')
        if server.url is not None:
            # It would ask OpenAI for its models, with a key that is for somebody else.
            settings.append("features.api_key_model_discovery=false")
        return tuple(word for setting in settings for word in ("-c", setting))

    def _opening(self, options: TurnOptions) -> bytes:
        capabilities: dict[str, Any] = {"experimentalApi": True}
        if not options.partial_messages:
            capabilities["optOutNotificationMethods"] = DELTAS
        client = {"name": "agentsrv", "title": "agentsrv", "version": __version__}
        params = {"clientInfo": client, "capabilities": capabilities}
        opening = request("initialize", "initialize", params) + dump({"method": "initialized"}) + b"\n"
        if (key := self._server(options).key) is not None:
            opening += request("login", "account/login/start", {"type": "apiKey", "apiKey": key})
        return opening

    def _home(self) -> Path:
        if home := self._config.environment.get("CODEX_HOME"):
            return Path(home)
        if self._config.agent_user is not None:  # It may not look into STATE_DIR.
            return Path(self._config.environment.get("HOME", "/")) / ".codex"
        return self._config.state_dir / "codex"


def _efforts(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a model's efforts that prompts can ask for."""
    levels = [as_object(level).get("effort") for level in model.get("supported_reasoning_levels") or []]
    return tuple(effort for effort in EFFORTS if effort in levels)
