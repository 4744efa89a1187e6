"""Terminals on the wire: tokens, the WebSocket, the list."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import WSServerHandshakeError

from agentsrv.app import make_app
from agentsrv.config import Config
from tests.api.kit import KEY, Serve, Server, make_config, serve
from tests.kit import all_pids, environ_of, is_alive, rss_bytes
from tests.terminal_client import TIMEOUT_S, TerminalClient, get_token, terminal
from tests.terminals.answering import effects

SECRET = "a-secret-of-at-least-thirty-two-bytes"

Open = Callable[..., AbstractAsyncContextManager[TerminalClient]]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(
        tmp_path,
        allowed_origins=frozenset({"https://app.example"}),
        terminal_shell=("/bin/sh",),
        terminal_jwt_secret=SECRET,
        max_terminals=4,
    )


@pytest.fixture
async def server(config: Config, serving: Serve) -> AsyncIterator[Server]:
    async with serving(config) as running:
        yield running
        for found in (await running.ask("GET", "/terminals")).json["terminals"]:
            await running.ask("DELETE", f"/terminals/{found['terminalId']}")


@pytest.fixture
def open_terminal(server: Server) -> Open:
    """`async with open_terminal("name") as shell`."""

    def open_terminal(terminal_id: str = "t", **options: Any) -> AbstractAsyncContextManager[TerminalClient]:
        return terminal(server.client, server.port, KEY, terminal_id, **options)

    return open_terminal


async def listed(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.ask("GET", "/terminals")).json["terminals"]
    return found


async def until_listed(server: Server, is_so: Callable[[list[dict[str, Any]]], object]) -> None:
    """Wait until the list of terminals is as it should be."""
    async with asyncio.timeout(TIMEOUT_S):
        while not is_so(await listed(server)):  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)


# ---- what it is for


async def test_a_shell_answers(open_terminal: Open, config: Config) -> None:
    """The first message says what one has; what is typed is run."""
    async with open_terminal() as shell:
        info = await shell.message("info")
        await shell.type("echo $((6*7)) $TERM $DEPLOYMENT_ID $TERMINAL_ID; pwd; tty\n")
        shown = await shell.shows("/dev/pts/")

    cwd = str(config.workspace_base / "workspaces")
    assert ("t", "/bin/sh", cwd, 80, 24, False) == tuple(
        info[name] for name in ("terminalId", "shell", "cwd", "cols", "rows", "readOnly")
    )
    assert "42 xterm-256color local-dev t" in shown
    assert cwd in shown


async def test_it_begins_in_the_directory_of_its_token(open_terminal: Open, config: Config) -> None:
    """`cwd`, inside the workspace."""
    (config.workspace_base / "project").mkdir()
    async with open_terminal(cwd="project") as shell:
        await shell.type("echo in $PWD.\n")
        await shell.shows(f"in {config.workspace_base}/project.")


@pytest.mark.parametrize("encoding", ["json", "binary"])
async def test_output_arrives_whole(open_terminal: Open, tmp_path: Path, encoding: str) -> None:
    """Every byte, in order; characters that a read tears apart are whole again."""
    text = "".join(f"{number} äöü 😀 日本\n" for number in range(40_000))
    (tmp_path / "text").write_text(text)
    async with open_terminal(encoding=encoding) as shell:
        await shell.type(f"stty -opost -echo; cat {tmp_path}/text; echo the-'end'\n")
        shown = await shell.shows("the-end\n")

    assert text == shown[shown.index("0 äöü") : shown.index("the-end")]


async def test_bytes_that_are_no_text_do_no_harm(open_terminal: Open) -> None:
    """JSON replaces them, binary has them as they are."""
    async with open_terminal() as shell, open_terminal(encoding="binary") as raw:
        await shell.type(r"printf 'x\377\376y'; echo -'done'" + "\n")

        assert "x\ufffd\ufffdy" in await shell.shows("-done")
        await raw.shows("-done")
        assert b"x\xff\xfey" in raw.output


async def test_what_comes_is_what_was_typed(open_terminal: Open) -> None:
    """A megabyte of input reaches the program, though it is slow to read it."""
    text = "".join(f"line {number}\n" for number in range(100_000))
    async with open_terminal(encoding="binary") as shell:
        await shell.type("stty -echo -icanon; echo ready-'steady'; sleep 0.3; head -c 1000000 | sha256sum\n")
        await shell.shows("ready-steady")
        await shell.type(text[:600_000])
        await shell.type(text[600_000:1_000_000])
        await shell.shows(hashlib.sha256(text[:1_000_000].encode()).hexdigest())


async def test_the_window_has_the_size_that_the_client_says(open_terminal: Open) -> None:
    """And the program is told when it changes."""
    async with open_terminal() as shell:
        await shell.type("trap 'echo now $(stty size)' WINCH; echo trap-'set'\n")
        await shell.shows("trap-set")
        await shell.say(type="resize", cols=132, rows=43)
        await shell.type("\n")
        await shell.shows("now 43 132")


@pytest.mark.parametrize(
    ("command", "code", "name"),
    [
        ("exit", 0, None),
        ("exit 3", 3, None),
        ("kill -9 $$", None, "SIGKILL"),
        ("kill -HUP $$", None, "SIGHUP"),
    ],
)
async def test_how_the_shell_ended_is_told(
    server: Server, open_terminal: Open, command: str, code: int | None, name: str | None
) -> None:
    """All output, then `close` with the exit code or the signal, then 1000. What is sent after that is ignored."""
    async with open_terminal() as shell:
        await shell.type(f"echo last-'words'; {command}\n")
        ended = await shell.message("close")
        await shell.type("x")
        await shell.say(type="resize", cols=10, rows=10)

        assert (code, name) == (ended["exitCode"], ended["signal"])
        assert b"last-words" in shell.output
        assert 1000 == await shell.closed()
    assert [] == await listed(server)


async def test_interrupt_reaches_the_program(open_terminal: Open) -> None:
    """Ctrl-C ends what runs in the foreground, soon, whatever it prints."""
    async with open_terminal(encoding="binary") as shell:
        await shell.type("yes\n")
        await shell.shows("y\r\ny\r\n" * 1000)
        began = time.monotonic()
        await shell.type("\x03echo is-'over'\n")
        await shell.shows("is-over")

    assert time.monotonic() - began < 15


# ---- staying, coming back, sharing


async def test_a_terminal_outlives_its_socket(open_terminal: Open) -> None:
    """Who comes back finds the same shell and what it has shown, also what came meanwhile."""
    async with open_terminal() as shell:
        await shell.type("echo first $$; sleep 0.2; echo mean-'while'\n")
        [pid] = await shell.matches(rb"first (\d+)\r")
    async with open_terminal() as shell:
        shown = await shell.shows("mean-while")
        await shell.type("echo same $$\n")

        assert f"first {pid.decode()}" in shown
        assert [pid] == await shell.matches(rb"same (\d+)\r")


async def test_what_is_shown_again_asks_and_copies_nothing(open_terminal: Open, tmp_path: Path) -> None:
    """A hostile file was printed: who comes back sees its text; their terminal does not answer, copy or ring."""
    hostile = (
        b"\x1b[\x1b[6n6n\x1b]052;c;QUJD\x07\x1b]1337;Copy=:QUJD\x07\x05\x07" + b"\xc2\x9d52;c;QUJD" * 6000
    )
    (tmp_path / "hostile").write_bytes(hostile + b"\x1b]2;title\x07\x1b[?2004h\x1b[5 q\n")
    async with open_terminal() as shell:
        await shell.type(f"stty -echo; cat {tmp_path}/hostile; echo to the $((40 + 2)) end\n")
        await shell.shows("to the 42 end")
    async with open_terminal() as again:
        await again.shows("to the 42 end")

    assert [] == effects(bytes(again.output))
    assert all(kept in again.output for kept in (b"\x1b]2;title", b"\x1b[?2004h", b"\x1b[5 q"))


async def test_a_full_screen_program_draws_for_who_comes_back(
    open_terminal: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees another size for a moment: many do nothing when they are told of the one that they have."""
    monkeypatch.setattr("agentsrv.terminals.pty.NUDGE_S", 3.0)  # A busy machine takes its time.
    program = tmp_path / "program"
    program.write_text(
        "trap 'echo size $(stty size)' WINCH; printf '\\033[?1049h'; while :; do sleep 0.05; done"
    )
    async with open_terminal() as shell:
        await shell.say(type="resize", cols=90, rows=30)
        await shell.type(f"sh {program}\n")
        await shell.shows("\x1b[?1049h")
    async with open_terminal() as again:
        await again.say(type="resize", cols=90, rows=30)
        await again.shows("size 29 90")
        await again.shows("size 30 90")


