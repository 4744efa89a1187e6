"""Prompts, jobs and sessions over HTTP, with the real services and a scripted agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from agentsrv.api.keys import TURNS
from agentsrv.model import TurnId
from tests.api.kit import KEY, TIMEOUT_S, Server, events_of

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


async def test_a_prompt_streams_to_done(server: Server) -> None:
    """One POST gives the user message, what the agent says, and `done`, with ids 1..n."""
    answer = await server.generate("hello")
    events = events_of(answer.text)

    assert answer.status == 200
    assert answer.text.startswith("retry: ")
    assert [id_ for id_, _ in events] == list(range(1, len(events) + 1))
    assert events[0][1]["message"]["content"] == [{"type": "text", "text": "hello"}]
    assert events[-1][1] == {"done": True, "taskId": answer.headers["X-Task-Id"], "status": "completed"}


async def test_stream_headers_keep_proxies_from_buffering(server: Server) -> None:
    """Proxies neither store, change nor hold back an event stream."""
    headers = (await server.generate()).headers

    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["X-Session-Id"] == "s"


async def test_background_answers_with_the_place_of_the_job(server: Server) -> None:
    """202, the job's id, and `Location` leads to the job."""
    answer = await server.generate(background=True)
    job = (await server.ask("GET", answer.headers["Location"] + "?wait=50")).json

    assert answer.status == 202
    assert answer.json == {"taskId": job["taskId"], "sessionId": "s", "status": "queued"}
    assert job["status"] == "completed"


async def test_a_job_says_where_its_events_are(server: Server) -> None:
    """firstEventId and lastEventId are the ids of the first event and of `done`."""
    job = await server.end_of(await server.start())
    events = events_of((await server.ask("GET", f"/generate/v2/jobs/{job['taskId']}/stream")).text)

    assert [events[0][0], events[-1][0]] == [job["firstEventId"], job["lastEventId"]]


async def test_a_failed_job_says_why_as_its_stream_does(server: Server) -> None:
    """Who asks for the job alone gets the code, too, and need not look for words in the error."""
    task_id = await server.start("SCRIPT: exit 3")
    job = await server.end_of(task_id)
    *_, (_, error), (_, done) = events_of(
        (await server.ask("GET", f"/generate/v2/jobs/{task_id}/stream")).text
    )

    assert (error["error"], error["code"]) == (job["error"], job["code"]) == (done["error"], "agent_exited")
    assert job == (await server.ask("GET", "/generate/v2/jobs")).json["jobs"][0]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_stream_resumes_after_the_last_event_seen(server: Server, how: str) -> None:
    """`Last-Event-ID` and `?after=` give exactly the events that come later."""
    path = f"/generate/v2/jobs/{await server.start()}/stream"
    whole = events_of((await server.ask("GET", path)).text)
    if how == "header":
        # A browser that reconnects repeats the URL it began with: the header is the newer one.
        rest = await server.ask("GET", path + "?after=1", headers={"Last-Event-ID": "4"})
    else:
        rest = await server.ask("GET", path + "?after=4")

    assert events_of(rest.text) == whole[4:]


async def test_nothing_is_left_after_the_last_event(server: Server) -> None:
    """204 for a client that has `done` already: an EventSource then stops reconnecting."""
    job = await server.end_of(await server.start())
    path = f"/generate/v2/jobs/{job['taskId']}/stream"

    assert (await server.ask("GET", path, headers={"Last-Event-ID": str(job["lastEventId"])})).status == 204


@pytest.mark.parametrize("id_", ["abc", "-1", "1.5", "1" * 31, "1e3", "٣", "99", "0x1"])
async def test_an_id_that_cannot_be_is_refused(server: Server, id_: str) -> None:
    """400 for what is no number, or lies ahead of the stream."""
    task_id = await server.start()
    await server.end_of(task_id)
    answer = await server.ask("GET", f"/generate/v2/jobs/{task_id}/stream", headers={"Last-Event-ID": id_})

    assert (answer.status, answer.json["details"][0]["path"]) == (400, "Last-Event-ID")


