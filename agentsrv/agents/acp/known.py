"""The agents that are known to work, as data: how each is started, and in what it differs from the others.

All of them were driven against scripted models, in the versions that `package` names.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal

from msgspec import Struct, field

from agentsrv.model import PermissionMode

ASK, EDITS, PLAN, BYPASS = (
    PermissionMode.ASK,
    PermissionMode.ACCEPT_EDITS,
    PermissionMode.PLAN,
    PermissionMode.BYPASS,
)


class Quirk(StrEnum):
    """In what an agent differs from what ACP says, or from the others."""

    RELAY = "relay"
    """It refuses a regular file as stdout; a `cat` stands between."""
    REPLAYS_LATE = "replays_late"
    """It tells what was said before after the answer to `session/load`, up to `available_commands_update`."""
    YOUNG_RECORDS = "young_records"
    """To load a conversation in the minute in which its record was made destroys it."""
    COUNTS_SESSION = "counts_session"
    """Its usage is that of the whole conversation so far."""
    FAILS_MUTE = "fails_mute"
    """It says `end_turn` and nothing more when its model has failed: a turn without a last word has failed."""


class Package(Struct, frozen=True):
    """Where it comes from, in the version that was tried: `npm` or `pypi`. What exactly is in `locks/NAME/`.

    python: the least version that it needs (of Node the lock has one that will do). `program`: where it is among npm's
    packages, if npm does not say. `machine`: the only one that there are programs for, as `uname -m` says it.
    """

    source: Literal["npm", "pypi"]
    version: str
    python: tuple[int, int] = (0, 0)
    program: str | None = None
    machine: str | None = None


class Distrust(Struct, frozen=True):
    """How an agent is kept from the settings that a repository brings along: its servers, hooks, variables and rules.

    modes: those that it can work in so. environment: what its processes get besides; `{settings}` in it stands for the
    path of a file with `settings`. `mcp`: the servers that come with a prompt work nevertheless.
    """

    modes: frozenset[PermissionMode] = frozenset(PermissionMode)
    environment: dict[str, str] = field(default_factory=dict)
    settings: bytes = b""
    mcp: bool = True


class KnownAgent(Struct, frozen=True, kw_only=True):
    """What the adapter cannot find out.

    command: a program, found on PATH unless it has a slash, and its arguments.
    environment: what its processes get, besides the variables of the server that `passed` and `credentials` name.
    credentials: one of them has to be set, or there is one of `files`, in HOME; other ways `login` tells.
    modes: its name of each mode that prompts can ask for; None where nothing has to be said.
    mode_option: the config option that stands for its modes; None: `session/set_mode`, or the option of that category.
    mode_environment: what its processes get besides in a mode.
    distrust: how it leaves a repository's settings out; None: it has no way to.
    efforts: those that a prompt may ask for; which of them its model has, a conversation tells.
    mcp: the kinds of MCP servers that work with it.
    failures: how its last message begins when its model has failed, and the agent says `end_turn`.
    own_ids: begins the ids of messages that have theirs from the agent; where it is known, no other tells of a failure.
    notices: begins pieces of messages that are the agent's own words and not its model's.
    login_command: what it logs in with on a terminal.
    records: where it keeps conversations, from HOME; `{id}` is the conversation's, `{short}` its first 8 characters.
    """

    name: str
    command: tuple[str, ...]
    login: str
    environment: dict[str, str] = field(default_factory=dict)
    passed: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    modes: dict[PermissionMode, str | None]
    mode_option: str | None = None
    mode_environment: dict[PermissionMode, dict[str, str]] = field(default_factory=dict)
    distrust: Distrust | None = None
    efforts: tuple[str, ...] = ()
    mcp: tuple[str, ...] = ()
    takes_images: bool = False
    failures: tuple[str, ...] = ()
    own_ids: re.Pattern[str] | None = None
    notices: re.Pattern[str] | None = None
    records: str | None = None
    login_command: tuple[str, ...] = ()
    quirks: frozenset[Quirk] = frozenset()
    package: Package | None = None


EFFORTS = ("low", "medium", "high", "xhigh", "max")
"""Of agents whose models say themselves which of them they have."""

HTTP_MCP = ("stdio", "http", "sse")

GEMINI = KnownAgent(
    name="gemini",
    command=("gemini", "--acp"),
    login="set GEMINI_API_KEY, or log in once with `agentsrv agents login gemini`",
    environment={
        # Else it starts itself once more, and the first process does not end with the second one.
        "GEMINI_CLI_NO_RELAUNCH": "true",
        "GEMINI_TELEMETRY_ENABLED": "false",
    },
    # A directory counts as trusted, or what is said below.
    mode_environment={mode: {"GEMINI_CLI_TRUST_WORKSPACE": "true"} for mode in PermissionMode},
    distrust=Distrust(frozenset({ASK, PLAN}), {"GEMINI_CLI_TRUST_WORKSPACE": "false"}, mcp=False),
    passed=("GOOGLE_GEMINI_BASE_URL", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GEMINI_MODEL"),
    credentials=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    files=(".gemini/oauth_creds.json",),
    modes={ASK: "default", EDITS: "autoEdit", PLAN: "plan", BYPASS: "yolo"},
    mcp=HTTP_MCP,
    takes_images=True,
    login_command=("gemini",),
    records=".gemini/tmp/*/chats/*{short}*",
    quirks=frozenset({Quirk.REPLAYS_LATE, Quirk.YOUNG_RECORDS}),
    package=Package("npm", "0.61.0"),
)

# By itself it asks nothing.
_OPENCODE_ASKS = '{"bash":"ask","edit":"ask","webfetch":"ask"}'
_OPENCODE_ASKS_BUT_EDITS = '{"bash":"ask","webfetch":"ask"}'

OPENCODE = KnownAgent(
    name="opencode",
    command=("opencode", "acp"),
    login="configure a provider in ~/.config/opencode/opencode.json, or run `agentsrv agents login opencode`",
    environment={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
    passed=("OPENCODE_CONFIG", "OPENCODE_CONFIG_CONTENT"),
    credentials=("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY", "OPENCODE_API_KEY"),
    files=(".local/share/opencode/auth.json", ".config/opencode/opencode.json"),
    modes={ASK: "build", EDITS: "build", PLAN: "plan", BYPASS: "build"},
    mode_environment={
        ASK: {"OPENCODE_PERMISSION": _OPENCODE_ASKS},
        EDITS: {"OPENCODE_PERMISSION": _OPENCODE_ASKS_BUT_EDITS},
        PLAN: {"OPENCODE_PERMISSION": _OPENCODE_ASKS},
    },
    distrust=Distrust(environment={"OPENCODE_DISABLE_PROJECT_CONFIG": "1"}),
    efforts=EFFORTS,
    mcp=HTTP_MCP,
    takes_images=True,
    login_command=("opencode", "auth", "login"),
    # What the package calls its program is put there by a script of it.
    package=Package("npm", "1.18.33", program="opencode-linux-x64-baseline/bin/opencode", machine="x86_64"),
)

COPILOT = KnownAgent(
    name="copilot",
    command=("copilot", "--acp"),
    login="set COPILOT_GITHUB_TOKEN, or COPILOT_PROVIDER_BASE_URL and COPILOT_PROVIDER_API_KEY",
    environment={"COPILOT_AUTO_UPDATE": "false"},
    passed=("COPILOT_OFFLINE", "COPILOT_PROVIDER_BASE_URL", "COPILOT_MODEL"),
    credentials=("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN", "COPILOT_PROVIDER_API_KEY"),
    modes={ASK: "off", BYPASS: "on"},
    mode_option="allow_all",
    takes_images=True,
    failures=("Error: ",),
    notices=re.compile(
        r"Info: (Request failed due|Response was interrupted)|Warning: \d+ tool call\(s\) had no recorded result"
    ),
    login_command=("copilot", "login"),
    quirks=frozenset({Quirk.COUNTS_SESSION}),
    package=Package("npm", "1.0.102"),
)

KIMI = KnownAgent(
    name="kimi",
    command=("kimi", "acp"),
    login="configure a provider in ~/.kimi-code/config.toml, or run `agentsrv agents login kimi`",
    credentials=("KIMI_API_KEY", "MOONSHOT_API_KEY"),
    files=(".kimi-code/config.toml",),
    modes={ASK: "default", PLAN: "plan", BYPASS: "yolo"},
    distrust=Distrust(),
    efforts=EFFORTS,
    mcp=HTTP_MCP,
    takes_images=True,
    login_command=("kimi", "login"),
    package=Package("npm", "2.1.0"),
)

GOOSE = KnownAgent(
    name="goose",
    command=("goose", "acp"),
    login="set GOOSE_PROVIDER, GOOSE_MODEL and the key of the provider, or run `agentsrv agents login goose`",
    environment={"GOOSE_DISABLE_KEYRING": "1"},
    passed=("GOOSE_PROVIDER", "GOOSE_MODEL", "OPENAI_HOST", "OPENAI_BASE_PATH", "ANTHROPIC_HOST"),
    credentials=("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "OPENROUTER_API_KEY"),
    modes={ASK: "approve", BYPASS: "auto"},
    distrust=Distrust(),
    mcp=("stdio", "http"),
    failures=("Ran into this error: ",),
    own_ids=re.compile(r"msg_[0-9a-f]{8}-"),
    login_command=("goose", "configure"),
    package=Package("npm", "1.52.0", program="@aaif/goose-binary-linux-x64/bin/goose", machine="x86_64"),
)

QWEN = KnownAgent(
    name="qwen",
    command=("qwen", "--acp"),
    login="set OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL, or run `agentsrv agents login qwen`",
    passed=("OPENAI_BASE_URL", "OPENAI_MODEL"),
    credentials=("OPENAI_API_KEY", "DASHSCOPE_API_KEY"),
    files=(".qwen/oauth_creds.json",),
    # Its own default is a classifier.
    modes={ASK: "default", EDITS: "auto-edit", PLAN: "plan", BYPASS: "yolo"},
    # Settings of the system go before those of the directory, which would switch it off.
    distrust=Distrust(
        frozenset({ASK, PLAN}),
        {"QWEN_CODE_SYSTEM_SETTINGS_PATH": "{settings}", "QWEN_CODE_TRUSTED_FOLDERS_PATH": "/nowhere"},
        b'{"security": {"folderTrust": {"enabled": true}}}',
        mcp=False,
    ),
    efforts=EFFORTS,
    mcp=HTTP_MCP,
    login_command=("qwen",),
    package=Package("npm", "0.24.4"),
)

VIBE = KnownAgent(
    name="vibe",
    command=("vibe-acp",),
    login_command=("vibe", "--setup"),
    login="set MISTRAL_API_KEY, or configure a provider in VIBE_HOME/config.toml",
    passed=("VIBE_HOME",),
    credentials=("MISTRAL_API_KEY",),
    modes={ASK: "ask", EDITS: "accept-edits", BYPASS: "auto-approve"},
    efforts=("low", "medium", "high", "max"),
    quirks=frozenset({Quirk.RELAY, Quirk.COUNTS_SESSION}),
    package=Package("pypi", "3.0.2", python=(3, 12)),
)

PI = KnownAgent(
    name="pi",
    command=("pi-acp",),
    login="configure a provider in ~/.pi/agent/models.json",
    environment={"PI_OFFLINE": "1"},
    credentials=("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"),
    files=(".pi/agent/auth.json", ".pi/agent/models.json"),
    # It asks for nothing, ever. What it calls modes are levels of thinking.
    modes={BYPASS: None},
    efforts=EFFORTS,
    takes_images=True,
    notices=re.compile(r"pi v|Retrying \(attempt |Retry finished, "),
    quirks=frozenset({Quirk.FAILS_MUTE}),
    package=Package("npm", "0.0.34"),
)

KNOWN = (GEMINI, OPENCODE, COPILOT, KIMI, GOOSE, QWEN, VIBE, PI)