async def test_several_sockets_share_a_terminal(server: Server, open_terminal: Open) -> None:
    """All see the same, all may type, and it is as large as the smallest of them."""
    async with open_terminal() as one, open_terminal(encoding="binary") as two:
        await one.say(type="resize", cols=100, rows=20)
        await two.say(type="resize", cols=90, rows=30)
        await two.type("echo from-'two'; stty size\n")
        for shell in (one, two):
            await shell.shows("20 90")
        await one.type("echo from-'one'\n")
        await two.shows("from-one")
        await two.ws.close()
        await one.type("until stty size | grep '20 ''100'; do sleep 0.1; done\n")
        await one.shows("20 100")


async def test_a_read_only_token_watches(open_terminal: Open) -> None:
    """It sees all; what it types, its window and its `close` change nothing."""
    async with open_terminal() as shell, open_terminal(readOnly=True) as watcher:
        await shell.say(type="resize", cols=100, rows=30)
        await watcher.say(type="resize", cols=10, rows=10)
        await watcher.type("echo not-'this'\n")
        await watcher.say(type="close")
        await shell.type("echo but-'this'; stty size\n")
        shown = await watcher.shows("30 100")

        assert (await watcher.message("info"))["readOnly"]
        assert "but-this" in shown
        assert "not-this" not in shown


