"""The client and a real server: what arrives twice, two who answer, what ends."""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from agentsrv.client import APIStatusError, ConflictError, JobFailed, NotFoundError, Question, Text, UserText
from tests.client.kit import client_of
from tests.client.proxy import cutting, proxy_to
from tests.kit import Server, script
from tests.turns.test_timers import plans

ASK = 'ask 1 Bash {"command": "touch x"}'


async def test_a_prompt_whose_answer_was_lost_starts_one_turn(server: Server) -> None:
    """The prompt arrives, its answer does not: it is sent again, and is the same job."""
    async with proxy_to(server.port) as proxy, client_of(server, proxy.url) as client:
        proxy.budget = cutting(proxy, 3, 20)
        job = await client.run("hello", session="lost")
        prompts = [event.text async for event in job if isinstance(event, UserText)]
        jobs = [each.id async for each in client.jobs.list(session_id="lost")]

    assert proxy.cuts == 3
    assert (["hello"], [job.id]) == (prompts, jobs)


async def test_two_who_answer_differently(server: Server) -> None:
    """The first one counts; the second is told. The same answer twice is fine."""
    async with client_of(server) as one, client_of(server) as two:
        job = await one.run(script(ASK), permission_mode="ask")
        async for event in job:
            if isinstance(event, Question):
                [other] = [each async for each in two.permissions.list(task_id=job.id)]
                await event.allow()
                await other.allow()
                with pytest.raises(ConflictError):
                    await other.deny("too late")
        assert [each async for each in one.permissions.list(task_id=job.id)] == []


async def test_answers_and_stops_may_be_lost_on_their_way_back(server: Server) -> None:
    """They arrive, what the server says to them does not: they are sent again, and that is fine."""
    async with proxy_to(server.port) as proxy, client_of(server, proxy.url) as client:
        job = await client.run(script(ASK, "hang"), permission_mode="ask")
        stream = job.events()
        question = await anext(event async for event in stream if isinstance(event, Question))
        stream.close()
        for request in (question.allow, job.stop):
            proxy.leave()
            proxy.is_away = False
            proxy.budget = cutting(proxy, proxy.cuts + 2, 20)
            await request()
        assert [each async for each in client.permissions.list(task_id=job.id)] == []

    assert proxy.cuts == 4
    assert job.status == "cancelled"


async def test_stopping_twice_is_fine(server: Server) -> None:
    """A job that has ended stays as it is; one that waits leaves the queue."""
    async with client_of(server) as client:
        first = await client.run(script("say one", "hang"), session="twice")
        second = await client.run("two", session="twice", if_busy="queue")
        assert [each.task_id for each in await client.sessions.queue("twice")] == [second.id]
        assert (await second.stop()).status == "cancelled"
        assert (await first.stop()).status == "cancelled"
        assert (await first.stop()).status == "cancelled"
        done = await client.run("three", session="twice")
        assert (await done.result()).text == "three"
        assert (await done.stop()).status == "completed"
        with pytest.raises(JobFailed, match="cancelled") as failed:
            (await first.result()).raise_for_status()
    assert failed.value.status == "cancelled"


