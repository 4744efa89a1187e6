"""Which agents are here."""

from __future__ import annotations

from aiohttp import web

from agentsrv.api.encode import agent_view, json_response, timestamp
from agentsrv.api.keys import AGENTS
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.agents import AgentList


async def list_agents(request: web.Request) -> web.Response:
    """Every agent: version, path, available or why not, the names of credentials and options."""
    agents = [agent_view(info) for info in await request.app[AGENTS].describe()]
    return json_response(AgentList(agents=agents, count=len(agents), timestamp=timestamp()))


# fmt: off
ROUTES = (
    Operation("GET", "/agents", list_agents, {200: AgentList}),
)
# fmt: on
