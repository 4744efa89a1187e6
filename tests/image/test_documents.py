"""What the documents tell people to type, typed at a container from outside."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.window import Window
from tests.e2e.test_readme import README, pasted
from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.image.conftest import ContainerMaker, start_with_helper, with_providers
from tests.image.container import MINUTES
from tests.image.test_secrets import PROBE
from tests.kit import KEY, ROOT, script, wait_until

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("claudes_model", "key"), [("", "fake-anthropic-key"), ("anthropic/claude-opus-4-8", "provider-key")]
)
def test_the_readme(
    make_agents: ContainerMaker,
    model: ModelApi,
    responses: ResponsesApi,
    tmp_path: Path,
    claudes_model: str,
    key: str,
) -> None:
    """Each command of the README does what is said about it, also when all models are behind the LLM helper."""
    container = make_agents(ANTHROPIC_MODEL=claudes_model)
    container.volume.mkdir()
    subprocess.run(["git", "init", "-q", str(container.volume / "workspaces/my-project")], check=True)
    if claudes_model:
        with_providers(container, model, responses)
        start_with_helper(container)
    else:
        container.start_healthy()
    url = f"http://{container.address}:3000"
    replaced = {
        "$(sed -n 's/^API_KEY=//p' .env)": KEY,
        "Write a README.": script("hang"),
        "Tidy up.": script("bash touch tidy"),
        "127.0.0.1:3000": f"{container.address}:3000",
        "python3 docs/examples/": f"echo y | {sys.executable} {ROOT}/docs/examples/",
    }
    done = subprocess.run(
        ["bash", "-x", "-c", pasted(section(README, "Use it over HTTP"), replaced)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "URL": url, "AGENTSRV_URL": url},  # noqa: TID251
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert container.ask("GET", "/sessions/my-session-2")["id"] == "my-session-2"
    wait_until(lambda: list(container.volume.rglob("tidy")), what="what was allowed is done")
    assert {call.headers.get("x-api-key") for call in model.requests} == {key}


def test_a_terminal(make_container: ContainerMaker, tmp_path: Path) -> None:
    """`agentsrv attach --terminal build` at a container: a shell of the agents' user, which stays."""
    container = make_container()
    container.start_healthy()
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    variables |= {"AGENTSRV_URL": f"http://{container.address}:3000", "AGENTSRV_API_KEY": KEY}
    (container.volume / "probe.sh").write_text(PROBE.format(key=KEY))
    looking = "sh /home/appuser/probe.sh > /home/appuser/seen 2>/dev/null; echo looked\r"
    for typed, shown in (
        ("x=kept; echo I am $(id -un)\r", "I am agent"),
        ("echo still $x\r", "still kept"),
        (looking, "looked"),
    ):
        window = Window("attach", "--terminal", "build", cwd=tmp_path, environment=variables)
        try:
            window.shows("$")
            window.type(typed)
            window.shows(f"\n{shown}")
            window.type("\x1d")
            assert window.ended() == 0
        finally:
            window.close()
    assert (container.volume / "seen").read_text().splitlines() == ["agent", "/home/appuser/probe.sh"]


def test_backup_and_restore(make_agents: ContainerMaker) -> None:
    """A backup of a running server is put back into a volume that nobody uses: what came after it is gone."""
    found = re.findall(r"```sh\n(.*?)```", section(OPERATIONS, "Backup"), re.DOTALL)
    [block] = [each for each in found if "docker exec" in each]
    saving, copying, restoring = re.split(
        r"\n(?=docker)", block.replace("\\\n", "").replace("\n\n", "\n").strip()
    )
    first = make_agents()
    first.start_healthy()
    first.job(script("text hello"), "before")
    saved = first.run("sh", "-c", f"cd /home/appuser && {saving.partition('NAME ')[2]}")
    first.job(script("text hello"), "after")
    backup = (first.volume / "data/backup.db").read_bytes()
    assert (saved.returncode, first.stop()) == (0, 0), saved
    assert "/home/appuser/data/backup.db" in copying

    second = make_agents(volume_of=first)
    second.image = replace(second.image, entrypoint=("sleep", "600"))
    second.start()
    inside = Path(f"/proc/{second.init}/root")
    wait_until(lambda: second.processes()[second.init].startswith("sleep"), what="it is in its own files")
    (inside / "from").mkdir()
    (inside / "from/backup.db").write_bytes(backup)
    restored = second.run("sh", "-c", f"cd /home/appuser && {shlex.split(restoring)[-1]}", user="root")
    second.close()
    assert restored.returncode == 0, restored

    third = make_agents(volume_of=first)
    third.start_healthy()
    assert {each["id"] for each in third.ask("GET", "/sessions")["sessions"]} == {"before"}
    assert third.job(script("text again"), "before")["status"] == "completed"


@pytest.mark.parametrize("agent", ["claude-code", "codex"])
def test_the_example_for_compose(make_agents: ContainerMaker, agent: str) -> None:
    """Its variables are settings, and with the rights that it leaves, and a root that nobody writes to, agents work."""
    described = msgspec.yaml.decode((ROOT / "docs/examples/compose.yaml").read_text(), type=dict[str, Any])
    service = described["services"]["agentsrv"]
    container = make_agents(is_read_only=service["read_only"], capabilities=tuple(service["cap_add"]))
    container.environment["ALLOWED_HOSTS"] = f"{service['environment']['ALLOWED_HOSTS']},{container.address}"
    container.start_healthy()

    assert service["cap_drop"] == ["ALL"]
    assert [each.partition(":")[0] for each in service["tmpfs"]] == ["/run", "/tmp"]
    assert container.job(script("bash id -un", "text hello"), agent=agent)["status"] == "completed"
    assert "agent" in container.said()
    assert container.stop() == 0
