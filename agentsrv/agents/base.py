"""What every agent adapter is: bytes in, events and replies out; no I/O, no clock, no tasks.

An adapter instance belongs to one live agent process. `turns` starts the process that `launch` describes,
writes to its stdin what `prompt`, `interrupt` and `Effect.reply` say, and gives each line of its stdout to
`receive`. What `receive` says must follow from the lines alone: after a crash the same lines are read again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import msgspec

from agentsrv.agents.updates import UpdateReader
from agentsrv.errors import Conflict, InvalidInput, Problem
from agentsrv.model import Answer, Fork, Image, Outcome, Session, TurnId, TurnOptions

PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
    "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL",
    "VIRTUAL_ENV",
)  # fmt: skip
"""The allow-list of variables that every agent gets, besides LC_*. Nothing else of the server's."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the process.

    files: name and content; written into its runner's directory first, mode 0600.
    opening: what its stdin begins with. Nobody else sees it, so it may hold secrets.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, bytes] = field(default_factory=dict)
    opening: bytes = b""


@dataclass(frozen=True, slots=True)
class Question:
    """What the agent waits for: leave to use a tool ("permission"), or what only a person knows ("question").

    id: the agent's own, unique within its process.
    tool, input: what it wants to call, and with what. Of a question, `input` is `{"questions": [{"id",
        "question", "header"?, "options"?: [{"label", "description"?}], "multiSelect"?, "optional"?}]}`
        whatever the agent; its answer's `updated_input` is `{"answers": {id: text or list of texts}}`.
    title: one line for people.
    tool_call_id: the agent's name for the call, as its other messages have it.
    allowance: names what allowing it for the session covers; None when it cannot be remembered.
    details: what else the agent said, in its own words.
    """

    id: str
    kind: Literal["permission", "question"]
    tool: str
    input: dict[str, Any]
    title: str
    tool_call_id: str | None = None
    allowance: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a line means besides being an event of the log. Most lines have no effect at all.

    event: what the log keeps instead of the line; None keeps nothing.
    reply: to be written to the agent's stdin.
    takes_prompt: the agent can take the prompt now, for which it was not ready before.
    begins: the agent works now; outside a turn, it woke up by itself.
    outcome: how the turn ended, as far as the agent has said; a later one replaces it.
    is_over: the agent has finished with the turn and waits for the next prompt.
    gave_up: the turn should be stopped with this outcome, the agent would go on for long without use.
    internal_session_id: the agent's conversation has this name from now on.
    question: the agent waits for an answer; the event of the log is made from it instead of from the line.
    withdrawn: the question with this id needs no answer any more.
    lost_steer: the agent has refused the steering message with this id; it will never read it.
    """

    event: bytes | None
    reply: bytes | None = None
    question: Question | None = None
    withdrawn: str | None = None
    lost_steer: str | None = None
    takes_prompt: bool = False
    begins: bool = False
    outcome: Outcome | None = None
    is_over: bool = False
    gave_up: Outcome | None = None
    internal_session_id: str | None = None


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What is installed, and what prompts for it may ask for. `credentials` are names only.

    login: what to do so that there are credentials, for people.
    is_wanted: the settings name its program.
    model_efforts: of the models whose agent tells; other models may have any of `efforts`, or none.
    """

    name: str
    available: bool
    login: str
    is_wanted: bool = False
    version: str | None = None
    path: str | None = None
    problem: str | None = None
    credentials: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    model_efforts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    permission_modes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """A prompt has a chance: whether its credentials are good only the model API knows."""
        return self.available and bool(self.credentials)


