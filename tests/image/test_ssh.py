"""SSH, where it was asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.image.conftest import ContainerMaker
from tests.image.container import Container
from tests.kit import KEY, wait_until


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def ssh(container: Container, key: Path, user: str, *command: str) -> subprocess.CompletedProcess[str]:
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
    )
    words = [word for option in options for word in ("-o", option)]
    return subprocess.run(
        ["ssh", *words, "-i", str(key), f"{user}@{container.address}", *command],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_login_with_a_key(make_container: ContainerMaker, key: Path) -> None:
    """A key that was given logs in as agent and appuser, finds no secret there, and never as root."""
    container = make_container(AUTHORIZED_KEYS=key.with_suffix(".pub").read_text())
    container.start_healthy()
    wait_until(lambda: ssh(container, key, "agent", "true").returncode == 0)

    assert ssh(container, key, "agent", "id", "-un").stdout == "agent\n"
    assert ssh(container, key, "appuser", "id", "-un").stdout == "appuser\n"
    assert KEY not in ssh(container, key, "appuser", "env; cat /proc/*/environ").stdout
    assert ssh(container, key, "root", "true").returncode == 255


def test_login_with_a_password(make_container: ContainerMaker, tmp_path: Path) -> None:
    """SSH_PASSWORD is that of agent and appuser; another one, root, and an agent that looks for it are refused."""
    container = make_container(SSH_PASSWORD="correct horse")
    container.start_healthy()
    answers = tmp_path / "answers"
    answers.write_text('#!/bin/sh\necho "$PASSWORD"\n')
    answers.chmod(0o755)

    def login(user: str, password: str, *command: str) -> str:
        words = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        words += ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]
        asked = {"SSH_ASKPASS": str(answers), "SSH_ASKPASS_REQUIRE": "force", "PASSWORD": password}
        done = subprocess.run(
            [*words, f"{user}@{container.address}", *command],
            env=asked | {"PATH": os.environ["PATH"], "HOME": str(tmp_path)},  # noqa: TID251
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    wait_until(lambda: login("agent", "correct horse", "id", "-un") == "agent\n")
    assert login("appuser", "correct horse", "id", "-un") == "appuser\n"
    assert login("agent", "wrong", "id", "-un") == login("root", "correct horse", "id", "-un") == ""
    found = "grep -rls 'correct[ ]horse' /etc /run /proc/[0-9]*/environ /proc/[0-9]*/cmdline"
    assert login("agent", "correct horse", found) == ""


def test_another_key(make_container: ContainerMaker, key: Path, tmp_path: Path) -> None:
    """An agent cannot let somebody in by writing to `~/.ssh`."""
    container = make_container(
        SSH_PUBLIC_KEY="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb9ECWmEzf6FQbrBZ9w7lP0r0sD0 x"
    )
    (container.volume / ".ssh").mkdir(parents=True)
    (container.volume / ".ssh" / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    container.start_healthy()
    wait_until(lambda: "Server listening on 0.0.0.0 port 22" in container.log)

    assert ssh(container, key, "agent", "true").returncode == 255
