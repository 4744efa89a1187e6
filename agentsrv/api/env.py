"""Which variables of the server's environment are set: never what they hold."""

from __future__ import annotations

import re

from aiohttp import web

from agentsrv.api.encode import json_response
from agentsrv.api.keys import CONFIG
from agentsrv.api.operations import JSON, Operation
from agentsrv.errors import InvalidInput

MAX_NAMES = 64
NAME = re.compile("[A-Z0-9_]{1,1024}")


async def check_environment(request: web.Request) -> web.Response:
    """Which of the named variables are present and not empty; several names are separated by commas."""
    names = [name.strip(" ") for name in request.match_info["names"].split(",")]
    invalid = [name for name in names if not NAME.fullmatch(name)] or names[MAX_NAMES:]
    if invalid:
        raise InvalidInput(
            f"give 1 to {MAX_NAMES} names of capital letters, digits and underscores, separated by commas",
            code="invalid_name",
            extra={"invalid": invalid},
        )
    environment = request.app[CONFIG].environment
    present = {name: bool(environment.get(name)) for name in names}
    return json_response(present)


# fmt: off
ROUTES = (
    Operation("GET", r"/env/{names:[\s\S]*}", check_environment, {200: JSON}, (400,)),
)
# fmt: on
