"""`Agentsrv` is `AsyncAgentsrv` without `await`."""

from __future__ import annotations

import inspect
import multiprocessing
import signal
import threading
from collections.abc import Iterator

import pytest

from agentsrv.client import Agentsrv, AgentsrvError, AsyncAgentsrv, AsyncJob, Done, Job, Question, Text, sync
from agentsrv.client.files import AsyncFiles
from agentsrv.client.git import AsyncGit
from agentsrv.client.resources import (
    AsyncAgents,
    AsyncHealth,
    AsyncJobs,
    AsyncKeys,
    AsyncPermissions,
    AsyncSessions,
    AsyncTerminals,
)
from tests.kit import KEY, Server, script

PAIRS = {
    Agentsrv: AsyncAgentsrv,
    Job: AsyncJob,
    sync.Sessions: AsyncSessions,
    sync.Jobs: AsyncJobs,
    sync.Permissions: AsyncPermissions,
    sync.Files: AsyncFiles,
    sync.Git: AsyncGit,
    sync.Terminals: AsyncTerminals,
    sync.Keys: AsyncKeys,
    sync.Agents: AsyncAgents,
    sync.Health: AsyncHealth,
}


@pytest.fixture
def client(server: Server) -> Iterator[Agentsrv]:
    with Agentsrv(f"http://127.0.0.1:{server.port}", KEY) as client:
        yield client


def public(kind: type) -> dict[str, object]:
    """Its methods and properties; `info` is an attribute of one, and a property of the other."""
    return {name: value for name, value in vars(kind).items() if name[0] != "_" and name != "info"}


@pytest.mark.parametrize("face", PAIRS, ids=lambda face: face.__name__)
def test_both_faces_have_the_same_methods(face: type) -> None:
    """Each name of one is a name of the other, with the same parameters."""
    ours, theirs = public(face), public(PAIRS[face])
    only_async = {"at", "connect"} & theirs.keys()

    assert ours.keys() == theirs.keys() - only_async
    for name, method in ours.items():
        if callable(method):
            assert parameters(method) == parameters(theirs[name]), name


def parameters(method: object) -> list[tuple[str, object, object]]:
    assert callable(method)
    return [
        (each.name, each.kind, each.default)
        for each in list(inspect.signature(method).parameters.values())[1:]
    ]


def test_a_job_without_await(client: Agentsrv) -> None:
    """Events, a question, the result."""
    job = client.run(script('ask 1 Bash {"command": "touch x"}', "say done"), permission_mode="ask")
    texts = []
    for event in job:
        match event:
            case Question():
                assert event.allow().decision == "allow"
            case Text(text=text):
                texts.append(text)
            case _:
                pass

    assert texts[-1] == job.result().text == "done"
    assert isinstance(event, Done)
    assert [job.id] == [each.id for each in client.jobs.list(session_id=job.session_id)]


async def test_it_works_inside_of_a_running_loop(client: Agentsrv) -> None:
    """As in a notebook."""
    assert client.run("hello").result().text == "hello"


def test_threads_may_share_one(client: Agentsrv) -> None:
    """Each gets the answers to its own questions."""
    texts: list[str] = []

    def work(number: int) -> None:
        texts.append(client.run(f"hello {number}").result().text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(texts) == [f"hello {number}" for number in range(5)]


def test_after_a_fork_it_says_so(client: Agentsrv) -> None:
    """The new process has no thread of ours: a clear error, not a hang."""
    client.health.get()
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=after_fork, args=(client, writer))
    process.start()
    told = reader.recv()
    process.join()

    assert "made before a fork" in told


def after_fork(client: Agentsrv, writer: multiprocessing.connection.Connection) -> None:
    try:
        client.health.get()
    except AgentsrvError as error:
        writer.send(str(error))


def test_what_is_closed_says_so(server: Server) -> None:
    """Closing twice is fine."""
    client = Agentsrv(f"http://127.0.0.1:{server.port}", KEY)
    client.close()
    client.close()

    with pytest.raises(AgentsrvError, match="is closed"):
        client.health.get()


def test_a_slow_loop_holds_the_server_back(client: Agentsrv) -> None:
    """While it works on one batch the next is read, and nothing more; then all comes, once and in order."""
    job = client.run(script("rate 30000 30000 300"))
    job.wait()
    stream = job.events()
    first = next(stream)
    reading = stream._next
    assert reading is not None
    ahead = reading.result(60)
    assert len(ahead) < 5_000
    assert stream._next is reading
    ids = [first.id, *(event.id for event in stream)]

    assert len(ids) > 30_000
    assert ids == sorted(ids)


def test_who_waits_is_told_that_the_client_is_closed(client: Agentsrv) -> None:
    """Also one who has an event stream open, and reads it in another thread."""
    stream = client.run(script("say one", "hang")).events()
    next(stream)
    told: list[str] = []

    def read() -> None:
        with pytest.raises(AgentsrvError) as error:
            list(stream)
        told.append(str(error.value))

    reader = threading.Thread(target=read)
    reader.start()
    client.close()
    reader.join()

    assert told == ["this client is closed"]


def test_leaving_a_loop_hangs_up(client: Agentsrv) -> None:
    """Nothing of a stream that was left is read any more."""
    job = client.run(script("say one", "hang"))
    for event in job:
        if isinstance(event, Text):
            break
    job.stop()

    assert job.status == "cancelled"


def test_ctrl_c_ends_the_waiting(client: Agentsrv) -> None:
    """A loop that waits can be interrupted, and the client be used afterwards."""
    job = client.run(script("hang"))
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        job.result()

    assert job.stop().status == "cancelled"
