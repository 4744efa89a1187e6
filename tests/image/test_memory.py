"""Limits of memory that the kernel sees to."""

from __future__ import annotations

from tests.image.conftest import ContainerMaker
from tests.kit import script


def test_little_memory(make_agents: ContainerMaker) -> None:
    """512 MB: the log says that it is little, and what was left out; the server stays, whatever becomes of an agent."""
    container = make_agents(memory_mb=512, LLM_SERVER="true")
    container.start_healthy()
    job = container.job(script("text hello"))

    assert (
        "memory: a limit of 512 MB is too small for an agent beside the server; give it 768 MB"
        in container.log
    )
    assert "llm helper: not started, a limit of 512 MB is too small" in container.log
    assert job["status"] == "completed" or job["error"], job
    assert container.health() in ("healthy", "degraded")
    assert container.log.count("starts again") <= 1, container.log


def test_too_little_memory(make_container: ContainerMaker) -> None:
    """Where not even the server fits, it is not tried for ever, and the log says why."""
    container = make_container(memory_mb=40, MAX_QUICK_DEATHS="2", STEADY_S="600")
    container.start()
    assert container.process is not None

    assert container.process.wait(600) == 137
    assert "takes more memory than the container may have" in container.log
