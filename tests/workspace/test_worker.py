"""The processes that work with git: started late, bounded, killed when they hang, and given nothing to lose."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentsrv.errors import AgentsrvError, NotFound, Unprocessable
from agentsrv.workspace.git.protocol import DiffRequest, FindRepositories
from agentsrv.workspace.git.workers import GitWorkers
from agentsrv.workspace.paths import Workspace
from tests.kit import THREADS, TIMEOUT_S, command_line_of, wait_until
from tests.workspace.git_kit import make_repository, write_files

SECRETS = {"API_KEY": "key-0123456789", "PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib"}


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[GitWorkers]:
    workers = GitWorkers(Workspace(tmp_path), SECRETS, THREADS.processes)
    yield workers
    await workers.close()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = make_repository(tmp_path / "repo", {"a": "a\n"})
    write_files(root, {"a": "b\n"})
    return root


def children() -> list[int]:
    """The git workers of this process."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in listed if b"git.program" in b" ".join(command_line_of(int(pid)))]


async def ask(workers: GitWorkers, path: str = "repo") -> list[str]:
    body = await workers.ask(DiffRequest(path=path))
    return [file["newPath"] for file in json.loads(body + b"}")["files"]]


def hang(repo: Path) -> None:
    """A repository that keeps libgit2 waiting for ever."""
    (repo / ".gitattributes").unlink(missing_ok=True)
    (repo / ".gitignore").unlink(missing_ok=True)
    os.mkfifo(repo / ".gitignore")
    write_files(repo, {"untracked": "u\n"})


async def test_no_process_before_the_first_question(workers: GitWorkers, repo: Path) -> None:
    """The first question starts one, the next ones use it, and it goes with its owner."""
    before = children()
    found = [await ask(workers), await ask(workers)]
    during = children()
    await workers.close()

    assert ([], 1, []) == (before, len(during), children())
    assert [["a"], ["a"]] == found


async def test_many_questions_share_two_processes(workers: GitWorkers, repo: Path) -> None:
    """Each gets its own answer."""
    for number in range(4):
        make_repository(repo.parent / f"r{number}")
        write_files(repo.parent / f"r{number}", {f"f{number}": ""})
    answers = await asyncio.gather(*(ask(workers, f"r{number % 4}") for number in range(20)))

    assert [[f"f{number % 4}"] for number in range(20)] == answers
    assert 2 == len(children())


async def test_errors_arrive_as_they_were_raised(workers: GitWorkers) -> None:
    """With their code and message."""
    with pytest.raises(NotFound, match="nothing") as caught:
        await ask(workers, "nothing")

    assert "path_not_found" == caught.value.code


async def test_a_question_that_takes_too_long_ends_with_its_process(tmp_path: Path, repo: Path) -> None:
    """The client learns it, the process is gone, and the next question is answered."""
    workers = GitWorkers(Workspace(tmp_path), SECRETS, THREADS.processes, request_timeout_s=2.0)
    stuck = make_repository(repo.parent / "stuck", {"a": "a\n"})
    hang(stuck)
    with pytest.raises(Unprocessable) as caught:
        await ask(workers, "stuck")

    assert "repository_too_slow" == caught.value.code
    assert ["a"] == await ask(workers)
    await workers.close()


async def test_a_killed_worker_is_replaced(workers: GitWorkers, repo: Path) -> None:
    """Nobody notices that the idle one was killed."""
    await ask(workers)
    [pid] = children()
    os.kill(pid, signal.SIGKILL)

    assert ["a"] == await ask(workers)
    assert [pid] != children()


async def test_who_stops_asking_stops_the_work(workers: GitWorkers, repo: Path) -> None:
    """A cancelled question frees its place at once."""
    stuck = make_repository(repo.parent / "stuck", {"a": "a\n"})
    hang(stuck)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await ask(workers, "stuck")

    assert ["a"] == await ask(workers)


async def test_idle_workers_end(tmp_path: Path, repo: Path) -> None:
    """A server whose users look at no diffs needs no memory for them."""
    workers = GitWorkers(Workspace(tmp_path), {}, THREADS.processes, idle_s=0.05)
    await ask(workers)
    await asyncio.to_thread(wait_until, lambda: not children())

    assert ["a"] == await ask(workers)
    await workers.close()


async def test_a_worker_knows_no_secret_and_may_do_little(workers: GitWorkers, repo: Path) -> None:
    """No variables of the server, no files to write, no way to win rights, no other process's end to outlive."""
    await ask(workers)
    [pid] = children()
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    limits = Path(f"/proc/{pid}/limits").read_text()
    status = Path(f"/proc/{pid}/status").read_text()

    assert b"key-0123456789" not in environment
    assert {b"HOME", b"LC_ALL", b"GIT_CONFIG_NOSYSTEM", b"LD_LIBRARY_PATH"} >= {
        entry.partition(b"=")[0] for entry in environment.split(b"\0") if entry
    }
    assert ["0", "0"] == next(line for line in limits.splitlines() if "file size" in line).split()[3:5]
    assert "NoNewPrivs:\t1" in status


async def test_the_server_does_not_load_libgit2(workers: GitWorkers) -> None:
    """It would hold the interpreter's lock."""
    code = "import sys, agentsrv.app, agentsrv.workspace.git.workers; print('pygit2' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )

    assert "False\n" == answer.stdout


async def test_a_host_without_a_main_module(tmp_path: Path, repo: Path) -> None:
    """Embedded in another program, read from standard input, in a directory full of traps: it works."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    program = f"""
import asyncio, sys
from pathlib import Path
sys.path[:] = [entry for entry in sys.path if entry] + [{str(Path(__file__).parents[2])!r}]
from agentsrv.workspace.paths import Workspace
from agentsrv.workspace.git.workers import GitWorkers
from agentsrv.threads import Pool
from agentsrv.workspace.git.protocol import DiffRequest
async def main():
    workers = GitWorkers(Workspace(Path({str(tmp_path)!r})), {{}}, Pool('processes', 2))
    print(len(await workers.ask(DiffRequest(path="repo"))) > 100)
    await workers.close()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-I", "-"],
        input=program,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=tmp_path,
        check=False,
    )

    assert ("True\n", "") == (done.stdout, done.stderr)


async def test_all_repositories(workers: GitWorkers, repo: Path) -> None:
    """The other question that a worker answers."""
    body = json.loads(await workers.ask(FindRepositories()) + b"}")

    assert (["repo"], 1, False) == (
        [item["name"] for item in body["repositories"]],
        body["count"],
        body["truncated"],
    )


async def test_a_fault_of_ours_is_an_internal_error(
    workers: GitWorkers, repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback is for the log, not for the client; the worker goes on."""
    with pytest.raises(AgentsrvError) as caught:
        await workers.ask(DiffRequest(path="repo", paths=[1]))  # type: ignore[list-item]

    assert "internal_error" == caught.value.code
    assert "Traceback" in caplog.text
    assert ["a"] == await ask(workers)
