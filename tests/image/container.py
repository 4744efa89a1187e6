"""Containers of an image, whatever has built it: its files under an overlay, namespaces and a network of their own.

All mounts are made inside the container's own mount namespace and are gone with its last process: nothing on this
machine has to be unmounted, and no directory of it is ever mounted but the volume of the test.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image.build import PODMAN, engine
from tests.kit import KEY, wait_until

NUMBERS = itertools.count(1)

MINUTES = 5
"""How long a job may take on a busy machine."""

IS_CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
MEMORY_CGROUPS = Path("/sys/fs/cgroup" if IS_CGROUP_V2 else "/sys/fs/cgroup/memory")
"""Where limits of memory are made, and where a container of an engine finds its own."""

BOOT = r"""
set -eu
[ -z "$cgroup" ] || echo 0 >"$cgroup/cgroup.procs"
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
if [ -n "$read_only" ]; then
    mount --bind "$files" "$root"
    mount -o remount,bind,ro "$root"
else
    mount -t overlay overlay -o "lowerdir=$files,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
    echo "127.0.0.1 localhost" >"$root/etc/hosts"
    cp -r "$given/." "$root/"
fi
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for directory in /dev/shm /tmp /run; do
    mount -t tmpfs -o mode=1777 tmpfs "$root$directory"
done
chmod 755 "$root/run"
mount --bind "$volume" "$root/home/appuser"
if [ -n "$cgroup" ]; then
    mount -t tmpfs tmpfs "$root/sys"
    mkdir -p "$root$cgroup_inside"
    mount --bind "$cgroup" "$root$cgroup_inside"
fi
ip link set lo up
while [ ! -e "/sys/class/net/$inside" ] && ! ip link show "$inside" >/dev/null 2>&1; do sleep 0.01; done
ip address add "$address/30" dev "$inside"
ip link set "$inside" up
exec chroot --userspec="$user" "$root" setpriv $confinement -- /usr/bin/env -i "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """An image's files in a directory, for all containers, and what it says about itself."""

    files: Path
    config: dict[str, Any]
    """`Config` of the engine's `inspect`."""
    entrypoint: tuple[str, ...]


@contextlib.contextmanager
def unpacked(name: str, directory: Path) -> Iterator[Image]:
    """The image's files below `directory`, or where the builder keeps them."""
    if engine() == "chroot":
        [described] = json.loads(output(*PODMAN, "image", "inspect", name))
        config = {"Healthcheck": described.get("Healthcheck"), **described["Config"]}
        files = Path(output(*PODMAN, "image", "mount", name))
        yield Image(files, config, tuple(config["Entrypoint"]))
        output(*PODMAN, "image", "unmount", name)
    else:
        made = output(engine(), "create", name)
        output(
            "sh", "-c", f"{engine()} export {made} | tar --extract --directory {shlex.quote(str(directory))}"
        )
        config = json.loads(output(engine(), "inspect", made))[0]["Config"]
        yield Image(directory, config, tuple(config["Entrypoint"]))
        output(engine(), "rm", made)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(slots=True)
