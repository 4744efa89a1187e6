"""What the operator decides, read once at the start.

Every setting is one field of `Config`, or of the settings of one agent (`agents/<agent>/settings.py`): its type,
its default, its environment variable and how that text is read. A host that embeds agentsrv may call `Config(...)`
itself. docs/configuration.md and env.example say what each setting means; a test keeps the three equal.
"""

from __future__ import annotations

import hmac
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from agentsrv import __version__, users
from agentsrv.errors import StartupError
from agentsrv.model import NAME, PermissionMode
from agentsrv.users import User

MIB = 1024 * 1024
GIB = 1024 * MIB

PLACEHOLDER_KEY = "your-api-key-here"
SAFE_KEY_LENGTH = 16
MAX_SECONDS = 10**9
"""Thirty years, which every clock of the system can count."""
SAFE_SECRET_BYTES = 32

SENTINEL_URL = re.compile(
    r"redis\+sentinel://(?:(?P<user>[^:@/]*):(?P<password>[^@/]*)@)?(?P<hosts>[^@/,]+(?:,[^@/,]+)*)/(?P<service>[^/]+)(?:/(?P<db>[0-9]+))?"
)
"""`redis+sentinel://user:password@host:port,host:port/name/db`: the password is that of Redis itself."""

TRUE = frozenset({"true", "1", "yes", "on"})
FALSE = frozenset({"false", "0", "no", "off"})

OWN_SECRETS = frozenset({"API_KEY", "REDIS_URL", "TERMINAL_JWT_SECRET"})
"""Variables that hold secrets of the server itself. They reach no child process, whatever AGENT_ENV says."""

ANYWHERE = frozenset({"", "0.0.0.0", "::"})
"""Addresses to listen on, and not to be reached at."""

UNIX_SOCKET = IPv6Address("::")
"""What stands for whoever comes by a Unix socket, who has no address: nobody has this one."""

Network = IPv4Network | IPv6Network
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


def command(value: str) -> tuple[str, ...]:
    """A program and its arguments, as a shell would split them."""
    try:
        program, *arguments = shlex.split(value)
    except ValueError:
        raise ValueError("must be a path and arguments; a quotation mark is missing") from None
    return str(path(program)), *arguments


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
        message = f"must be a number of seconds, at least {minimum:g} and at most {MAX_SECONDS}"
        try:
            number = float(value)
        except ValueError:
            raise ValueError(message) from None
        if not minimum <= number <= MAX_SECONDS:  # nor is NaN
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


