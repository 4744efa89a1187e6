"""What the operator decides, read once at the start.

Every setting is one field of `Config`: its type, its default, its environment variable and how that text is
read. A host that embeds agentsrv may call `Config(...)` itself. docs/configuration.md and env.example say
what each setting means; a test keeps the three equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from agentsrv import __version__
from agentsrv.errors import StartupError
from agentsrv.model import PermissionMode

MIB = 1024 * 1024
GIB = 1024 * MIB

PLACEHOLDER_KEY = "your-api-key-here"
SAFE_KEY_LENGTH = 16
SAFE_SECRET_BYTES = 32

TRUE = frozenset({"true", "1", "yes", "on"})
FALSE = frozenset({"false", "0", "no", "off"})

OWN_SECRETS = frozenset({"API_KEY", "REDIS_URL", "TERMINAL_JWT_SECRET"})
"""Variables that hold secrets of the server itself. They reach no child process, whatever AGENT_ENV says."""

NodeEnv = Literal["development", "production"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Synchronous = Literal["full", "normal"]


def env(name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Field metadata: the setting is the variable `name`, and `parse` turns its text into the value.

    `parse` gets stripped text that is not empty. It raises ValueError with what is wrong and what to do, and
    does not repeat the text, which may be a secret.
    """
    return {"name": name, "parse": parse}


def text(value: str) -> str:
    return value


def path(value: str) -> Path:
    return Path(value).expanduser().absolute()


def flag(value: str) -> bool:
    if value.lower() not in TRUE | FALSE:
        raise ValueError("must be true or false")
    return value.lower() in TRUE


def integer(minimum: int, maximum: int = 2**53) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", value) or not minimum <= int(value) <= maximum:
            bound = f"at least {minimum}" if maximum == 2**53 else f"from {minimum} to {maximum}"
            raise ValueError(f"must be a whole number, {bound}")
        return int(value)

    return parse


def seconds(minimum: float = 0.0) -> Callable[[str], float]:
    def parse(value: str) -> float:
        message = f"must be a number of seconds, at least {minimum:g}"
        try:
            number = float(value)
        except ValueError:
            raise ValueError(message) from None
        if not math.isfinite(number) or number < minimum:
            raise ValueError(message)
        return number

    return parse


