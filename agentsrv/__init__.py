"""agentsrv: coding-agent command lines as a durable HTTP service.

from agentsrv import Config, make_app
host.add_subapp("/agents", make_app(Config(...)))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentsrv.app import make_app
    from agentsrv.config import Config

__all__ = ["Config", "__version__", "make_app"]

__version__ = "0.1.0"

_HOME_OF = {"make_app": "agentsrv.app", "Config": "agentsrv.config"}


def __getattr__(name: str) -> Any:
    # Imported on first use: `agentsrv --version` and the migrations have no use for aiohttp's 0.2 s.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
