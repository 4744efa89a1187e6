"""Which server of models an agent asks: its own, or, for a model named `provider/model`, the LLM server.

The LLM server is a LiteLLM proxy (LLM_SERVER_URL): it speaks the protocols of all agents and asks the provider that the
model's name begins with. So every agent can work with every model, and sees no provider's key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agentsrv.config import Config
from agentsrv.errors import Unavailable

PATIENCE_S = 45.0
"""LiteLLM needs 8 s to start on an idle machine, and three times as long on a busy one."""
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class ModelServer:
    """Its address, as the agent wants it (None: the one that it knows), and the key for it."""

    url: str | None
    key: str | None = field(repr=False)


def is_named_with_provider(model: str | None) -> bool:
    return "/" in (model or "")


def llm_server(config: Config, path: str = "") -> ModelServer | None:
    """The LLM server, where there is one; `path` is what the agent wants behind its address."""
    if config.llm_server_url is None:
        return None
    # A key must be given even to one that wants none: without one the agents would log in elsewhere.
    return ModelServer(config.llm_server_url + path, config.llm_server_key or "none")


async def require_llm_server(model: str | None, config: Config, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until it takes connections, for it may be starting, where the model is one of its own.

    Raises Unavailable (`llm_server_unavailable`).
    """
    if config.llm_server_url is None or not is_named_with_provider(model):
        return
    address = urlsplit(config.llm_server_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        async with asyncio.timeout(patience_s):
            # Nothing tells that another process listens.
            while not await _accepts(address.hostname or "", port):  # noqa: ASYNC110
                await asyncio.sleep(PAUSE_S)
    except TimeoutError as exc:
        raise Unavailable(
            "the LLM server, which has this model, does not answer; try again, or use a model of the agent's own",
            code="llm_server_unavailable",
            retry_after_s=10,
        ) from exc


async def _accepts(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True
