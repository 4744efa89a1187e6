"""`make image`: builds the image with docker, with podman, or, where neither runs, with buildah in a chroot.

    python -m image.build [slim | full] [words for the engine's build command]

IMAGE_ENGINE chooses (`docker`, `podman`, `chroot`); without it: docker where its engine answers, else `chroot`, which
needs root and Debian's buildah, podman and debootstrap. There debootstrap makes the base image, as it makes the real
one, and the machine's own certificates are lent to the build, which may be behind a proxy that has some.

`--platform linux/arm64` builds for another machine, where the kernel runs its programs (qemu and binfmt_misc).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = "docker.io/library/debian:trixie-slim"
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILDAH = ("buildah", "--storage-driver=vfs")
PODMAN = ("podman", "--storage-driver=vfs")

NOT_IN_SLIM = ("doc", "groff", "info", "lintian", "linda", "locale", "man")
"""What Debian's `-slim` images leave out of /usr/share, but for licences, which are in doc and small."""
EMPTY = ("var/cache/apt", "var/lib/apt/lists")


def main() -> None:
    target, *words = sys.argv[1:] or ["full"]
    sys.stdout.write(f"{build(target, words)}\n")


def build(target: str, words: list[str]) -> str:
    """Build `target` (slim, full) and return the image's name. `words` are passed on to the engine."""
    architecture = foreign_architecture(words)
    name = f"localhost/agentsrv:{target}{architecture and f'-{architecture}'}"
    arguments = ("--target", target, "--tag", name, *words, str(ROOT))
    if engine() == "chroot":
        base = make_base(architecture)
        with tempfile.TemporaryDirectory() as directory:
            lent = lent_files(Path(directory))
            run(
                *BUILDAH,
                "bud",
                "--format=docker",
                "--isolation=chroot",
                "--network=host",
                "--pull-never",
                f"--build-arg=BASE={base}",
                *lent,
                *arguments,
            )
    else:
        run(engine(), "build", *arguments)
    return name


def engine() -> str:
    if chosen := os.environ.get("IMAGE_ENGINE"):
        return chosen
    return "docker" if succeeds("docker", "info") else "chroot"


def lent_files(directory: Path) -> tuple[str, ...]:
    """Words that show the build this machine's certificates, and pip where they are; they are not in the image."""
    if not CERTIFICATES.exists():
        return ()
    place = "/etc/ssl/lent.pem"
    pip_conf = directory / "pip.conf"
    pip_conf.write_text(f"[global]\ncert = {place}\n")
    return ("--volume", f"{CERTIFICATES}:{place}:ro", "--volume", f"{pip_conf}:/etc/pip.conf:ro")


def foreign_architecture(words: list[str]) -> str:
    """What `--platform` names, as Debian calls it; empty where it is this machine's or none is named."""
    found = re.search(r"--platform[ =]linux/(\w+)", " ".join(words))
    own = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
    return found[1] if found and found[1] != own else ""


def make_base(architecture: str) -> str:
    """What `docker pull debian:trixie-slim` would have brought; its name."""
    name = f"{BASE}-{architecture}" if architecture else BASE
    if succeeds(*BUILDAH, "inspect", "--type", "image", name):
        return name
    of = f"--arch={architecture}" if architecture else ""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="agentsrv-base-") as directory:
        root = Path(directory, "root")
        run("debootstrap", *filter(None, [of]), "--variant=minbase", SUITE, str(root), MIRROR)
        make_slim(root)
        archive = Path(directory, "base.tar")
        run("tar", "--create", "--one-file-system", "--file", str(archive), "--directory", str(root), ".")
        run(*PODMAN, "import", "--quiet", *filter(None, [of]), str(archive), name)
    return name


def make_slim(root: Path) -> None:
    excluded = "".join(f"path-exclude=/usr/share/{name}/*\n" for name in NOT_IN_SLIM)
    rules = root / "etc/dpkg/dpkg.cfg.d/slim"
    rules.write_text(f"{excluded}path-include=/usr/share/doc/*/copyright\n")
    for name in (*(f"usr/share/{name}" for name in NOT_IN_SLIM), *EMPTY):
        shutil.rmtree(root / name, ignore_errors=True)


def run(*command: str) -> None:
    """Run a command; when it fails, so does this one."""
    if code := subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        sys.exit(f"{command[0]} failed with {code}")


def succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    main()