async def test_stopping_a_job_spares_the_next_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ends just after it was looked at: what runs by now in its session goes on."""
    async with client_of(server) as client:
        ended = await client.run("hello", session="spared")
        running = replace(await ended.wait(), status="running")
        monkeypatch.setattr(ended, "refresh", lambda: asyncio.sleep(0, running))  # as it was a moment ago
        ended.info = running
        next_one = await client.run(script("hang"), session="spared")
        assert (await ended.stop()).status == "completed"
        assert not (await next_one.refresh()).is_final
        assert (await next_one.stop()).status == "cancelled"


async def test_a_running_agent_is_told_something(server: Server) -> None:
    """`steer` joins the running turn, and is the same job."""
    async with client_of(server) as client:
        job = await client.run(script("say one", "await-steer"))
        texts = []
        async for event in job:
            if isinstance(event, Text):
                texts.append(event.text)
                if event.text == "one":
                    assert (await job.steer("the other way")).id == job.id

    assert texts == ["one", "steered: the other way"]


async def test_waiting_survives_a_restart(mortal: Server) -> None:
    """Who waits for a job does not notice that the server was killed."""
    async with client_of(mortal) as client:
        job = await client.run(script("sleep 1.5", "say late"))
        waiting = asyncio.gather(job.result(timeout=60))
        await asyncio.sleep(0.2)
        mortal.kill9()
        await asyncio.to_thread(mortal.start)
        [result] = await waiting

    assert ("completed", "late") == (result.status, result.text)


async def test_questions_are_seen_as_they_come(server: Server) -> None:
    """Of all sessions, each once."""
    async with client_of(server) as client:
        jobs = [await client.run(script(ASK), permission_mode="ask") for _ in range(2)]
        seen = []
        async for question in client.permissions.watch():
            seen.append(question.task_id)
            await question.deny()
            if len(seen) == 2:
                break
        for job in jobs:
            await job.result(timeout=60)

    assert {job.id for job in jobs} == set(seen)


async def test_every_page_is_read(server: Server) -> None:
    """A list goes on over all pages, newest first."""
    async with client_of(server) as client:
        for number in range(7):
            await client.sessions.create(f"s{number}")
        listed = [each.id async for each in client.sessions.list(page_size=3)]

    assert listed[:7] == [f"s{number}" for number in reversed(range(7))]


async def test_files_there_and_back(server: Server, tmp_path: Path) -> None:
    """Written, uploaded, found, downloaded, watched, removed."""
    async with client_of(server) as client:
        written = await client.files.write("workspaces/a.txt", b"one\n", only_if_new=True)
        with pytest.raises(APIStatusError) as stale:
            await client.files.write("workspaces/a.txt", b"two\n", if_match='"other"')
        uploaded = await client.files.upload({"b/c.txt": b"see", "d.txt": b"dee"}, target="workspaces")
        await client.files.download("workspaces/b/c.txt", tmp_path / "c")
        await client.files.download("workspaces/b", tmp_path / "b.tar.gz", archive=True)
        with pytest.raises(NotFoundError):
            await client.files.download("workspaces/nothing", tmp_path / "nothing")
        changes = client.files.watch("workspaces")
        assert (await anext(changes))["type"] == "ready"
        await client.files.make_directory("workspaces/e")
        seen = [each["path"] for each in (await anext(changes))["changes"]]
        await changes.aclose()

    assert stale.value.status == 412
    assert (4, 2) == (written.size, uploaded.uploaded_count)
    assert (tmp_path / "c").read_bytes() == b"see"
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        assert any(name.endswith("c.txt") for name in archive.getnames())
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    assert not (tmp_path / "nothing").exists()
    assert any(path.endswith("e") for path in seen)


async def test_a_listed_job_has_its_whole_result(claude_server: Server) -> None:
    """A list leaves out what may be large; the result does not."""
    schema = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    async with client_of(claude_server) as client:
        job = await client.run(script('structured {"n": 4}', "text ok"), output_schema=schema)
        await job.wait(timeout=60)
        [listed] = [each async for each in client.jobs.list()]
        result = await listed.result(timeout=60)

    assert listed.id == job.id
    assert result.structured_output == {"n": 4}


async def test_what_an_agent_left_is_taken_away(server: Server) -> None:
    """A timer is taken out, what runs behind the turn is ended, worktrees that nobody uses would be removed."""
    task = {"task_id": "it", "task_type": "local_bash", "description": "npm start"}
    said = {"type": "system", "subtype": "background_tasks_changed", "tasks": [task]}
    steps = script(
        *plans("kept", 900), *plans("gone", 600, name="CronCreate"), f"raw {json.dumps(said)}", "text ok"
    )
    async with client_of(server) as client:
        await (await client.run(steps, session="left")).result()
        gone, kept = await client.sessions.timers("left")
        assert list(await client.sessions.cancel_timer("left", gone.timer_id)) == [kept]
        with pytest.raises(NotFoundError):
            await client.sessions.cancel_timer("left", gone.timer_id)
        assert [each.id for each in await client.sessions.background("left")] == ["it"]
        assert list(await client.sessions.stop_background("left", "it")) == []
        with pytest.raises(NotFoundError):
            await client.sessions.stop_background("left", "it")
        cleaned = await client.git.clean_up_worktrees(older_than_days=1, dry_run=True)
    assert (cleaned.dry_run, cleaned.removed) == (True, [])
