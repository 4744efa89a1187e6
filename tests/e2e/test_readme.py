"""The README's commands work, pasted in the order in which they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import KEY, ROOT, Server

README = (ROOT / "README.md").read_text()

TIMEOUT_S = 280
OTHERS = ("make run", "docker run", "attach --terminal")
"""Blocks that start the server or an image, or need a terminal: other tests are about those."""

BEFORE = """
set -e -o pipefail
exec </dev/null
curl() { command curl --silent --show-error --fail-with-body "$@"; }
"""
WAIT = 'until curl $URL/permissions -H "Authorization: Bearer $API_KEY" | grep -q requestId; do sleep 0.1; done\n'
"""A person looks at the stream and sees that there is a question."""


def pasted(text: str, replaced: dict[str, str]) -> str:
    """All blocks as one script, with other words in the place of some: prompts that take their time, or ask."""
    script = BEFORE
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if not any(words in block for words in OTHERS):
            script += (WAIT if block.startswith("REQUEST_ID=") else "") + block
    for there, here in replaced.items():
        assert there in script
        script = script.replace(there, here)
    return script


def make_repository(directory: Path) -> None:
    """With one commit of one file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "file").write_text("one\n")
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.com")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(("git", *words), cwd=directory, check=True)


@pytest.mark.tools
def test_every_command_of_the_readme_works(server: Server) -> None:
    """A newcomer who pastes one block after the other sees none fail."""
    checkout = server.workspace / "checkout"
    for directory in (checkout, server.workspace / "my-project"):
        make_repository(directory)
    (checkout / ".env").write_text(f"API_KEY={KEY}\nPORT={server.port}\n")
    url = f"http://127.0.0.1:{server.port}"
    replaced = {
        "Write a README.": "SCRIPT: hang",
        "Tidy up.": "SCRIPT: ask 1 Bash {}",
        "127.0.0.1:3000": f"127.0.0.1:{server.port}",
        "python3 docs/examples/": f"echo y | {sys.executable} {ROOT}/docs/examples/",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # noqa: TID251
    environment = {"PATH": path, "HOME": str(server.home), "URL": url, "AGENTSRV_URL": url}

    done = subprocess.run(
        ["bash", "-x", "-c", pasted(README, replaced)],
        cwd=checkout, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