async def test_a_token_of_another_deployment_opens_nothing(server: Server, open_terminal: Open) -> None:
    """Who has one tenant's token does not get into another one's shell by its name."""
    async with open_terminal("shared"):
        for is_read_only in (False, True):
            grant = {"deploymentId": "other", "terminalId": "shared", "readOnly": is_read_only}
            token = (await server.ask("POST", "/terminal/token", json=grant)).json["token"]
            with pytest.raises(WSServerHandshakeError) as caught:
                await server.client.ws_connect(f"ws://127.0.0.1:{server.port}/ws/terminal?token={token}")
            assert 403 == caught.value.status


async def test_raw_is_bytes_and_nothing_else(server: Server, open_terminal: Open) -> None:
    """What is sent, as text or as bytes, is typed; what comes is output; the size is told in the URL and by HTTP."""
    token = await get_token(server.client, server.port, KEY, terminalId="t")
    url = f"ws://127.0.0.1:{server.port}/ws/terminal?encoding=raw&cols=91&rows=31&token={token}"
    shown = b""
    async with asyncio.timeout(TIMEOUT_S), server.client.ws_connect(url) as ws:
        await ws.send_str("stty -echo; stty size; ")
        await ws.send_bytes(b'echo \'{"type":"close"}\'; echo the $((40 + 2)) end\n')
        while b"the 42 end" not in shown:
            shown += await ws.receive_bytes()
        resized = await server.ask("PUT", "/terminals/t/size", json={"cols": 92, "rows": 32})
        await ws.send_str("stty size; echo the $((40 + 3)) end\n")
        while b"the 43 end" not in shown:
            shown += await ws.receive_bytes()

    assert (200, 92, 32) == (resized.status, resized.json["cols"], resized.json["rows"])
    assert b"31 91" in shown
    assert b"32 92" in shown
    assert b'"type": "info"' not in shown
    assert 404 == (await server.ask("PUT", "/terminals/none/size", json={"cols": 1, "rows": 1})).status


async def test_the_shell_is_as_a_persons(tmp_path: Path) -> None:
    """A login shell with the PATH of the profile, in full colour; with arguments it is started as they say."""
    config = make_config(
        tmp_path, terminal_shell=("/bin/bash",), environment={"HOME": str(tmp_path), "PATH": os.defpath}
    )
    (tmp_path / ".bash_profile").write_text("export FROM_PROFILE=yes-it-is\n")
    async with serve(make_app(config)) as server, terminal(server.client, server.port, KEY, "t") as shell:
        await shell.type("echo $FROM_PROFILE $COLORTERM the $((40 + 2)) end\n")
        await shell.shows("yes-it-is truecolor the 42 end")
        await shell.say(type="close")
        await shell.message("close")
    config = replace(
        config, terminal_shell=("/bin/sh", "-c", "echo $0 $1; sleep 60", "a name", "an argument")
    )
    async with serve(make_app(config)) as server, terminal(server.client, server.port, KEY, "t") as shell:
        await shell.shows("a name an argument")
        await shell.say(type="close")
        await shell.message("close")