class Adapter(Protocol):
    """One live agent process, as its bytes tell."""

    name: ClassVar[str]

    @property
    def has_background_work(self) -> bool:
        """Something goes on between turns; its end will wake the agent."""
        ...

    def begin_turn(self, prompt_id: TurnId | None, options: TurnOptions) -> None:
        """The prompt of the turn with this id is about to be written; None: the agent woke up by itself."""
        ...

    def prompt(self, event: bytes) -> bytes | None:
        """The stdin lines that carry a user event (see `Agent.user_event`).

        None: not yet; an `Effect` with `takes_prompt` will tell when.
        """
        ...

    def interrupt(self, turn_id: TurnId) -> bytes | None:
        """The stdin lines that ask the agent to stop what it does and stay; None when it does nothing yet."""
        ...

    def steer(self, message_id: str, event: bytes) -> bytes | None:
        """The stdin lines that add a user event to the turn that runs; None when it cannot take any now.

        From then on the turn is over only when the agent has dealt with this message, too.
        """
        ...

    def answer(self, question: Question, answer: Answer) -> bytes:
        """The stdin lines that answer a question of `receive`.

        Raises InvalidInput (`unsupported_option`, or the field that does not fit the question).
        """
        ...

    def receive(self, line: bytes) -> Effect | None:
        """Read one line of stdout, without its newline. None: an ordinary event, logged as it is."""
        ...

    def state(self) -> dict[str, Any]:
        """What must be known of this process after a server restart, as of the end of a turn; JSON."""
        ...

    def explain_exit(self, stderr: str) -> tuple[str, str] | None:
        """A clearer error (message, code) than "the agent exited", from what it wrote on stderr."""
        ...


class Agent(Protocol):
    """A kind of agent: what is needed before there is a process. Made once, by the composition root."""

    name: str

    def adapter(self, session: Session, state: Mapping[str, Any]) -> Adapter:
        """For a process of `session`; `state` is what an earlier adapter of the same process said."""
        ...

    async def prepare(self) -> None:
        """Make ready what its processes share. Called before each start, so it costs nothing once it is done."""
        ...

    def launch(self, session: Session, options: TurnOptions, *, resume: bool, directory: Path) -> Launch:
        """`resume`: the agent has a conversation under the session's internal id."""
        ...

    async def check(self, options: TurnOptions) -> None:
        """Raises InvalidInput: `unsupported_option` for what this agent does not have, `sandbox_unavailable`."""
        ...

    def process_key(self, options: TurnOptions) -> str | None:
        """Equal for options that one process can serve in turn; None: a process for this turn alone."""
        ...

    def new_internal_id(self, session_id: str) -> str | None:
        """The name under which the agent is to keep a new session's conversation; None: it makes one up."""
        ...

    def transcript_of(self, session: Session) -> Path | None:
        """Where the agent keeps the session's conversation; None when it has none. Reads directories."""
        ...

    def point_of(self, event: bytes) -> tuple[str, str] | None:
        """(conversation, place in it) when a fork can go on from behind this event of the log."""
        ...

    def copy_conversation(self, fork: Fork, cwd: str) -> str | None:
        """Make a conversation that knows what another one knew at that point; reads and writes files.

        Returns its name; None when the new session's process makes it, from `Session.fork`. Raises Conflict
        (`conversation_lost`), StorageFull.
        """
        ...

    def user_event(
        self, session: Session, turn_id: TurnId, prompt: str, images: Sequence[Image] = ()
    ) -> bytes:
        """The user message, in one shape for all agents: the first event of a turn."""
        ...

    def is_message(self, event: bytes) -> bool:
        """Is this event a whole message of the conversation, and not a delta or a notice?"""
        ...

    def updates(self, *, deltas: bool = True) -> UpdateReader:
        """A reader of one turn's messages. `deltas` False: of whole messages alone."""
        ...

    def find(self) -> Path | None:
        """The program, as configured, bundled or on PATH. Reads directories."""
        ...

    async def describe(self) -> AgentInfo: ...


