"""What is known of an ACP agent without a process."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from agentsrv.agents.acp.adapter import AcpAdapter
from agentsrv.agents.acp.known import Distrust, KnownAgent, Quirk
from agentsrv.agents.acp.requests import initialize
from agentsrv.agents.acp.updates import AcpUpdates
from agentsrv.agents.contract import AgentInfo, Check, Launch
from agentsrv.agents.conversations import as_conversation
from agentsrv.agents.messages import user_event
from agentsrv.agents.options import counts_repository, require_effort, require_mcp_servers
from agentsrv.config import Config
from agentsrv.errors import unsupported
from agentsrv.jsontext import as_object, dump, load_object
from agentsrv.model import Fork, Image, Session, TurnId, TurnOptions
from agentsrv.programs import child_environment, is_executable, read_version
from agentsrv.threads import Pool

RELAY = ("/bin/sh", "-c", '"$@" | cat', "sh")
"""Runs the command behind it with a pipe as its stdout."""

WAIT = ("/bin/sh", "-c", 'sleep "$1"; shift; exec "$@"', "sh")
"""Runs the command behind the seconds, after so many."""

MINUTE_S = 60

SETTINGS_FILE = "settings.json"
TRUST = "`trust_repository` of the session, or TRUST_REPOSITORIES"

LACKING = {
    "system_prompt": "ACP agents take no instructions besides the prompt",
    "max_turns": "ACP agents have no such limit",
    "max_budget_usd": "ACP agents have no such limit",
    "output_schema": "ACP agents answer in words",
}


class AcpAgent:
    """One agent of the table. `is_wanted`: the operator's own file names it."""

    has_whole_messages: ClassVar[bool] = False

    def __init__(self, known: KnownAgent, config: Config, programs: Pool, *, is_wanted: bool = False) -> None:
        self.name = known.name
        self._known = known
        self._config = config
        self._programs = programs
        self._is_wanted = is_wanted
        self._models: tuple[str, ...] = ()
        """As the process has told that was the last one to make or bring back a conversation."""

    def adapter(self, session: Session, state: Mapping[str, Any]) -> AcpAdapter:
        adapter = AcpAdapter(self._known, session.cwd, session.internal_session_id, state, self._note_models)
        self._note_models(adapter.models)
        return adapter

    def _note_models(self, models: tuple[str, ...]) -> None:
        self._models = models or self._models

    async def prepare(self) -> None:
        """Its processes share nothing that they could not make themselves."""

    def launch(self, session: Session, options: TurnOptions, *, resume: bool, directory: Path) -> Launch:
        program = self.find()
        argv = (str(program or self._known.command[0]), *self._known.command[1:])
        if Quirk.RELAY in self._known.quirks:
            argv = (*RELAY, *argv)
        if (seconds := self._seconds_to_wait(session)) > 0:
            argv = (*WAIT, str(seconds), *argv)
        env, files = self._environment(options), dict[str, bytes]()
        if (distrust := self._distrust(options)) is not None:
            path = str(directory / SETTINGS_FILE)
            env |= {name: value.format(settings=path) for name, value in distrust.environment.items()}
            files = {SETTINGS_FILE: distrust.settings} if distrust.settings else {}
        return Launch(argv=argv, env=env, files=files, opening=initialize())

    async def check(self, options: TurnOptions) -> None:
        for field, why in LACKING.items():
            if getattr(options, field) is not None:
                raise unsupported(field, why)
        if options.permission_mode not in self._known.modes:
            modes = ", ".join(self._known.modes)
            raise unsupported("permission_mode", f"{self.name} works in {modes}")
        if options.effort is not None and not self._known.efforts:
            raise unsupported("effort", f"{self.name} has no such option")
        require_effort(options, self._known.efforts)
        if options.mcp_servers and not self._known.mcp:
            raise unsupported("mcp_servers", f"{self.name} does not use servers that come with a prompt")
        require_mcp_servers(options, self._known.mcp)
        self._check_trust(options)

    def _check_trust(self, options: TurnOptions) -> None:
        if counts_repository(options):
            return
        if (distrust := self._known.distrust) is None:
            said = "permission_mode" if options.setting_sources is None else "setting_sources"
            needs = f"{self.name} may read the settings of a repository, which has to be trusted ({TRUST})"
            raise unsupported(said, needs)
        elif options.permission_mode not in distrust.modes:
            needs = f"{self.name} needs a repository that is trusted for this mode ({TRUST})"
            raise unsupported("permission_mode", needs)
        elif options.mcp_servers and not distrust.mcp:
            needs = f"{self.name} starts servers only in a repository that is trusted ({TRUST})"
            raise unsupported("mcp_servers", needs)

    def _distrust(self, options: TurnOptions) -> Distrust | None:
        """What keeps it from the settings of the directory, if they do not count."""
        return None if counts_repository(options) else self._known.distrust

    def process_key(self, options: TurnOptions) -> str:
        # Modes, models and efforts are set in the process.
        variables = self._known.mode_environment.get(options.permission_mode)
        distrust = self._distrust(options)
        facts = (options.mcp_servers, variables, None if distrust is None else distrust.environment)
        return hashlib.sha256(dump(facts)).hexdigest()

    def new_internal_id(self, session_id: str) -> None:
        """It names its conversations itself."""

    def transcript_of(self, session: Session) -> Path | None:
        if session.internal_session_id is None:
            return None
        return self._record(session.internal_session_id)

    def has_record(self, session: Session) -> bool:
        """Where it keeps conversations may not be known; then it is asked when it is started."""
        if session.internal_session_id is None or self._known.records is None:
            return session.internal_session_id is not None
        return self._record(session.internal_session_id) is not None

    def point_of(self, event: bytes) -> tuple[str, str] | None:
        if b'"session/update"' not in event:
            return None
        conversation = as_object((load_object(event) or {}).get("params")).get("sessionId")
        return (conversation, "end") if isinstance(conversation, str) else None

    def copy_conversation(self, fork: Fork, cwd: str) -> None:
        raise unsupported("agent", f"{self.name} cannot go on from another session's conversation")

    def user_event(
        self, session: Session, turn_id: TurnId, prompt: str, images: Sequence[Image] = ()
    ) -> bytes:
        if images and not self._known.takes_images:
            raise unsupported("images", f"{self.name} does not show images to its model")
        return user_event(prompt, turn_id, session.id, images)

    def is_message(self, event: bytes) -> bool:
        """Whole messages are put together from chunks: see `updates`."""
        return False

    def updates(self, *, deltas: bool = True) -> AcpUpdates:
        return AcpUpdates(deltas=deltas)

    def find(self) -> Path | None:
        """As the command names it, as it was installed here, or on PATH."""
        program = self._known.command[0]
        if "/" in program:
            return path if is_executable(path := Path(program)) else None
        installed = self.home / "bin" / program
        if is_executable(installed):
            return installed
        on_path = shutil.which(program, path=self._config.environment.get("PATH"))
        return Path(on_path) if on_path else None

    @property
    def _user_home(self) -> Path:
        return Path(self._config.environment.get("HOME") or Path.home())

    @property
    def home(self) -> Path:
        """Where `agentsrv agents install` puts it."""
        return self._config.state_dir / "agents" / self.name

    async def describe(self) -> AgentInfo:
        program, known = self.find(), self._known
        info = AgentInfo(
            self.name,
            available=False,
            login=known.login,
            is_wanted=self._is_wanted,
            is_listed=program is not None or self._is_wanted,
            credentials=self.credentials(),
        )
        if program is None:
            return replace(info, problem=self._not_found())
        version, trouble = await self._version(program)
        return replace(
            info,
            available=trouble is None,
            version=version,
            path=str(program),
            problem=trouble,
            models=self._models,
            efforts=known.efforts,
            permission_modes=tuple(known.modes),
            options=("model", "permission_mode", *self._options()),
        )

    async def _version(self, program: Path) -> tuple[str | None, str | None]:
        """(version, trouble). What the operator has written down may be started by another program, as by node."""
        package = self._known.package
        if program.parent == self.home / "bin" and package is not None:
            return package.version, None
        if self._is_wanted:
            return None, None
        return await read_version(self._programs, program, self._environment(TurnOptions()))

    def _options(self) -> list[str]:
        has = {"effort": self._known.efforts, "mcp_servers": self._known.mcp}
        return [name for name, values in has.items() if values]

    def _not_found(self) -> str:
        if "/" in self._known.command[0]:
            return f"AGENTS_FILE names {self._known.command[0]}, which is no program that the server may run"
        return f"{self._known.command[0]} was not found; `agentsrv agents install {self.name}` brings it"

    async def diagnose(self) -> list[Check]:
        return []

    def credentials(self) -> tuple[str, ...]:
        """Names of the credentials that the agent would find in its environment, and files of its own in HOME."""
        named = [name for name in self._known.credentials if self._config.environment.get(name)]
        return (*named, *(f"~/{name}" for name in self._known.files if (self._user_home / name).is_file()))

    def _environment(self, options: TurnOptions) -> dict[str, str]:
        known = self._known
        names = {*known.passed, *known.credentials, *self._config.agent_env}
        found = child_environment(self._config.environment, names) | known.environment
        if (self.home / "bin" / "node").exists():
            # The Node that it needs, where the machine's is too old.
            found["PATH"] = os.pathsep.join(filter(None, (str(self.home / "bin"), found.get("PATH"))))
        return found | known.mode_environment.get(options.permission_mode, {})

    def _record(self, conversation: str) -> Path | None:
        """The newest file with that conversation."""
        if self._known.records is None or as_conversation(conversation) is None:
            return None
        pattern = self._known.records.format(id=conversation, short=conversation[:8])
        return max(self._user_home.glob(pattern), key=_made_at, default=None)

    def _seconds_to_wait(self, session: Session) -> int:
        """Until the minute is over in which the conversation's record was made."""
        record = self.transcript_of(session) if Quirk.YOUNG_RECORDS in self._known.quirks else None
        if record is None:
            return 0
        made, now = _made_at(record), time.time()
        next_minute = (made // MINUTE_S + 1) * MINUTE_S
        return min(int(next_minute - now) + 1, MINUTE_S) if now < next_minute else 0


def _made_at(path: Path) -> float:
    """When its name was made; a file that is written to has no better one."""
    return path.stat().st_mtime