async def test_close_ends_the_shell_for_all(server: Server, open_terminal: Open) -> None:
    """`close` is the end of the terminal, not of the socket alone."""
    async with open_terminal() as one, open_terminal() as two:
        await one.say(type="close")

        assert [1000, 1000] == [await one.closed(), await two.closed()]
    assert [] == await listed(server)


async def test_terminals_are_listed_and_ended(server: Server, open_terminal: Open) -> None:
    """GET /terminals shows them, with and without sockets; DELETE answers when the shell is gone."""
    async with open_terminal("a", deploymentId="blue") as shell:
        await shell.say(type="resize", cols=70, rows=20)
        await shell.type("echo sized\n")
        await shell.shows("sized")
        async with open_terminal("b"):
            pass
        found = await listed(server)
        pids = [terminal["pid"] for terminal in found]
        ended, code = await asyncio.gather(server.ask("DELETE", "/terminals/a"), shell.closed())

        assert ["a", "b"] == [terminal["terminalId"] for terminal in found]
        assert ("blue", 70, 20, 1, "/bin/sh") == tuple(
            found[0][name] for name in ("deploymentId", "cols", "rows", "clients", "shell")
        )
        assert (200, True, "a") == (ended.status, ended.json["deleted"], ended.json["terminalId"])
        assert [False, True] == [is_alive(pid) for pid in pids]
        assert 1000 == code
    assert 404 == (await server.ask("DELETE", "/terminals/a")).status


async def test_the_whole_tree_is_gone(open_terminal: Open, server: Server) -> None:
    """Children that ignore HUP, that are in a session of their own, or that forked away, end with the terminal."""
    async with open_terminal() as shell:
        await shell.type(
            "(trap '' HUP TERM; sleep 1000) & setsid sh -c 'trap \"\" HUP TERM; sleep 1001' & "
            "nohup setsid sleep 1002 >/dev/null 2>&1 & (sleep 1003 &) ; echo all-'started'\n"
        )
        await shell.shows("all-started")
        runner = [
            entry for entry in environ_of((await listed(server))[0]["pid"]) if b"AGENTSRV_RUNNER=" in entry
        ]
        began = time.monotonic()
        await server.ask("DELETE", "/terminals/t")

    assert time.monotonic() - began < 15
    assert [] == [pid for pid in all_pids() if runner[0] in environ_of(pid)]


async def test_a_terminal_to_which_nobody_comes_back_ends(tmp_path: Path) -> None:
    """After TERMINAL_LINGER."""
    config = make_config(tmp_path, terminal_linger_s=0.2, terminal_shell=("/bin/sh",))
    async with serve(make_app(config)) as server:
        async with terminal(server.client, server.port, KEY) as shell:
            await shell.message("info")
            pid = (await listed(server))[0]["pid"]
        await until_listed(server, lambda found: not found)
        assert not is_alive(pid)
    assert [] == list((config.state_dir / "terminals").iterdir())


# ---- flow


async def test_a_client_that_stops_reading_stops_the_program(open_terminal: Open, server: Server) -> None:
    """The server's memory stays as it is, and another terminal does not notice; later every byte comes."""
    async with open_terminal("slow", encoding="binary") as shell, open_terminal("other") as other:
        await shell.type("stty -echo -onlcr; seq 3000000; echo the-'end'\n")
        shell.pause()
        before = rss_bytes(os.getpid())
        await asyncio.sleep(0.5)
        await other.type("echo un-'disturbed'\n")
        await other.shows("un-disturbed")
        grown = rss_bytes(os.getpid()) - before
        shell.resume()
        shown = await shell.shows("the-end\n")

    assert grown < 8 * 1024 * 1024
    numbers = shown[shown.index("1\n2\n3\n") : shown.index("the-end")].split()
    assert [str(number) for number in range(1, 3_000_001)] == numbers


async def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    """After STALL_TIMEOUT its socket is gone; the program goes on, and who comes back sees the end of it."""
    config = make_config(tmp_path, stall_timeout_s=2.0, terminal_shell=("/bin/sh",))
    async with serve(make_app(config)) as server:
        async with terminal(server.client, server.port, KEY) as shell:
            await shell.type("seq 2000000; echo the-'end'\n")
            shell.pause()
            await until_listed(server, lambda found: not found[0]["clients"])
            shell.resume()
        async with terminal(server.client, server.port, KEY) as shell:
            assert "1999999\r\n2000000\r\nthe-end" in await shell.shows("the-end")
        await server.ask("DELETE", "/terminals/t")