def child_environment(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The allow-listed part of the server's environment, plus `names`."""
    wanted = {*PASSED_ON, *names}
    return {key: value for key, value in environment.items() if key in wanted or key.startswith("LC_")}


def raw_event(line: bytes, *, total: int | None = None) -> bytes:
    """A line that is not JSON text, kept as an event. `total`: it was this long, and was cut."""
    event: dict[str, Any] = {"type": "raw", "data": line.decode("utf-8", "replace")}
    if total is not None:
        event |= {"truncated": True, "bytes": total}
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def load_object(line: bytes) -> dict[str, Any] | None:
    """A line as an object; None when it is anything else.

    A lone surrogate, which JSON can say and no UTF-8 can hold, becomes "?".
    """
    try:
        message = json.loads(line)
        if b"\\u" in line:
            message = json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def as_object(value: Any) -> dict[str, Any]:
    """What should be an object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def dump(value: Any) -> bytes:
    """One line of JSON, as short as can be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def user_event(prompt: str, turn_id: TurnId, conversation: str | None, images: Sequence[Image] = ()) -> bytes:
    """The first event of a turn, in the shape that Claude Code gave it and clients know for every agent."""
    ids = {"uuid": turn_id, "session_id": conversation, "parent_tool_use_id": None}
    # Images are megabytes: they are put in at once, as they are.
    return b"".join(
        [
            b'{"type":"user","message":{"role":"user","content":[',
            msgspec.json.encode({"type": "text", "text": prompt}),
            *(part for image in images for part in _image_block(image)),
            b"]},",
            msgspec.json.encode(ids)[1:],
        ]
    )


def _image_block(image: Image) -> tuple[bytes, ...]:
    source = b'{"type":"base64","media_type":"%b","data":"' % image.media_type.encode()
    return b',{"type":"image","source":', source, image.data, b'"}}'


def as_conversation(value: Any) -> str | None:
    """An agent's name for a conversation; None for what cannot be one. It becomes a file's name and an argument."""
    is_name = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", value)
    return value if is_name else None


def conversation_lost(conversation: str) -> Conflict:
    return Conflict(
        f"the agent has no record of conversation {conversation} any more, so it cannot be forked",
        code="conversation_lost",
    )


def require_effort(options: TurnOptions, efforts: Collection[str]) -> None:
    """Raises InvalidInput (`unsupported_option`) for an effort that an agent does not have."""
    if options.effort is not None and options.effort not in efforts:
        raise unsupported("effort", f"must be one of {', '.join(efforts)}")


_Place = Annotated[str, msgspec.Meta(min_length=1)]


class _McpServer(msgspec.Struct):
    """What every agent takes of an MCP server. There may be more, for one of them."""

    type: str | msgspec.UnsetType = msgspec.UNSET
    command: _Place | msgspec.UnsetType = msgspec.UNSET
    args: list[str] = []
    env: dict[str, str] = {}
    url: _Place | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] = {}


def require_mcp_servers(options: TurnOptions, types: Collection[str]) -> None:
    """Raises InvalidInput (`unsupported_option`) for what an agent would leave out without a word."""
    for name, server in (options.mcp_servers or {}).items():
        try:
            msgspec.convert(server, _McpServer)
        except msgspec.ValidationError as exc:
            raise unsupported("mcp_servers", f"{name}: {exc}") from exc
        if (type_ := mcp_server_type(server)) not in types:
            raise unsupported("mcp_servers", f"{name}: its type must be one of {', '.join(types)}")
        if (needed := "command" if type_ == "stdio" else "url") not in server:
            raise unsupported("mcp_servers", f"{name} must have a {needed}")


def mcp_server_type(server: Mapping[str, Any]) -> str:
    """`stdio`, or that of one which is reached by a URL, for which `http` may be left out."""
    return str(server.get("type", "http" if "url" in server else "stdio"))


def unsupported(option: str, message: str) -> InvalidInput:
    return InvalidInput(
        f"{option}: {message}", code="unsupported_option", problems=[Problem(option, message)]
    )


def find_program(
    name: str, *, configured: Path | None, package: str, inside: str, environment: Mapping[str, str]
) -> Path | None:
    """The program as configured, else the one `inside` an installed `package`, else the one on PATH.

    The package itself is not imported.
    """
    if configured is not None:
        return configured if is_executable(configured) else None
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if is_executable(program := Path(place) / inside):
            return program
    on_path = shutil.which(name, path=environment.get("PATH"))
    return Path(on_path) if on_path else None


def not_found(name: str, setting: str, configured: Path | None) -> str:
    """Why `find_program` has found nothing, and what to do."""
    if configured is not None:
        return f"{setting} is {configured}, which is no program that the server may run"
    return f"{name} was not found; install the `agents` extra or set {setting}"


def is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
