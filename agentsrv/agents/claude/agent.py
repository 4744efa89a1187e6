"""What is known of Claude Code without a process."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.agents.claude.launch import (
    BASE_ARGUMENTS,
    CREDENTIALS,
    FIXED_ENVIRONMENT,
    LOGIN,
    PASSED_ON,
    asking,
    start_of,
)
from agentsrv.agents.claude.lines import REFUSED, decode_envelope, decode_place
from agentsrv.agents.claude.settings import ClaudeSettings
from agentsrv.agents.claude.transcript import copy_transcript
from agentsrv.agents.claude.updates import ClaudeUpdates
from agentsrv.agents.contract import AgentInfo, Check, Launch
from agentsrv.agents.conversations import as_conversation, conversation_lost
from agentsrv.agents.messages import user_event
from agentsrv.agents.model_servers import ModelServer, is_named_with_provider, llm_server, require_llm_server
from agentsrv.agents.options import require_effort, require_mcp_servers
from agentsrv.agents.records import check_records, is_written, put_aside
from agentsrv.agents.schemas import require_schema
from agentsrv.config import Config, read_settings
from agentsrv.model import (
    Fork,
    Image,
    PermissionMode,
    Session,
    TurnId,
    TurnOptions,
)
from agentsrv.programs import Program, child_environment, read_version
from agentsrv.threads import Pool
from agentsrv.users import acting_as

EFFORTS = ("low", "medium", "high", "xhigh", "max")
MCP_TYPES = ("stdio", "http", "sse", "ws")
MODELS = ("opus", "sonnet", "haiku")
OPTIONS = (
    "model", "permission_mode", "effort", "system_prompt", "max_turns", "max_budget_usd", "mcp_servers",
    "output_schema", "partial_messages",
)  # fmt: skip

MESSAGE = re.compile(rb'"type": ?"(?:user|assistant)"')
"""In a transcript."""
MESSAGE_TYPES = frozenset({"user", "assistant", "result", "error", "raw"})
MESSAGE_SUBTYPES = frozenset({"init", "worktree_init", "worktree_setup", "compact_boundary"})


class ClaudeCode:
    """What is known of Claude Code without a process."""

    name: ClassVar[str] = "claude-code"
    settings: ClassVar[type[ClaudeSettings]] = ClaudeSettings
    has_whole_messages: ClassVar[bool] = True
    protected_names: ClassVar[tuple[str, ...]] = (".claude.json",)

    def __init__(self, config: Config, programs: Pool) -> None:
        self._config = config
        self._programs = programs
        self._settings = ClaudeSettings(**read_settings(ClaudeSettings, config.environment))
        self._program = Program(
            "claude",
            setting="CLAUDE_PATH",
            configured=self._settings.program,
            package="claude_agent_sdk",
            inside="_bundled/claude",
            environment=config.environment,
        )

    def adapter(self, session: Session, state: Mapping[str, Any]) -> ClaudeAdapter:
        return ClaudeAdapter(session.internal_session_id, state)

    async def prepare(self) -> None:
        """Its processes share nothing that they could not make themselves."""

    def launch(self, session: Session, options: TurnOptions, *, resume: bool, directory: Path) -> Launch:
        start = start_of(options, directory)
        conversation = [f"--session-id={session.internal_session_id}"]
        if resume:
            conversation = [f"--resume={session.internal_session_id}"]
            if options.model is None:
                # Else it would go on with the model that was used last.
                conversation.append("--model=default")
        return Launch(
            argv=(str(self.program()), *BASE_ARGUMENTS, *conversation, *start.arguments),
            env=self.environment(options.model) | start.environment,
            files=start.files,
            opening=start.opening,
        )

    async def check(self, options: TurnOptions) -> None:
        require_effort(options, EFFORTS)
        require_mcp_servers(options, MCP_TYPES)
        if options.output_schema is not None:
            await self._programs.run(require_schema, options.output_schema)
        await require_llm_server(self._model(options.model), self._config)

    def process_key(self, options: TurnOptions) -> str | None:
        if options.max_budget_usd is not None:
            # The CLI's budget is for all that a process does, not for a turn.
            return None
        start = start_of(options, Path())
        return hashlib.sha256(repr(start).encode()).hexdigest()

    def new_internal_id(self, session_id: str) -> str:
        try:
            return str(uuid.UUID(session_id))
        except ValueError:
            return str(uuid.uuid4())

    def transcript_of(self, session: Session) -> Path | None:
        if session.internal_session_id is None:
            return None
        return self._transcript(session.internal_session_id, session.cwd)

    def has_record(self, session: Session) -> bool:
        found = self.transcript_of(session)
        if found is not None:
            self._bring(found, session)
        elif (conversation := as_conversation(session.internal_session_id)) is not None:
            put_aside(self._usual_place(conversation, session.cwd))
        return found is not None

    def _bring(self, transcript: Path, session: Session) -> None:
        """Have the conversation found from the session's directory: the CLI looks nowhere else."""
        place = self._usual_place(transcript.stem, session.cwd)
        if place != transcript:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(transcript, copy := place.with_suffix(".moving"))
            copy.replace(place)

    def point_of(self, event: bytes) -> tuple[str, str] | None:
        try:
            message = decode_place(event)
        except REFUSED:
            return None
        if message.type not in ("assistant", "user") or message.parent_tool_use_id is not None:
            return None
        if message.session_id is None or message.uuid is None:
            return None
        return message.session_id, message.uuid

    def copy_conversation(self, fork: Fork, cwd: str) -> str:
        conversation = str(uuid.uuid4())
        with acting_as(self._config.agent_user):
            if (source := self._transcript(fork.conversation, cwd)) is None:
                raise conversation_lost(fork.conversation)
            copy_transcript(source, conversation, fork.point)
        return conversation

    def _transcript(self, conversation: str, cwd: str) -> Path | None:
        if as_conversation(conversation) is None:
            return None
        if is_written(usual := self._usual_place(conversation, cwd), MESSAGE):
            return usual
        places = usual.parent.parent.glob(f"*/{usual.name}")
        others = (place for place in places if is_written(place, MESSAGE))
        return max(others, key=_changed_at, default=None)

    def _usual_place(self, conversation: str, cwd: str) -> Path:
        directory = re.sub(r"[^A-Za-z0-9]", "-", cwd)
        return self._config_directory() / "projects" / directory / f"{conversation}.jsonl"

    def user_event(
        self, session: Session, turn_id: TurnId, prompt: str, images: Sequence[Image] = ()
    ) -> bytes:
        return user_event(prompt, turn_id, session.internal_session_id, images)

    def is_message(self, event: bytes) -> bool:
        try:
            envelope = decode_envelope(event)
        except REFUSED:
            return False
        return envelope.type in MESSAGE_TYPES or envelope.subtype in MESSAGE_SUBTYPES

    def updates(self, *, deltas: bool = True) -> ClaudeUpdates:
        return ClaudeUpdates(deltas=deltas)

    def find(self) -> Path | None:
        return self._program.find()

    def program(self) -> Path:
        """The program to start, found or not."""
        return self._program.path

    def environment(self, model: str | None = None) -> dict[str, str]:
        """What a process gets that shall work with `model`; None: with the default one."""
        names = {*PASSED_ON, *self._config.agent_env}
        if self._settings.uses_stored_login:
            # With an API key in its environment the CLI does not look at the stored login.
            names -= {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"}
        if (server := self._llm_server_for(model)) is not None:
            names -= {*CREDENTIALS}
        environment = child_environment(self._config.environment, names) | FIXED_ENVIRONMENT
        return environment if server is None else environment | asking(server, self._model(model))

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
        version, trouble = await read_version(self._programs, program, self.environment())
        return replace(
            info,
            available=version is not None,
            version=version,
            path=str(program),
            problem=trouble,
            models=MODELS,
            efforts=EFFORTS,
            permission_modes=tuple(PermissionMode),
            options=OPTIONS,
        )

    def _model(self, model: str | None) -> str | None:
        return model or self._config.environment.get("ANTHROPIC_MODEL")

    def _llm_server_for(self, model: str | None) -> ModelServer | None:
        return llm_server(self._config) if is_named_with_provider(self._model(model)) else None

    async def diagnose(self) -> list[Check]:
        if self.find() is None:
            return []
        return [check_records("claude-code records", self._config_directory() / "projects")]

    def credentials(self) -> tuple[str, ...]:
        """Names of the credentials that an agent would find."""
        environment = self.environment()
        found = [name for name in CREDENTIALS if environment.get(name)]
        if (self._config_directory() / ".credentials.json").is_file():
            found.append(".credentials.json")
        if self._config.llm_server_url is not None:
            found.append("LLM_SERVER_URL")
        return tuple(found)

    def _config_directory(self) -> Path:
        environment = self._config.environment
        if directory := environment.get("CLAUDE_CONFIG_DIR"):
            return Path(directory)
        return Path(environment.get("HOME") or Path.home()) / ".claude"


def _changed_at(path: Path) -> float:
    return path.stat().st_mtime