async def test_the_fastest_sets_the_pace(open_terminal: Open) -> None:
    """Where several look, one that does not read holds up nobody; later it gets the screen as it is then."""
    async with open_terminal(encoding="binary") as slow, open_terminal(encoding="binary") as fast:
        slow.pause()
        await fast.type("seq 1000000; echo the-'end'\n")
        await fast.shows("999999\r\n1000000\r\nthe-end")
        slow.resume()
        shown = await slow.shows("the-end")

    assert "\x1bc" in shown
    assert "999999\r\n1000000\r\nthe-end" in shown


async def test_who_only_watches_holds_up_nobody(open_terminal: Open) -> None:
    """Not even when everybody else has gone."""
    async with open_terminal(encoding="binary", readOnly=False) as shell:
        await shell.message("info")
        async with open_terminal(encoding="binary", readOnly=True) as watcher:
            watcher.pause()
            await shell.type("seq 1000000; echo the-'end'\n")
            await shell.ws.close()
            watcher.resume()
            await watcher.shows("the-end")


async def test_a_silent_client_is_asked_and_given_up(tmp_path: Path) -> None:
    """A ping after KEEPALIVE_INTERVAL; without an answer the socket is cut, the terminal stays."""
    config = make_config(tmp_path, keepalive_s=0.1, stall_timeout_s=2.0, terminal_shell=("/bin/sh",))
    async with serve(make_app(config)) as server:
        token = await get_token(server.client, server.port, KEY, terminalId="t")
        async with server.connection() as (reader, writer):
            writer.write(upgrade(f"token={token}"))
            await reader.readuntil(b"\r\n\r\n")
            frames = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        async with terminal(server.client, server.port, KEY) as shell:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(shell.closed(), 3.0)
            await shell.type("echo still-'here'\n")
            await shell.shows("still-here")
        await server.ask("DELETE", "/terminals/t")

    assert frames.count(b"\x89\x00") >= 2


async def test_shutdown_leaves_the_shell_running(config: Config) -> None:
    """The socket closes with 1001; the next server has the same shell and all that it has shown."""
    async with serve(make_app(config)) as server, terminal(server.client, server.port, KEY) as shell:
        await shell.type("echo first $$\n")
        [pid] = await shell.matches(rb"first (\d+)\r")
        await server.app.shutdown()

        assert 1001 == await shell.closed()
        with pytest.raises(WSServerHandshakeError, match="503"):
            async with terminal(server.client, server.port, KEY):
                pass
    async with serve(make_app(config)) as server, terminal(server.client, server.port, KEY) as shell:
        assert "first" in await shell.shows("first")
        await shell.type("echo again $$\n")
        assert [pid] == await shell.matches(rb"again (\d+)\r")
        await server.ask("DELETE", "/terminals/t")


async def test_shutdown_does_not_wait_for_a_flood(config: Config) -> None:
    """Output without end is no reason to go on sending it."""
    async with serve(make_app(config)) as server, terminal(server.client, server.port, KEY) as shell:
        await shell.type("yes\n")
        await shell.shows("y\r\ny\r\n" * 100)
        began = time.monotonic()
        await server.app.shutdown()

        assert 1001 == await shell.closed()
        assert time.monotonic() - began < 15
        await server.ask("DELETE", "/terminals/t")


# ---- bad input: whatever comes, no shell begins, none is lost


def upgrade(query: str = "", *headers: str, method: str = "GET", **changed: str | None) -> bytes:
    """A request for an upgrade. `changed`: headers of the handshake by their names, `_` for `-`; None: without."""
    handshake: dict[str, str | None] = {
        "Host": "127.0.0.1",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    handshake |= changed
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in handshake.items() if value is not None]
    return "\r\n".join([f"{method} /ws/terminal?{query} HTTP/1.1", *lines, *headers, "", ""]).encode(
        "latin-1"
    )


def signed(key: str = SECRET, **changes: Any) -> str:
    claims = {
        "exp": int(time.time()) + 60,
        "aud": "terminal",
        "scope": "terminal",
        "jti": os.urandom(8).hex(),
        "terminalId": "t",
        "deploymentId": "d",
        "srv": "home",  # What is no server of a fleet does not look at it.
    } | changes
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, "HS256")


def status_of(answer: bytes) -> int:
    return int(answer[9:12])


REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "no token": (lambda: upgrade(), 401),
    "an empty token": (lambda: upgrade("token="), 401),
    "garbage": (lambda: upgrade("token=x"), 401),
    "two parts": (lambda: upgrade("token=a.b"), 401),
    "not ASCII": (lambda: upgrade("token=%C3%A4.%F0%9F%98%80.x"), 401),
    "no text": (lambda: upgrade("token=%ff%fe%00"), 400),
    "two tokens": (lambda: upgrade(f"token={signed()}&token={signed()}"), 401),
    "100 KB": (lambda: upgrade("token=" + "x" * 100_000), 414),
    "the API key": (lambda: upgrade(f"token={KEY}"), 401),
    "the API key as a header": (lambda: upgrade("", f"Authorization: Bearer {KEY}"), 401),
    "signed with the API key": (lambda: upgrade(f"token={signed(KEY)}"), 401),
    "expired": (lambda: upgrade(f"token={signed(exp=1)}"), 401),
    "not yet": (lambda: upgrade(f"token={signed(nbf=int(time.time()) + 99)}"), 401),
    "without an end": (lambda: upgrade(f"token={signed(exp=None)}"), 401),
    "for ten years": (lambda: upgrade(f"token={signed(exp=int(time.time()) + 315_360_000)}"), 401),
    "an end that is text": (lambda: upgrade(f"token={signed(exp=str(int(time.time()) + 60))}"), 401),
    "for something else": (lambda: upgrade(f"token={signed(scope='sessions')}"), 401),
    "for somebody else": (lambda: upgrade(f"token={signed(aud='sessions')}"), 401),
    "to a path": (lambda: upgrade(f"token={signed(terminalId='../../x')}"), 401),
    "outside the workspace": (lambda: upgrade(f"token={signed(cwd='/etc')}"), 403),
    "where nothing is": (lambda: upgrade(f"token={signed(cwd='missing')}"), 400),
    "to watch nothing": (lambda: upgrade(f"token={signed(readOnly=True)}"), 404),
    "different tokens": (lambda: upgrade(f"token={signed()}", f"Authorization: Bearer {signed()}"), 400),
    "another encoding": (lambda: upgrade(f"token={signed()}&encoding=xml"), 400),
    "a bad origin": (lambda: upgrade(f"token={signed()}", "Origin: https://evil.example"), 403),
    "no origin at all": (lambda: upgrade(f"token={signed()}", "Origin: null"), 403),
    "an origin like ours": (lambda: upgrade(f"token={signed()}", "Origin: https://app.example.evil"), 403),
    "two origins": (
        lambda: upgrade(f"token={signed()}", "Origin: https://app.example", "Origin: https://x"),
        403,
    ),
    "no upgrade": (lambda: upgrade(f"token={signed()}", Upgrade=None, Connection=None), 400),
    "another upgrade": (lambda: upgrade(f"token={signed()}", Upgrade="h2c"), 400),
    "another version": (lambda: upgrade(f"token={signed()}", Sec_WebSocket_Version="12"), 400),
    "no key": (lambda: upgrade(f"token={signed()}", Sec_WebSocket_Key=None), 400),
    "a short key": (lambda: upgrade(f"token={signed()}", Sec_WebSocket_Key="eA=="), 400),
    "a key that is none": (lambda: upgrade(f"token={signed()}", Sec_WebSocket_Key="\xe4"), 400),
    "POST": (lambda: upgrade(f"token={signed()}", method="POST"), 405),
}
"""Made when they are needed: a token lives for a minute."""


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize(("make", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_may_not_open_a_terminal_does_not(
    server: Server, caplog: pytest.LogCaptureFixture, make: Callable[[], bytes], status: int
) -> None:
    """A real status before the upgrade, no shell, and no token in any log."""
    request = make()
    with caplog.at_level("DEBUG"):
        answer = await server.send(request)

    assert status == status_of(answer), answer
    assert [] == await listed(server)
    token = re.search(rb"token=([\w.-]{20,})", request)
    assert token is None or token[1].decode() not in caplog.text
    assert KEY not in caplog.text
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


ALLOWED: dict[str, Callable[[str], bytes]] = {
    "in the query": lambda token: upgrade(f"token={token}"),
    "in a header": lambda token: upgrade("", f"Authorization: Bearer {token}"),
    "in both": lambda token: upgrade(f"token={token}", f"Authorization: bearer {token}"),
    "as a subprotocol": lambda token: upgrade("", f"Sec-WebSocket-Protocol: terminal, {token}"),
    "as the only subprotocol": lambda token: upgrade("", f"Sec-WebSocket-Protocol: {token}"),
    "from an allowed origin": lambda token: upgrade(f"token={token}", "Origin: https://app.example"),
    "with compression offered": lambda token: upgrade(
        f"token={token}", "Sec-WebSocket-Extensions: permessage-deflate"
    ),
}


@pytest.mark.parametrize("make", ALLOWED.values(), ids=ALLOWED)
async def test_what_may_open_a_terminal_does(
    server: Server, caplog: pytest.LogCaptureFixture, make: Callable[[str], bytes]
) -> None:
    """Once: the same request again is refused. No log has the token."""
    token = await get_token(server.client, server.port, KEY)
    with caplog.at_level("DEBUG"):
        first = await server.send(make(token))
        second = await server.send(make(token))

    assert (101, 401) == (status_of(first), status_of(second))
    assert b"Sec-WebSocket-Extensions" not in first
    assert token not in caplog.text
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


WRONG_FIELDS: dict[str, list[Any]] = {
    "deploymentId": [None, 1, [], {}, True, "", "a b", "../x", "a/b", "x" * 129, "a\0", "é", "a\n"],
    "terminalId": [None, 1, [], {}, True, "", "a b", "../x", "a/b", "x" * 129, "a\0", "é", "a\n"],
    "cwd": [None, 1, [], {}, True, "", "missing", "x" * 5000, "a\0b"],
    "readOnly": [None, 1, "true", [], {}],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG_FIELDS.items() for value in values]
)
async def test_a_token_is_not_made_of_nonsense(server: Server, field: str, value: Any) -> None:
    """400, with the name of the field."""
    body = {"deploymentId": "local-dev", field: value}
    answer = await server.ask("POST", "/terminal/token", json=body)

    assert 400 == answer.status, answer.text
    assert [field] == [problem["path"] for problem in answer.json["details"]]


async def test_a_token_needs_the_key_a_label_and_the_workspace(server: Server) -> None:
    """401 without the key, 400 without a deploymentId, 403 for a cwd outside."""
    bodies = [
        {"deploymentId": "d"},
        {},
        {"deploymentId": "d", "cwd": "/etc"},
        {"deploymentId": "d", "cwd": "../.."},
    ]
    keys = [None, KEY, KEY, KEY]
    answers = [
        await server.ask("POST", "/terminal/token", key=key, json=body)
        for key, body in zip(keys, bodies, strict=True)
    ]

    assert [401, 400, 403, 403] == [answer.status for answer in answers]


BAD_MESSAGES = [
    "{", "", "null", "1", "[]", '"x"', "{}", '{"type": 1}', '{"type": "dance"}', '{"type": "info"}', '{"data": "x"}',
    '{"type": "data"}', '{"type": "data", "data": 1}', '{"type": "data", "data": null}',
    '{"type": "data", "data": "\\ud800"}', '{"type": "resize"}', '{"type": "resize", "cols": 80}',
    '{"type": "resize", "cols": 0, "rows": 24}', '{"type": "resize", "cols": 80, "rows": 1001}',
    '{"type": "resize", "cols": -1, "rows": 24}', '{"type": "resize", "cols": 80.5, "rows": 24}',
    '{"type": "resize", "cols": "80", "rows": 24}', '{"type": "resize", "cols": 1e99, "rows": 24}',
    '{"type": "resize", "cols": NaN, "rows": 24}', '{"type": "x", "a": ' + "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_MESSAGES, ids=lambda text: text[:40])
async def test_a_bad_message_is_answered_and_costs_nothing(open_terminal: Open, text: str) -> None:
    """`error`; socket and shell stay, the window keeps its size."""
    async with open_terminal() as shell:
        await shell.ws.send_str(text)
        complaint = await shell.message("error")
        await shell.type("echo fine; stty size\n")
        await shell.shows("24 80")

    assert "invalid_message" == complaint["code"]


async def test_a_binary_message_is_no_json(open_terminal: Open) -> None:
    """Without `encoding=binary` it is answered with `error`."""
    async with open_terminal() as shell:
        await shell.ws.send_bytes(b"\xff\xfe")
        await shell.message("error")
        await shell.type("echo fi-'ne'\n")
        await shell.shows("fi-ne")


async def test_who_sends_only_nonsense_is_cut_off(server: Server, open_terminal: Open) -> None:
    """Twenty bad messages within ten seconds: 1008. The shell stays."""
    async with open_terminal() as shell:
        for _ in range(20):
            await shell.ws.send_str("nonsense")

        assert 1008 == await shell.closed()
        assert 19 == sum(message["type"] == "error" for message in shell.messages)
    assert 1 == len(await listed(server))


async def test_a_message_has_an_end(server: Server, open_terminal: Open) -> None:
    """10 MB at once: 1009. The shell stays."""
    async with open_terminal() as shell:
        await shell.type("x" * 10_000_000)

        assert 1009 == await shell.closed()
    assert 1 == len(await listed(server))


async def test_what_is_compressed_without_agreement_is_refused(server: Server) -> None:
    """No bomb is unpacked."""
    token = await get_token(server.client, server.port, KEY)
    async with server.connection() as (reader, writer):
        writer.write(upgrade(f"token={token}"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\xc1\xfe\x10\x00" + bytes(4) + bytes(4096))
        rest = await asyncio.wait_for(reader.read(), TIMEOUT_S)

    assert b"\x88" in rest
    assert b"\x03\xea" in rest  # 1002: a protocol error


async def test_terminals_are_limited(server: Server, open_terminal: Open) -> None:
    """One more than MAX_TERMINALS is 429; those that there are can be shown again."""
    names = ["a", "b", "c", "d"]
    for name in names:
        async with open_terminal(name):
            pass
    with pytest.raises(WSServerHandshakeError) as refused:
        async with open_terminal("e"):
            pass
    async with open_terminal("a") as shell:
        await shell.type("echo he-'re'\n")
        await shell.shows("he-re")

    assert 429 == refused.value.status
    assert names == [found["terminalId"] for found in await listed(server)]


async def test_many_at_once_open_one(server: Server) -> None:
    """Twenty sockets that name the same new terminal share one shell."""
    tokens = [await get_token(server.client, server.port, KEY, terminalId="one") for _ in range(20)]
    sockets = await asyncio.gather(
        *(server.client.ws_connect(f"http://127.0.0.1:{server.port}/ws/terminal?token={t}") for t in tokens)
    )

    assert [20] == [found["clients"] for found in await listed(server)]
    for ws in sockets:
        await ws.close()


async def test_no_secret_is_in_reach_of_the_shell(open_terminal: Open) -> None:
    """Not in its environment, nor in its parent's; its only descriptors are the terminal."""
    async with open_terminal() as shell:
        await shell.type(
            "env; tr '\\0' '\\n' </proc/$PPID/environ; ls -l /proc/self/fd/ | wc -l; echo that-'is' all\n"
        )
        shown = await shell.shows("that-is all")

    assert [False] * 3 == [secret in shown for secret in (KEY, SECRET, "sk-secret")]
    assert "\n5\r\n" in shown  # the total, 0, 1, 2 and the directory itself


async def test_a_shell_that_does_not_start_is_a_503(tmp_path: Path) -> None:
    """With a reason, and without anything left behind."""
    config = make_config(tmp_path, terminal_shell=(str(tmp_path / "no-such-shell"),))
    async with serve(make_app(config)) as server:
        token = await get_token(server.client, server.port, KEY)
        answer = await server.send(upgrade(f"token={token}"))

        assert 503 == status_of(answer)
        assert b"terminal_unavailable" in answer
        assert [] == await listed(server)
    assert [] == list((config.state_dir / "terminals").iterdir())


@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_frames_that_are_not_masked_are_refused(server: Server, pieces: int) -> None:
    """A client that masks its frames is heard, however they are torn apart; the first that is not closes with 1002."""
    token = await get_token(server.client, server.port, KEY)
    head = f"GET /ws/terminal?token={token}&encoding=raw HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    head += f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'x' * 21}A==\r\n\r\n"
    heard = frame(b"x" * 300 + b"\x15echo masked-$((6*7))\n")
    async with asyncio.timeout(TIMEOUT_S), server.connection() as (reader, writer):
        await send_in_pieces(writer, head.encode() + heard, 1 if pieces == 1 else len(head) + 7)
        await reader.readuntil(b"masked-42")
        await send_in_pieces(writer, frame(b"ls\n") + NOT_MASKED, pieces)
        rest = await reader.read()

    assert b"\x88\x02\x03\xea" in rest


NOT_MASKED = b"\x82\x03"
"""The head of a frame of three bytes."""


def frame(payload: bytes) -> bytes:
    mask = b"\x01\x02\x03\x04"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return b"\x82\xfe" + len(payload).to_bytes(2) + mask + masked


async def send_in_pieces(writer: asyncio.StreamWriter, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
        await writer.drain()
        await asyncio.sleep(0)