async def test_an_empty_id_means_from_the_start(server: Server) -> None:
    """An EventSource that has seen nothing yet sends an empty id."""
    path = f"/generate/v2/jobs/{await server.start()}/stream"
    answer = await server.ask("GET", path, headers={"Last-Event-ID": ""})

    assert events_of(answer.text)[0][0] == 1


async def test_a_session_stream_goes_over_all_turns_and_stays_open(server: Server) -> None:
    """GET /sessions/{id}/events gives the first turn's events, and a second turn's when it comes."""
    await server.generate("one")
    url = f"http://127.0.0.1:{server.port}/sessions/s/events"
    async with asyncio.timeout(TIMEOUT_S), server.client.get(url, headers=AUTHORIZED) as stream:
        await stream.content.readuntil(b'"done": true')
        await server.start("two")
        seen = await stream.content.readuntil(b'"done": true')

    assert b'"text":"two"' in seen


async def test_the_same_message_id_gives_the_same_job(server: Server) -> None:
    """An answer that was lost is asked for again: one run, and the whole stream from its start."""
    first = await server.generate("hello", message_id="m-1")
    again = await server.ask(
        "POST",
        "/generate/v2",
        json={"session_id": "s", "prompt": "hello"},
        headers={"Idempotency-Key": "m-1"},
    )

    background = await server.generate("hello", message_id="m-1", background=True)

    assert again.text == first.text
    assert (background.status, background.json["status"]) == (202, "completed")
    assert (await server.ask("GET", "/generate/v2/jobs")).json["count"] == 1


async def test_a_busy_session_names_the_job_that_keeps_it_busy(server: Server) -> None:
    """409 with the running job's id; that job is unharmed and can still be stopped."""
    task_id = await server.start("SCRIPT: hang")
    busy = await server.generate("another")
    stopped = await server.ask("DELETE", "/generate/s/stop")

    assert (busy.status, busy.json["code"], busy.json["taskId"]) == (409, "session_busy", task_id)
    assert (stopped.status, stopped.json["taskId"]) == (200, task_id)


async def test_a_job_that_was_cancelled_while_it_waited_says_so(server: Server) -> None:
    """Who follows it only then gets its `done`, once."""
    await server.start("SCRIPT: hang")
    path = f"/generate/v2/jobs/{await server.start(if_busy='queue')}/stream"
    await server.ask("DELETE", "/sessions/s/queue")
    first = await server.ask("GET", path)
    again = await server.ask("GET", path, headers={"Last-Event-ID": "0"})
    await server.ask("DELETE", "/generate/s/stop")

    assert [(id_, event["status"]) for id_, event in events_of(first.text)] == [(0, "cancelled")]
    assert (first.status, again.status) == (200, 204)


async def test_a_stream_ends_with_done_although_its_job_was_deleted(server: Server) -> None:
    """Whoever was let in before the session was deleted is told the end: of one that waited, of one that was over."""
    turns = server.app[TURNS]
    ended, _, waiting = [
        await turns.get(TurnId(task_id))
        for task_id in (
            (await server.end_of(await server.start()))["taskId"],
            await server.start("SCRIPT: hang"),
            await server.start(if_busy="queue"),
        )
    ]
    await server.ask("DELETE", "/sessions/s?force=true")
    streams = [[chunk.data async for chunk in turns.follow_turn(turn, 0)] for turn in (ended, waiting)]

    assert [[json.loads(data)["status"] for data in stream] for stream in streams] == [
        ["completed"],
        ["cancelled"],
    ]


async def test_a_session_that_is_deleted_in_the_same_moment_is_made_again(server: Server) -> None:
    """A prompt to a session that goes away just now is a prompt to a new one."""
    statuses = set()
    for _ in range(20):
        await server.ask("POST", "/sessions", json={"sessionId": "s"})
        prompt, _ = await asyncio.gather(
            server.generate(background=True), server.ask("DELETE", "/sessions/s?force=true")
        )
        statuses.add(prompt.status)
        await server.ask("DELETE", "/sessions/s?force=true")

    assert statuses == {202}


async def test_a_body_of_no_bytes_is_none(server: Server) -> None:
    """A proxy may pass on a request without a body as one of no chunks: stop and fork work all the same."""
    await server.start("SCRIPT: hang")

    async def nothing() -> AsyncGenerator[bytes, None]:
        return
        yield b""

    stopped = await server.ask("DELETE", "/generate/s/stop", data=nothing())
    forked = await server.ask("POST", "/sessions/s/fork", data=nothing())

    assert (stopped.status, forked.status) == (200, 201)


