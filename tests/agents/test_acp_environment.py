"""Which of the server's variables an agent of ACP gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsrv.agents.acp.agent import AcpAgent
from agentsrv.agents.acp.known import KNOWN, KnownAgent
from agentsrv.config import Config
from agentsrv.model import Session, SessionId, TurnOptions
from agentsrv.threads import Threads

KEYS = {name: "secret" for known in KNOWN for name in known.credentials}


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_an_agent_gets_its_own_credentials_alone(tmp_path: Path, known: KnownAgent) -> None:
    """Those of other providers' agents are not for it, nor is anything else of the server's."""
    variables = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "API_KEY": "s",
        "STATE_DIR": str(tmp_path),
        "MY_VAR": "v",
    }
    agent = AcpAgent(known, Config.from_env(variables | KEYS), Threads().programs)
    session = Session(SessionId("s"), None, known.name, "/w", None, None, 0, 0)
    found = agent.launch(session, TurnOptions(), resume=False, directory=tmp_path).env

    assert {name for name in found if name in KEYS} == {*known.credentials, *known.passed} & set(KEYS)
    assert not {"API_KEY", "MY_VAR", "STATE_DIR"} & set(found)
