"""What other protocols cost: a flood through them, and the first event of an agent that speaks ACP."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.agent import SOURCE, compile_agent
from bench.client import BUFFER, Stream, drain, post, request
from bench.peers import RawSocket
from bench.rows import FLOOD, SIZE, Row, serving
from tests.kit import KEY, Server, script

CHUNK = b'"agent_message_chunk"'
ROUNDS = 3
TURNS = 31
SHARE = 0.85
NEAR_MS = 10


def faces(directory: Path) -> Iterator[Row]:
    """(u) A face against the stream that it is made from (`format=acp`); an ACP agent against itself on pipes."""
    yield from floods(directory / "u")
    yield from first_events(directory)


def floods(directory: Path) -> Iterator[Row]:
    names = ("format=acp", "chat completions", "responses", "ACP", "MCP")
    rates: dict[str, list[float]] = {name: [] for name in names}
    with serving(directory, compile_agent()) as server:
        for number in range(ROUNDS):
            for name, found in rates.items():
                found.append(FLOOD / seconds_of(server, name, number))
    bare, *others = [(name, statistics.median(found)) for name, found in rates.items()]
    yield Row(f"(u) events/s of a flood, {bare[0]}", bare[1], "/s")
    for name, rate in others:
        yield Row(f"(u) events/s of a flood, {name}", rate, "/s", bare[1], SHARE * bare[1])


def seconds_of(server: Server, name: str, number: int) -> float:
    match name:
        case "ACP":
            return seconds_of_editor(server)
        case "MCP":
            return seconds_of_agent(server)
        case _:
            return seconds(flood(server, name, f"{name.split('=')[0].split(' ')[0]}-{number}"))


def flood(server: Server, name: str, session: str) -> Stream:
    prompt = script(f"lines {FLOOD} {SIZE}")
    if name == "format=acp":
        return post(server, session, prompt, format="acp")
    common: dict[str, Any] = {"model": "claude-code", "session_id": session, "stream": True}
    if name == "responses":
        return request(server, "POST", "/openai/v1/responses", {**common, "input": prompt})
    messages = [{"role": "user", "content": prompt}]
    return request(server, "POST", "/openai/v1/chat/completions", {**common, "messages": messages})


def seconds(stream: Stream) -> float:
    """From the request to the end of its answer, which has all of what the agent has said."""
    while count := stream.socket.recv_into(BUFFER):
        stream.take(BUFFER[:count])
    stream.socket.close()
    assert stream.size > FLOOD * SIZE / 2, stream.tail
    return time.perf_counter() - stream.sent_at


def seconds_of_editor(server: Server) -> float:
    """From the prompt of an editor, over a WebSocket, to the answer that its turn has ended."""
    connection = RawSocket(server.port, "/acp", f"Authorization: Bearer {KEY}\r\n")
    say(connection, 1, "initialize", protocolVersion=1, clientCapabilities={})
    read_until(connection, b'"id":1')
    say(connection, 2, "session/new", cwd=str(server.workspace), mcpServers=[])
    made = read_until(connection, b'"id":2')
    session = made.split(b'"sessionId":"')[1].split(b'"')[0].decode()
    text = script(f"lines {FLOOD} {SIZE}")
    sent_at = time.perf_counter()
    say(connection, 3, "session/prompt", sessionId=session, prompt=[{"type": "text", "text": text}])
    heard = read_until(connection, b'"stopReason"')
    took_s = time.perf_counter() - sent_at
    connection.close()
    assert heard.count(CHUNK) >= FLOOD, heard[-300:]
    return took_s


def seconds_of_agent(server: Server) -> float:
    """From another agent's `send_prompt` to the answer to its `wait`, which has followed each event."""
    sent_at = time.perf_counter()
    job = used(server, "send_prompt", prompt=script(f"lines {FLOOD} {SIZE}"))
    ended = used(server, "wait", task_id=job["task_id"])
    took_s = time.perf_counter() - sent_at
    assert ended["status"] == "completed", ended
    return took_s


def used(server: Server, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool of /mcp has found."""
    params = {"name": tool, "arguments": arguments}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = server.ask("POST", "/mcp", call).json
    found: dict[str, Any] = answer["result"]["structuredContent"]
    return found


def say(connection: RawSocket, number: int, method: str, **params: Any) -> None:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    connection.send(0x81, json.dumps(message).encode())


def read_until(connection: RawSocket, end: bytes) -> bytes:
    """All that comes, up to a read with `end` in it."""
    heard = bytearray()
    while heard.find(end, max(len(heard) - len(BUFFER) - len(end), 0)) < 0:
        count = connection.socket.recv_into(BUFFER)
        assert count, bytes(heard[-300:])
        heard += BUFFER[:count]
    return bytes(heard)


def first_events(directory: Path) -> Iterator[Row]:
    """From POST to the agent's first words, with a new process, and the warm one."""
    program = compile_agent(SOURCE.with_name("acp_agent.c"))
    directory.mkdir(exist_ok=True)
    table = directory / "agents.toml"
    table.write_text(f"[agents.fast]\ncommand = {json.dumps([str(program)])}\n")
    colds: list[float] = []
    warms: list[float] = []
    with serving(directory / "acp", Path("/bin/true"), AGENTS_FILE=str(table)) as server:
        for number in range(TURNS):
            for found in (colds, warms):
                found.append(first_words_ms(server, f"first-{number}"))
                time.sleep(0.02)  # what follows a turn is not part of the next one
    bare_cold, bare_warm = bare(program)
    for name, found, own in (("cold", colds, bare_cold), ("warm", warms, bare_warm)):
        measured = statistics.median(found)
        yield Row(f"(u) first event of an ACP agent, {name}", measured, "ms", own, -(own + NEAR_MS))


def first_words_ms(server: Server, session: str) -> float:
    heard_at = 0.0

    def hear(_: Stream, body: bytes) -> None:
        nonlocal heard_at
        if not heard_at and CHUNK in body:
            heard_at = time.perf_counter()

    stream = post(server, session, "hi", agent="fast")
    drain([stream], hear)
    return 1000 * (heard_at - stream.sent_at)


def bare(program: Path) -> tuple[float, float]:
    """The same on pipes: (cold, warm) in ms."""
    colds: list[float] = []
    warms: list[float] = []
    for _ in range(TURNS):
        began = time.perf_counter()
        agent = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for method in ("initialize", "session/new"):
            ask(agent, method)
        colds.append(1000 * (ask(agent, "session/prompt") - began))
        began = time.perf_counter()
        warms.append(1000 * (ask(agent, "session/prompt") - began))
        agent.communicate()
    return statistics.median(colds), statistics.median(warms)


def ask(agent: subprocess.Popen[bytes], method: str) -> float:
    """Send a request and read to its answer; when the first line came."""
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(b'{"jsonrpc":"2.0","id":"x","method":"%s"}\n' % method.encode())
    agent.stdin.flush()
    line = agent.stdout.readline()
    heard_at = time.perf_counter()
    while b'"result"' not in line:
        line = agent.stdout.readline()
        assert line, "the agent has ended"
    return heard_at
