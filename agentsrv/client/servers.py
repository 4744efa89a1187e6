"""Which server, and with which key: what is given, the environment, what `agentsrv login` has stored, `.env`.

`~/.config/agentsrv/servers.json` (mode 0600) holds `{"current": URL, "servers": {URL: {"key", "tokenId"}}}`. A key that
is stored there, or stands in a `.env`, is sent to no other URL than the one it is for.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from agentsrv.client.errors import AgentsrvError

DEFAULT_URL = "http://127.0.0.1:3000"
UNIX = "unix:"
"""Begins the address of a server on a Unix socket, as in its HOST: `unix:/run/agentsrv.sock`."""
DEFAULT_PORTS = {"http": 80, "https": 443}
PLACEHOLDER = "your-api-key-here"
MAX_DOTENV = 1 << 20
DOTENV = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(HOST|PORT|API_KEY)[ \t]*=[ \t]*"""
    r"""(?:"([^"\n]*)"|'([^'\n]*)'|((?!#)\S+(?:[ \t]+(?!#)\S+)*|))""",
    re.MULTILINE,
)
"""As the server reads it: a comment begins behind a blank, and a `#` within a word is a part of it."""


class ConfigurationError(AgentsrvError):
    """What was given or stored does not say which server, or with which key."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, the key for it (empty: there is none), and where that key comes from, for people."""

    url: str
    key: str = field(repr=False, default="")
    key_source: str = "none was found"

    @property
    def socket(self) -> str | None:
        """The path of its Unix socket."""
        return self.url.removeprefix(UNIX) if self.url.startswith(UNIX) else None

    @property
    def origin(self) -> str:
        """What stands before the paths of requests."""
        return "http://localhost" if self.socket else self.url

    @property
    def is_local(self) -> bool:
        """Is it on this very machine, as far as its address tells?"""
        if self.socket:
            return True
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


@dataclass(frozen=True, slots=True)
class Stored:
    """What is in servers.json: keys by URL, and the URL that is meant when none is given.

    `token_ids` has those of keys that the server has made for this machine, and can end.
    """

    current: str | None = None
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    token_ids: dict[str, str] = field(default_factory=dict)


def find_server(
    url: str | None = None,
    key: str | None = None,
    *,
    key_file: Path | None = None,
    env_file: Path = Path(".env"),
    environment: Mapping[str, str] | None = None,
) -> Server:
    """The server that is meant. What is given wins over the environment, that over what is stored, that over `.env`."""
    environment = os.environ if environment is None else environment
    stored = load_servers(environment)
    local = _local_settings(env_file, environment)
    local_url = _url_of(local.get("HOST", "127.0.0.1"), local.get("PORT", "3000"))
    found = url or environment.get("AGENTSRV_URL") or stored.current
    is_here = bool(environment.get("HOST")) or _is_here(local.get("HOST", "localhost"))
    if not found and not is_here:
        told = f"HOST={local['HOST']} of {env_file} is no address of this machine"
        raise ConfigurationError(f"{told}; if that server is meant, give its URL")
    address = checked_url(found or local_url)
    local_key = local.get("API_KEY", "") if is_here and address == checked_url(local_url) else ""
    sources = [
        ("the one that was given", key or ""),
        (f"the file {key_file}", _content(key_file) if key_file else ""),
        ("AGENTSRV_API_KEY", environment.get("AGENTSRV_API_KEY", "")),
        ("API_KEY of the environment", environment.get("API_KEY", "")),
        (str(servers_file(environment)), stored.keys.get(address, "")),
        (f"API_KEY of {env_file}", local_key),
    ]
    for source, value in sources:
        if first := _first_key(value):
            return Server(address, first, source)
    return Server(address)


def checked_url(url: str) -> str:
    """`url` in the one way it is written, without a slash at its end. Raises ConfigurationError."""
    url = url.strip()
    if url.startswith(UNIX):
        return _checked_socket(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError(f"{url!r} is not a URL: {exc}") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ConfigurationError(f"{_without_secret(parts)!r} is not a URL such as {DEFAULT_URL}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            "a server's URL has no user, password, query or fragment; a key goes elsewhere"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    ending = "" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{ending}{parts.path.rstrip('/')}"


def _checked_socket(url: str) -> str:
    path = url.removeprefix(UNIX)
    if not path.startswith("/") or not path.isprintable():
        raise ConfigurationError(f"{url!r} is not the path of a socket, such as {UNIX}/run/agentsrv.sock")
    return UNIX + os.path.normpath(path)


def _without_secret(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def servers_file(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", "~"), ".config")
    return Path(base).expanduser() / "agentsrv" / "servers.json"


def load_servers(environment: Mapping[str, str] | None = None) -> Stored:
    """What is stored; nothing without a file. Raises ConfigurationError when it cannot be read."""
    path = servers_file(os.environ if environment is None else environment)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        servers = content.get("servers", {})
        keys = {str(url): str(each["key"]) for url, each in servers.items()}
        token_ids = {str(url): str(each["tokenId"]) for url, each in servers.items() if each.get("tokenId")}
        current = content.get("current")
        return Stored(current and checked_url(current), keys, token_ids)
    except FileNotFoundError:
        return Stored()
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as exc:
        raise ConfigurationError(f"{path} cannot be read: {_why(exc)}; mend it or remove it") from None


def save_servers(stored: Stored, environment: Mapping[str, str] | None = None) -> Path:
    """Replace what is stored, whole; nobody but its owner may read it. Returns where it is."""
    path = servers_file(os.environ if environment is None else environment)
    servers = {url: {"key": key, "tokenId": stored.token_ids.get(url)} for url, key in stored.keys.items()}
    content = {"current": stored.current, "servers": servers}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from None
    return path


def _local_settings(env_file: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Of a server that is started here: HOST and PORT of the environment, else of the file, and the file's key."""
    found = {name: "".join(values) for name, *values in DOTENV.findall(_beginning(env_file))}
    found |= {name: environment[name] for name in ("HOST", "PORT") if environment.get(name, "").strip()}
    return {name: value for name, value in found.items() if value}


def _beginning(env_file: Path) -> str:
    """Of a file: whose directory we are in may have put anything else there."""
    try:
        if not env_file.is_file():
            return ""
        with env_file.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(MAX_DOTENV)
    except OSError:
        return ""


def _is_here(host: str) -> bool:
    """Can a server on this machine listen there? A `.env` that came with a repository must not lead us elsewhere."""
    if host == "localhost" or host.startswith(UNIX):
        return True
    try:
        kind = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True


def _url_of(host: str, port: str) -> str:
    """How a client calls what a server listens on."""
    if host.startswith(UNIX):
        return host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the key file {path} cannot be read: {_why(exc)}") from None


def _why(exc: Exception) -> str:
    """Without what is in the file, which may be a key."""
    return exc.strerror or "" if isinstance(exc, OSError) else "it holds something else"


def _first_key(value: str) -> str:
    """API_KEY may hold several, separated by commas."""
    key = value.split(",")[0].strip()
    if not key.isprintable() or not key.isascii():
        raise ConfigurationError("a key has characters that no key has")
    return "" if key == PLACEHOLDER else key