async def test_stop_of_a_job_spares_its_successor(server: Server) -> None:
    """Whoever means one job does not end the next one, which has begun meanwhile."""
    ended = (await server.end_of(await server.start()))["taskId"]
    running = await server.start("SCRIPT: hang")
    late, right = [
        await server.ask("DELETE", "/generate/s/stop", json={"task_id": task_id})
        for task_id in (ended, running)
    ]
    nothing = await server.ask("DELETE", "/generate/s/stop", json={"task_id": running})

    assert [answer.status for answer in (late, right, nothing)] == [404, 200, 404]
    assert late.json["code"] == "not_running"
    assert right.json["taskId"] == running


async def test_stop_takes_a_body_that_names_the_same_session(server: Server) -> None:
    """The earlier clients send the session's id in the body, too."""
    await server.start("SCRIPT: hang")

    assert (await server.ask("DELETE", "/generate/s/stop", json={"session_id": "other"})).status == 400
    assert (await server.ask("DELETE", "/generate/s/stop", json={"session_id": "s"})).status == 200
    assert (await server.ask("DELETE", "/generate/s/stop")).status == 404


async def test_the_agents_names_as_model_mean_its_default(server: Server) -> None:
    """`model: "claude-code"`, as earlier clients send it, is no model."""
    await server.generate(model="claude-code")

    assert (await server.ask("GET", "/sessions/s")).json["model"] is None


async def test_head_starts_nothing_and_streams_nothing(server: Server) -> None:
    """HEAD on a stream gives its headers; HEAD on generate is no way to start."""
    task_id = await server.start()
    head = await server.ask("HEAD", f"/generate/v2/jobs/{task_id}/stream")

    assert (head.status, head.headers["Content-Type"], head.text) == (
        200,
        "text/event-stream; charset=utf-8",
        "",
    )
    assert (await server.ask("HEAD", "/generate/v2")).status == 405
    assert (await server.ask("GET", "/generate/v2/jobs")).json["count"] == 1
    # Otherwise its agent would outlive the server.
    await server.end_of(task_id)


async def test_a_server_that_stops_ends_streams_cleanly(server: Server) -> None:
    """The stream of a running job ends with its last chunk, so that the client knows to come back."""
    task_id = await server.start("SCRIPT: hang")
    url = f"http://127.0.0.1:{server.port}/generate/v2/jobs/{task_id}/stream"
    async with asyncio.timeout(TIMEOUT_S), server.client.get(url, headers=AUTHORIZED) as stream:
        await stream.content.readuntil(b"\n\n")
        await server.app.shutdown()
        rest = await stream.text()

    assert "done" not in rest
    await server.ask("DELETE", "/generate/s/stop")


async def test_a_client_that_leaves_ends_its_job_only_when_it_said_so(server: Server) -> None:
    """`on_disconnect: "cancel"` stops the agent soon after the connection is gone; the default never does."""
    jobs = {}
    for choice in ("continue", "cancel"):
        body = {"session_id": choice, "prompt": "SCRIPT: hang", "on_disconnect": choice}
        url = f"http://127.0.0.1:{server.port}/generate/v2"
        async with server.client.post(url, json=body, headers=AUTHORIZED) as stream:
            jobs[choice] = stream.headers["X-Task-Id"]
    cancelled = await server.end_of(jobs["cancel"])
    going_on = (await server.ask("GET", f"/generate/v2/jobs/{jobs['continue']}")).json
    await server.ask("DELETE", "/generate/continue/stop")

    assert (cancelled["status"], going_on["status"]) == ("cancelled", "running")


# A client that repeats its POST after a cut