def choice(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in words:
            raise ValueError(f"must be one of: {', '.join(words)}")
        return value.lower()

    return parse


def listed(value: str) -> tuple[str, ...]:
    """The items of a comma-separated list, blanks dropped."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def api_keys(value: str) -> tuple[str, ...]:
    keys = listed(value)
    if PLACEHOLDER_KEY in keys:
        raise ValueError("is still the placeholder of env.example; make a key with `agentsrv token`")
    if not all(re.fullmatch("[!-~]+", key) for key in keys):
        raise ValueError("must be printable ASCII without spaces (several keys: separated by commas)")
    return keys


def origins(value: str) -> frozenset[str]:
    return frozenset(origin(item) for item in listed(value))


def origin(value: str) -> str:
    """`https://app.example.com` or `http://localhost:5173`: what a browser sends in `Origin`."""
    origin = value.lower().rstrip("/")
    if not re.fullmatch(r"https?://[^/?#*@\s]+", origin):
        raise ValueError("must list exact origins such as https://app.example.com, separated by commas")
    return origin


def hosts(value: str) -> frozenset[str]:
    return frozenset(item.lower() for item in listed(value))


def redis_url(value: str) -> str:
    if urlsplit(value).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must start with redis://, rediss:// or unix://")
    return value


def signing_secret(value: str) -> str:
    if len(value.encode()) < SAFE_SECRET_BYTES:
        raise ValueError(f"must have at least {SAFE_SECRET_BYTES} bytes; `agentsrv token` prints a good one")
    return value


def permission_mode(value: str) -> PermissionMode:
    if value.lower() not in list(PermissionMode):
        raise ValueError(f"must be one of {', '.join(PermissionMode)}")
    return PermissionMode(value.lower())


def variable_names(value: str) -> tuple[str, ...]:
    names = listed(value)
    if not all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) for name in names):
        raise ValueError("must be names of variables, separated by commas")
    if own := OWN_SECRETS.intersection(names):
        raise ValueError(f"must not name {', '.join(sorted(own))}: the server's secrets never reach an agent")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings. Durations end in `_s`, sizes in `_bytes`; 0 turns a `turn_*` limit off."""

    api_keys: tuple[str, ...] = field(metadata=env("API_KEY", api_keys), repr=False)
    allowed_origins: frozenset[str] = field(default=frozenset(), metadata=env("ALLOWED_ORIGINS", origins))
    allowed_hosts: frozenset[str] = field(default=frozenset(), metadata=env("ALLOWED_HOSTS", hosts))

    host: str = field(default="127.0.0.1", metadata=env("HOST", text))
    port: int = field(default=3000, metadata=env("PORT", integer(0, 65535)))
    node_env: NodeEnv = field(
        default="development", metadata=env("NODE_ENV", choice("development", "production"))
    )
    app_version: str = field(default=__version__, metadata=env("APP_VERSION", text))
    log_level: LogLevel = field(
        default="info", metadata=env("LOG_LEVEL", choice("debug", "info", "warning", "error"))
    )
    log_format: LogFormat = field(default="text", metadata=env("LOG_FORMAT", choice("text", "json")))

    workspace_base: Path = field(metadata=env("WORKSPACE_BASE_PATH", path))
    state_dir: Path = field(metadata=env("STATE_DIR", path))
    database_path: Path = field(metadata=env("DATABASE_PATH", path))
    database_synchronous: Synchronous = field(
        default="full", metadata=env("DATABASE_SYNCHRONOUS", choice("full", "normal"))
    )
    redis_url: str | None = field(default=None, metadata=env("REDIS_URL", redis_url), repr=False)

    claude_path: Path | None = field(default=None, metadata=env("CLAUDE_PATH", path))
    codex_path: Path | None = field(default=None, metadata=env("CODEX_PATH", path))
    use_claude_credentials: bool = field(default=False, metadata=env("USE_CLAUDE_CREDENTIALS", flag))
    agent_env: tuple[str, ...] = field(default=(), metadata=env("AGENT_ENV", variable_names))
    default_permission_mode: PermissionMode = field(
        default=PermissionMode.BYPASS, metadata=env("DEFAULT_PERMISSION_MODE", permission_mode)
    )

    permission_timeout_s: float = field(default=600.0, metadata=env("PERMISSION_TIMEOUT", seconds()))

    max_concurrent_turns: int = field(default=64, metadata=env("MAX_CONCURRENT_TURNS", integer(1)))
    max_warm_agents: int = field(default=8, metadata=env("MAX_WARM_AGENTS", integer(0)))
    agent_idle_timeout_s: float = field(default=300.0, metadata=env("AGENT_IDLE_TIMEOUT", seconds()))
    turn_timeout_s: float = field(default=0.0, metadata=env("TURN_TIMEOUT", seconds()))
    turn_idle_timeout_s: float = field(default=0.0, metadata=env("TURN_IDLE_TIMEOUT", seconds()))
    shutdown_grace_s: float = field(default=8.0, metadata=env("SHUTDOWN_GRACE", seconds()))

    terminal_shell: Path | None = field(default=None, metadata=env("TERMINAL_SHELL", path))
    terminal_linger_s: float = field(default=300.0, metadata=env("TERMINAL_LINGER", seconds()))
    max_terminals: int = field(default=100, metadata=env("MAX_TERMINALS", integer(0)))
    terminal_token_ttl_s: int = field(default=60, metadata=env("TERMINAL_TOKEN_TTL", integer(1, 300)))
    terminal_token_reuse: bool = field(default=False, metadata=env("TERMINAL_TOKEN_REUSE", flag))
    terminal_jwt_secret: str | None = field(
        default=None, metadata=env("TERMINAL_JWT_SECRET", signing_secret), repr=False
    )

    filesystem_default_depth: int = field(
        default=10, metadata=env("FILESYSTEM_DEFAULT_DEPTH", integer(1, 1000))
    )
    filesystem_max_depth: int = field(default=20, metadata=env("FILESYSTEM_MAX_DEPTH", integer(1, 1000)))
    max_upload_bytes: int = field(default=2 * GIB, metadata=env("MAX_UPLOAD_BYTES", integer(1024)))

    max_body_bytes: int = field(default=12 * MIB, metadata=env("MAX_BODY_BYTES", integer(1024)))
    body_timeout_s: float = field(default=30.0, metadata=env("BODY_TIMEOUT", seconds(0.1)))
    keepalive_s: float = field(default=15.0, metadata=env("KEEPALIVE_INTERVAL", seconds(0.1)))
    stall_timeout_s: float = field(default=30.0, metadata=env("STALL_TIMEOUT", seconds(0.1)))
    max_line_bytes: int = field(default=16 * MIB, metadata=env("MAX_LINE_BYTES", integer(1024)))
    spool_quota_bytes: int = field(default=2 * GIB, metadata=env("SPOOL_QUOTA_BYTES", integer(MIB)))

    environment: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The variables as given: what `GET /env` looks at and what an agent's environment is chosen from."""

    env_file: Path | None = field(default=None, compare=False)
    """The file that settings were read from: it may hold the key, so nobody reads it through the API."""

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Config:
        """Read every setting from `environment`; a variable that is unset or blank takes its default.

        Raises StartupError, one line, which names each variable, what is wrong and what to do.
        """
        values = read_settings(cls, environment)
        if not values.get("api_keys"):
            raise StartupError("API_KEY is not set; `agentsrv token --write` makes one and keeps it in .env")
        home = Path(environment.get("HOME") or Path.home())
        data_home = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share")
        values.setdefault("workspace_base", home)
        values.setdefault("state_dir", data_home / "agentsrv")
        values.setdefault("database_path", values["state_dir"] / "agentsrv.db")
        return cls(**values, environment=dict(environment))

    def warnings(self) -> list[str]:
        """What an operator should know, though the server starts: one line each."""
        found = []
        if any(len(key) < SAFE_KEY_LENGTH for key in self.api_keys):
            found.append(f"API_KEY is shorter than {SAFE_KEY_LENGTH} characters and can be guessed")
        return found


def read_settings(cls: type[Config], environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that are given, by field name. Raises StartupError, which names all that are wrong."""
    values = {}
    wrong = []
    for setting in fields(cls):
        name = setting.metadata.get("name", "")
        given = environment.get(name, "").strip()
        if given:
            try:
                values[setting.name] = setting.metadata["parse"](given)
            except ValueError as exc:
                wrong.append(f"{name} {exc}")
    if wrong:
        raise StartupError("; ".join(wrong))
    return values