class Container:
    """One container. `directory` is the test's own: the log and, by default, the volume are in it."""

    image: Image
    directory: Path
    environment: dict[str, str]
    user: str = "0:0"
    is_read_only: bool = False
    capabilities: tuple[str, ...] = ()
    """As for `--cap-add` after `--cap-drop ALL`; none: those that this machine's root has."""
    memory_mb: int = 0
    """Of a limit that the kernel sees to; 0: no limit."""
    given: dict[str, str] = field(default_factory=dict)
    """Files that are mounted into it, by their paths there: root's, as most that are mounted."""
    number: int = field(default_factory=lambda: next(NUMBERS))
    process: subprocess.Popen[bytes] | None = None

    @property
    def volume(self) -> Path:
        return self.directory / "volume"

    @property
    def address(self) -> str:
        return f"{self._network}.2"

    @property
    def gateway(self) -> str:
        """This machine, as the container reaches it."""
        return f"{self._network}.1"

    @property
    def port(self) -> int:
        return int(self.environment.get("PORT", "3000"))

    @property
    def _network(self) -> str:
        """Its own, also beside the tests of another process."""
        return f"10.{128 + os.getpid() % 100}.{self.number % 250}"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Returns at once. Everything that the container's processes are ends with this one."""
        self.volume.mkdir(exist_ok=True)
        scratch = self.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        ours = f"{os.getpid() % 100_000}-{self.number}"
        outside, inside = f"vo{ours}", f"vi{ours}"
        variables = {
            "scratch": str(scratch),
            "files": str(self.image.files),
            "volume": str(self.volume),
            "given": str(self._make_given()),
            "read_only": "yes" if self.is_read_only else "",
            "user": self.user,
            "confinement": self._confinement(),
            "cgroup": str(self._make_cgroup() or ""),
            "cgroup_inside": str(MEMORY_CGROUPS),
            "inside": inside,
            "address": self.address,
            "PATH": os.environ["PATH"],  # noqa: TID251
        }
        asked = [f"{name}={value}" for name, value in self.environment.items()]
        given = [f"API_KEY={KEY}", *self.image.config["Env"], *asked]
        namespaces = ("--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--kill-child")
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-c", BOOT, "boot", *given, *self.image.entrypoint],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._init() is not None, what="PID 1")
        output("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", str(self.init))
        output("ip", "address", "add", f"{self.gateway}/30", "dev", outside)
        output("ip", "link", "set", outside, "up")

    def _make_given(self) -> Path:
        top = self.directory / "given"
        top.mkdir(exist_ok=True)
        for name, text in self.given.items():
            path = top / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)
        return top

    def _confinement(self) -> str:
        """Words for setpriv."""
        kept = "".join(f",+{name.lower()}" for name in self.capabilities)
        return f"--inh-caps=-all --bounding-set=-all{kept}" if kept else "--inh-caps=-all"

    def _make_cgroup(self) -> Path | None:
        if not self.memory_mb:
            return None
        self._cgroup.mkdir()
        limit = "memory.max" if IS_CGROUP_V2 else "memory.limit_in_bytes"
        (self._cgroup / limit).write_text(str(self.memory_mb << 20))
        return self._cgroup

    @property
    def _cgroup(self) -> Path:
        return MEMORY_CGROUPS / f"agentsrv-test-{os.getpid()}-{self.number}"

    def _init(self) -> int | None:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    @property
    def init(self) -> int:
        """PID 1, as this machine counts."""
        pid = self._init()
        assert pid is not None, self.log
        return pid

    def start_healthy(self) -> float:
        """Start, and wait until it is healthy; the seconds that it took."""
        began = time.monotonic()
        self.start()
        wait_until(lambda: self.ended() or self.health() == "healthy", 60.0 * MINUTES, what="healthy")
        assert self.ended() is None, self.log
        return time.monotonic() - began

    def ended(self) -> int | None:
        """Its exit code, once it has one."""
        assert self.process is not None
        return self.process.poll()

    def health(self) -> str | None:
        """`status` of GET /health; None while nobody answers, or somebody else does to whom the address is routed."""
        try:
            return str(self.ask("GET", "/health", timeout_s=2)["status"])
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def ask(self, method: str, path: str, body: Any = None, *, timeout_s: float = 60) -> Any:
        """A request from outside; its answer is JSON."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return json.loads(connection.getresponse().read())

    def job(self, prompt: str, session: str = "s", **options: Any) -> dict[str, Any]:
        """Run a prompt to its end; the job then."""
        task = self.start_job(prompt, session, **options)
        job: dict[str, Any] = {}
        for _ in range(MINUTES):
            job = self.ask("GET", f"/generate/v2/jobs/{task}?wait=50")
            if job["status"] != "running":
                break
        return job

    def start_job(self, prompt: str, session: str = "s", **options: Any) -> str:
        body = {"session_id": session, "prompt": prompt, "background": True, **options}
        answer = self.ask("POST", "/generate/v2", body)
        assert "taskId" in answer, answer
        return str(answer["taskId"])

    def said(self, session: str = "s") -> str:
        """All that has happened in the session, as text."""
        return json.dumps(self.ask("GET", f"/sessions/{session}/messages"))

    def stop(self) -> int:
        """SIGTERM to PID 1, as an engine does; the exit code."""
        assert self.process is not None
        os.kill(self.init, signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        """End PID 1, and with it every process of the container."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self._init() or self.process.pid, signal.SIGKILL)
            self.process.wait(30)
        if self.memory_mb and self._cgroup.exists():
            wait_until(
                lambda: not (self._cgroup / "cgroup.procs").read_text(), what="nobody is in the cgroup"
            )
            self._cgroup.rmdir()

    def run(self, *command: str, user: str = "appuser", stdin: str = "") -> subprocess.CompletedProcess[str]:
        """What `docker exec -u user` does: a command beside the others, without the container's environment."""
        as_user = ("setpriv", "--reuid", user, "--regid", user, "--init-groups", "--")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [
                *self.enter(),
                "/usr/bin/env",
                "-i",
                "-C",
                "/",
                f"PATH={path}",
                "HOME=/home/appuser",
                *as_user,
                *command,
            ],
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            timeout=60,
        )

    def helper_key(self) -> str:
        """The key of the LLM helper, from its environment, which root may read."""
        variables = Path(f"/proc/{self.pid_of('litellm')}/environ").read_text().split("\0")
        return next(
            text.removeprefix("LITELLM_MASTER_KEY=")
            for text in variables
            if text.startswith("LITELLM_MASTER")
        )

    def port_is_closed(self, port: int) -> bool:
        """To those outside."""
        with socket.socket() as client:
            return client.connect_ex((self.address, port)) != 0

    def owner(self, path: str) -> str:
        answer = self.run("stat", "-c", "%U", path, user="root")
        return (answer.stdout or answer.stderr).strip()

    def enter(self, *, files: bool = True) -> tuple[str, ...]:
        """Words before a command that shall run in the container's network, and unless told otherwise in its files."""
        inside = ("--mount", "--pid", "--root", "--wd=/") if files else ()
        return ("nsenter", "--target", str(self.init), "--net", *inside)

    def processes(self) -> dict[int, str]:
        """Command lines by the pid that they have on this machine."""
        namespace = os.readlink(f"/proc/{self.init}/ns/pid")
        found = {}
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                    found[int(name)] = b" ".join(words).decode(errors="replace").strip()
        return found

    def pid_of(self, words: str) -> int:
        """The oldest process whose command line has these words."""
        found = [pid for pid, line in self.processes().items() if words in line]
        assert found, (words, self.processes())
        return min(found)