@pytest.mark.parametrize(("query", "headers"), [("", {"Last-Event-ID": "1"}), ("?lastEventId=1", {})])
async def test_a_post_that_comes_back_starts_nothing(
    server: Server, query: str, headers: dict[str, str]
) -> None:
    """With `Last-Event-ID` the same prompt's job goes on after that event, as some libraries do it."""
    whole = await server.generate("hello")
    body = {"session_id": "s", "prompt": "hello"}
    rest = await server.ask("POST", f"/generate/v2{query}", json=body, headers=headers)
    jobs = (await server.ask("GET", "/generate/v2/jobs")).json["count"]

    assert rest.headers["X-Task-Id"] == whole.headers["X-Task-Id"]
    assert events_of(rest.text) == events_of(whole.text)[1:]
    assert jobs == 1


async def test_a_post_that_comes_back_while_the_job_runs_follows_it(server: Server) -> None:
    """It is not refused because its own session is busy."""
    task_id = await server.start("SCRIPT: sleep 0.5; text late", session_id="s")
    body = {"session_id": "s", "prompt": "SCRIPT: sleep 0.5; text late"}
    rest = await server.ask("POST", "/generate/v2", json=body, headers={"Last-Event-ID": "1"})

    assert rest.headers["X-Task-Id"] == task_id
    assert events_of(rest.text)[-1][1]["done"] is True


async def test_a_post_that_comes_back_to_an_earlier_job_finds_that(server: Server) -> None:
    """Its event says which job is meant, and `message_id` does so too."""
    first = await server.generate("one", message_id="m1")
    await server.generate("two")
    for body in ({"prompt": "one"}, {"prompt": "one", "message_id": "m1"}):
        rest = await server.ask(
            "POST", "/generate/v2", json={"session_id": "s", **body}, headers={"Last-Event-ID": "2"}
        )

        assert rest.headers["X-Task-Id"] == first.headers["X-Task-Id"]


async def test_a_post_that_has_seen_all_is_done(server: Server) -> None:
    """204 tells the library to stop."""
    last = events_of((await server.generate("hello")).text)[-1][0]
    body = {"session_id": "s", "prompt": "hello"}
    answer = await server.ask("POST", "/generate/v2", json=body, headers={"Last-Event-ID": str(last)})

    assert answer.status == 204


@pytest.mark.parametrize(
    ("prompt", "seen", "status", "code"),
    [
        ("another", "1", 404, "job_not_found"),
        ("hello", "999", 400, "invalid_input"),
        ("hello", "x", 400, "invalid_input"),
    ],
)
async def test_a_post_that_comes_back_to_nothing_starts_nothing(
    server: Server, prompt: str, seen: str, status: int, code: str
) -> None:
    """Another prompt, an event that lies ahead, or what is no id: an error, and no new job."""
    await server.generate("hello")
    body = {"session_id": "s", "prompt": prompt}
    answer = await server.ask("POST", "/generate/v2", json=body, headers={"Last-Event-ID": seen})

    assert (answer.status, answer.json["code"]) == (status, code)
    assert (await server.ask("GET", "/generate/v2/jobs")).json["count"] == 1


@pytest.mark.parametrize("format", ["native", "acp"])
async def test_an_id_follows_its_data_and_no_frame_is_empty(server: Server, format: str) -> None:
    """A library that is cut between the two does not believe to have the event."""
    stream = (await server.generate("hello", format=format)).text
    frames = [
        [line for line in frame.split("\n") if not line.startswith((":", "retry: "))]
        for frame in stream.removesuffix("\n\n").split("\n\n")
    ]

    assert all(frame[0].startswith("data: ") for frame in frames)
    assert all(len(frame) == 1 or frame[1].startswith("id: ") for frame in frames)


async def test_the_last_event_may_be_named_in_the_url(server: Server) -> None:
    """`lastEventId` is what event-source-polyfill adds to the URL that it began with."""
    whole = await server.generate("hello")
    path = f"/generate/v2/jobs/{whole.headers['X-Task-Id']}/stream?after=1&lastEventId=2"

    assert events_of((await server.ask("GET", path)).text) == events_of(whole.text)[2:]


async def test_job_has_what_the_agent_said_last(server: Server) -> None:
    """I ask for the job and have its result; lists are spared of it."""
    job = await server.end_of(await server.start("SCRIPT: say first"))
    listed = (await server.ask("GET", "/generate/v2/jobs")).json["jobs"]

    assert job["status"] == "completed"
    assert isinstance(job["result"], str)
    assert "result" not in listed[0]
