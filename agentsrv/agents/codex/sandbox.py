"""Whether Codex can confine its commands here; where it cannot, it would let each of them fail."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from agentsrv.errors import InvalidInput, Problem
from agentsrv.programs import ask
from agentsrv.threads import Pool

ADVICE = "see docs/operations.md, User namespaces"

ASKED_AGAIN_AFTER_S = 5.0


class Sandbox:
    """What is known of it. It takes a program to find out, which may hang: one at a time, for all who want to know."""

    def __init__(self, programs: Pool) -> None:
        self._programs = programs
        self._asking = asyncio.Lock()
        self._works = False
        self._trouble: str | None = None
        self._asked_at = 0.0

    async def require(self, program: Path, environment: dict[str, str]) -> None:
        """A refusal is asked for again later, for it may have been mended. Raises InvalidInput
        (`sandbox_unavailable`). The home that `environment` names must be there.
        """
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if not self._works and (self._trouble is None or now - self._asked_at > ASKED_AGAIN_AFTER_S):
                self._trouble = await self._find_trouble(program, environment)
                self._works = self._trouble is None
                self._asked_at = asyncio.get_running_loop().time()
        if self._trouble is not None:
            problem = Problem("permission_mode", self._trouble)
            message = f"permission_mode: {self._trouble}"
            raise InvalidInput(message, code="sandbox_unavailable", problems=[problem])

    async def find_trouble_elsewhere(self, program: Path, environment: dict[str, str]) -> str | None:
        """Why commands cannot be confined, found out in a home that is gone afterwards: nothing is left behind that
        the server could not write to. None: they can.
        """
        with tempfile.TemporaryDirectory(prefix="agentsrv-doctor-") as home:
            if (user := self._programs.user) is not None:
                os.chown(home, user.uid, user.gid)
            return await self._find_trouble(program, environment | {"CODEX_HOME": home})

    async def _find_trouble(self, program: Path, environment: dict[str, str]) -> str | None:
        _, trouble = await ask(self._programs, program, "sandbox", "--", "/bin/true", env=environment)
        if trouble is None:
            return None
        return (
            "codex cannot confine its commands on this server, which every mode but `bypass` needs: "
            f"`codex {trouble}`. Use `bypass`, or let the server's user make user namespaces"
        )