def public_url(value: str) -> str:
    """`https://agents.example.com`, or `https://example.com/agents` where a proxy serves us below a path."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", value):
        raise ValueError("must be the http(s) URL at which clients reach this server")
    return value.rstrip("/")


def hosts(value: str) -> frozenset[str]:
    """`agents.example.com`: what no request can have in `Host` would shut out everybody."""
    found = frozenset(item.lower() for item in listed(value))
    if not all(re.fullmatch(r"[^.*/?#@\s][^*/?#@\s]*", item) for item in found):
        raise ValueError("must list host names such as agents.example.com, separated by commas")
    return found


def networks(value: str) -> tuple[Network, ...]:
    """`127.0.0.1, 10.0.0.0/8, unix`: addresses, networks, and whoever comes by a Unix socket."""
    try:
        return tuple(ip_network(UNIX_SOCKET if item == "unix" else item) for item in listed(value.lower()))
    except ValueError:
        raise ValueError("must list addresses, networks such as 10.0.0.0/8, or `unix`") from None


def redis_url(value: str) -> str:
    scheme = urlsplit(value).scheme
    if scheme not in ("redis", "rediss", "unix", "redis+sentinel"):
        raise ValueError("must start with redis://, rediss://, unix:// or redis+sentinel://")
    if scheme == "redis+sentinel" and not SENTINEL_URL.fullmatch(value):
        raise ValueError("must be like redis+sentinel://host:26379,host:26379/name/0")
    return value


def server_name(value: str) -> str:
    if not NAME.match(value):
        raise ValueError("must be 1 to 128 of A-Z a-z 0-9 . _ -, and begin with a letter or a digit")
    return value


def web_address(value: str) -> str:
    """`http://127.0.0.1:4000`, without what a URL may end with."""
    wrong = ValueError("must be a URL such as http://127.0.0.1:4000")
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", value):
        raise wrong
    try:
        address = urlsplit(value)
        if not address.hostname or address.port == 0:
            raise wrong
    except ValueError as exc:  # A port that there cannot be, or half an IPv6 address.
        raise wrong from exc
    return value.rstrip("/")


def peer_address(value: str) -> str:
    """A web address that anybody may see who may ask for the list of servers."""
    address = web_address(value)
    if "@" in urlsplit(address).netloc:
        raise ValueError("must have no name and no password: servers know each other by API_KEY")
    return address


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

    public_url: str | None = field(default=None, metadata=env("PUBLIC_URL", public_url))
    trusted_proxies: tuple[Network, ...] = field(default=(), metadata=env("TRUSTED_PROXIES", networks))

    host: str = field(default="127.0.0.1", metadata=env("HOST", text))
    port: int = field(default=3000, metadata=env("PORT", integer(0, 65535)))
    max_connections: int = field(default=4096, metadata=env("MAX_CONNECTIONS", integer(1)))
    max_connections_per_address: int = field(
        default=1024, metadata=env("MAX_CONNECTIONS_PER_ADDRESS", integer(1))
    )
    rate_limit: int = field(default=0, metadata=env("RATE_LIMIT", integer(0)))
    address_rate_limit: int = field(default=0, metadata=env("ADDRESS_RATE_LIMIT", integer(0)))
    auth_failure_limit: int = field(default=300, metadata=env("AUTH_FAILURE_LIMIT", integer(0)))
    audit_days: int = field(default=365, metadata=env("AUDIT_DAYS", integer(0, 36_500)))
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

    server_name: str | None = field(default=None, metadata=env("SERVER_NAME", server_name))
    server_url: str | None = field(default=None, metadata=env("SERVER_URL", peer_address))
    accepts_sessions: bool = field(default=True, metadata=env("ACCEPTS_SESSIONS", flag))
    workspace_shared: bool = field(default=False, metadata=env("WORKSPACE_SHARED", flag))
    drain_timeout_s: float = field(default=0.0, metadata=env("DRAIN_TIMEOUT", seconds()))

    agent_user: User | None = field(default=None, metadata=env("AGENT_USER", users.parse))
    agent_env: tuple[str, ...] = field(default=(), metadata=env("AGENT_ENV", variable_names))
    agents_file: Path | None = field(default=None, metadata=env("AGENTS_FILE", path))
    default_permission_mode: PermissionMode = field(
        default=PermissionMode.BYPASS, metadata=env("DEFAULT_PERMISSION_MODE", permission_mode)
    )
    llm_server_url: str | None = field(default=None, metadata=env("LLM_SERVER_URL", web_address))
    llm_server_key: str | None = field(default=None, metadata=env("LLM_SERVER_KEY", text), repr=False)
    trust_repositories: bool = field(default=False, metadata=env("TRUST_REPOSITORIES", flag))

    permission_timeout_s: float = field(default=600.0, metadata=env("PERMISSION_TIMEOUT", seconds()))

    max_concurrent_turns: int = field(default=64, metadata=env("MAX_CONCURRENT_TURNS", integer(1)))
    max_warm_agents: int = field(default=8, metadata=env("MAX_WARM_AGENTS", integer(0)))
    max_background_agents: int = field(default=8, metadata=env("MAX_BACKGROUND_AGENTS", integer(0)))
    warm_sessions: bool = field(default=False, metadata=env("WARM_SESSIONS", flag))
    worktree_setup: tuple[str, ...] = field(default=(), metadata=env("WORKTREE_SETUP", command))
    worktree_setup_timeout_s: float = field(default=300.0, metadata=env("WORKTREE_SETUP_TIMEOUT", seconds()))
    turn_snapshots: bool = field(default=True, metadata=env("TURN_SNAPSHOTS", flag))
    agent_idle_timeout_s: float = field(default=300.0, metadata=env("AGENT_IDLE_TIMEOUT", seconds()))
    turn_timeout_s: float = field(default=0.0, metadata=env("TURN_TIMEOUT", seconds()))
    turn_idle_timeout_s: float = field(default=0.0, metadata=env("TURN_IDLE_TIMEOUT", seconds()))
    agent_patience_s: float = field(default=60.0, metadata=env("AGENT_PATIENCE", seconds()))
    shutdown_grace_s: float = field(default=8.0, metadata=env("SHUTDOWN_GRACE", seconds()))

    terminal_shell: tuple[str, ...] = field(default=(), metadata=env("TERMINAL_SHELL", command))
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
        user: User | None = values.get("agent_user")
        if user is not None and user.uid == os.geteuid():
            del values["agent_user"]
        found = cls(**values, environment={**environment, **(user.variables() if user else {})})
        found.require_fleet()
        return found

    def require_fleet(self) -> None:
        """Raises StartupError when the server has a name, and not all that a server of a fleet needs."""
        if self.server_name is None:
            return
        if self.redis_url is None:
            raise StartupError("SERVER_NAME needs REDIS_URL, where the servers of a fleet find each other")
        if self.server_url is None and (
            self.port == 0 or self.host in ANYWHERE or self.host.startswith("unix:")
        ):
            raise StartupError(
                "SERVER_NAME needs SERVER_URL: how the other servers of the fleet reach this one"
            )

    @property
    def peer_url(self) -> str:
        """How the other servers of a fleet reach this one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.server_url or f"http://{host}:{self.port}"

    def derived_key(self, purpose: bytes) -> bytes:
        """A secret for one purpose, made from the API key by HKDF (RFC 5869, SHA-256), which cannot be undone."""
        extracted = hmac.digest(bytes(32), self.api_keys[0].encode(), "sha256")
        return hmac.digest(extracted, purpose + b"\x01", "sha256")

    def warnings(self, *, at_start: bool = False) -> list[str]:
        """What an operator should know, though the server starts: one line each.

        `at_start` leaves out what holds for the default settings: it would be told at every start. The doctor tells it.
        """
        found = []
        if any(len(key) < SAFE_KEY_LENGTH for key in self.api_keys):
            found.append(
                f"API_KEY is shorter than {SAFE_KEY_LENGTH} characters and can be guessed; make a longer one with "
                "`agentsrv token`"
            )
        if not self.allowed_hosts and not is_near(self.host):
            found.append(
                f"ALLOWED_HOSTS is not set, and HOST={self.host} is not loopback: a web page could reach the server "
                "under a name of its own; list the names by which it is called"
            )
        if self._is_state_in_reach and not (at_start and self._is_state_hidden):
            found.append(
                f"STATE_DIR lies in WORKSPACE_BASE_PATH ({self.workspace_base}): agents work next to the server's "
                "database; move one of them, or set AGENT_USER"
            )
        return found

    @property
    def _is_state_in_reach(self) -> bool:
        return self.agent_user is None and self.state_dir.is_relative_to(self.workspace_base)

    @property
    def _is_state_hidden(self) -> bool:
        """Does it lie in a directory like `~/.local`, in which no session works by accident?"""
        return any(part.startswith(".") for part in self.state_dir.relative_to(self.workspace_base).parts)


def is_near(host: str) -> bool:
    """Does only this machine reach a server that listens there?"""
    return host == "localhost" or host.startswith(("127.", "unix:")) or host == "::1"


def read_settings(cls: type[Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a dataclass that are given, by field name.

    Raises StartupError, which names all that are wrong.
    """
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
