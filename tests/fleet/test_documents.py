"""The settings of load balancers in docs/fleet.md are those of programs that take them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from agentsrv.config import Config
from tests.kit import ROOT, TIMEOUT_S

pytestmark = pytest.mark.tools

FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAINT = re.compile(r"node\.kubernetes\.io/[a-z-]+=\w+:\w+")
BLOCKS = FENCED.findall((ROOT / "docs/fleet.md").read_text())
SEARCHED = "/usr/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin"


def block_with(word: str) -> str:
    (found,) = [block for block in BLOCKS if word in block]
    return str(found)


def check(program: str, *arguments: str) -> None:
    """The program itself says whether it could start with these settings."""
    path = shutil.which(program, path=SEARCHED)
    if path is None:
        pytest.fail(f"{program} is not installed; `python3 dev.py tools` does it")
    answer = subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert 0 == answer.returncode, answer.stderr


def test_haproxy_takes_the_example(tmp_path: Path) -> None:
    settings = tmp_path / "haproxy.cfg"
    settings.write_text(block_with("frontend").replace(" ssl crt /etc/haproxy/agents.pem", ""))

    check("haproxy", "-c", "-f", str(settings))


def test_nginx_takes_the_example(tmp_path: Path) -> None:
    settings = tmp_path / "nginx.conf"
    example = block_with("upstream").replace("listen 443 ssl", "listen 127.0.0.1:8443")
    settings.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off;\n{example}}}\n"
    )

    check("nginx", "-t", "-q", "-e", "stderr", "-p", str(tmp_path), "-c", str(settings))


def test_copy_of_a_disk_has_the_database() -> None:
    """The example for Litestream: the file is called as the server calls it, and goes somewhere else."""
    (copied,) = yaml.safe_load(block_with("dbs:"))["dbs"]
    config = Config.from_env({"API_KEY": "k" * 32, "STATE_DIR": str(Path(copied["path"]).parent)})

    assert str(config.database_path) == copied["path"]
    assert re.match(r"[a-z0-9]+://\w+/", copied["replica"]["url"])


def test_taint_of_a_lost_machine_is_the_same_everywhere() -> None:
    """With it Kubernetes takes a volume from a machine; the wrong word would do nothing, and nobody would know why."""
    found = {word for name in ("docs/fleet.md", "deploy/kubernetes/README.md") for word in taints_in(name)}

    assert {"node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"} == found


def taints_in(name: str) -> list[str]:
    return TAINT.findall((ROOT / name).read_text()) or pytest.fail(f"{name} does not say what to do")
