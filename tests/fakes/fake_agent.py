"""A fake `claude`: the CLI's stream-json protocol, and faults on demand.

Run as `python -I -S fake_agent.py [--fake FLAG]... <claude's own arguments>`; only stdlib, for a fast start.
The prompt says what to do, one step a line; a prompt without steps is answered with its own text:

    SCRIPT: say Hello                 one assistant message
    SCRIPT: lines 100 300             100 numbered messages of 300 bytes at once
    SCRIPT: rate 200 100 300          100 of them at 200 a second;  `rate 200 enough 300`: until the file is there
    SCRIPT: raw {"not json            this line as it is;  `bytes 80ff0a`: these bytes;  `partial {"a`: no newline
    SCRIPT: big 50000000              one message of so many bytes
    SCRIPT: many 40 8000 {"a": "#@"}  so many such lines, with a number in place of # and so many x in place of @
    SCRIPT: stderr 1000000            so many bytes to stderr, in lines
    SCRIPT: echo                      a message with argv, environment, cwd and the raw line of this prompt
    SCRIPT: child                     a child that sleeps, its pid told in a message. Words behind: `setsid`,
                                      `daemon` (forks twice), `stubborn` (ignores TERM), `bare` (execs with an empty
                                      environment), `chatty` (a line a second to stdout), `brief` (ends after 1 s),
                                      `quick` (does all that a thousand times faster)
    SCRIPT: ignore-term               SIGTERM does nothing from now on;  `ignore-interrupt`: nor do interrupts
    SCRIPT: last-words {"type": "x"}  SIGTERM is answered with this line, or a message, and the end
    SCRIPT: sleep 0.5                 silence;  `hang`: until interrupted;  `deaf`: without reading stdin
    SCRIPT: close-stdout              close stdout and go on
    SCRIPT: result {"is_error": true} fields that the result of this turn gets
    SCRIPT: lose-idle                 the line that says that this turn is over is lost
    SCRIPT: later 0.2 Hello           after this turn, a turn that nobody prompted;  `later go Hello`: when the file
                                      is there;  `later 0 do quick ; hang`: with these steps
    SCRIPT: ask 2 Bash {"command": ""} ask leave for so many calls at once, wait, and tell each answer in a message
    SCRIPT: withdraw                  ask for leave and need none any more
    SCRIPT: await-steer               wait for another prompt and make its text a message of this turn
    SCRIPT: exit 3                    end at once;  `die 9`: by this signal

Flags, for what must go wrong before a prompt can be read: `deaf` (never reads stdin), `exit 3`, `mute` (reads, never
answers). `plays FILE`: an object of prompts, as people write them, and the steps that they stand for.

Each turn is, as claude 2.1.330 has it: session_state_changed running, command_lifecycle queued and started (when the
prompt has a uuid), init, the steps, result, command_lifecycle completed, session_state_changed idle.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # importing `typing` would double the start-up time
if TYPE_CHECKING:
    from typing import Any

PADDING = b"x" * 65536
LOOK_AGAIN_S = 0.01
ENVIRONMENT = dict(os.environ)  # noqa: TID251 - what it was given is what tests want to see


class Interrupted(Exception):
    """A control request asked for the end of this turn."""


class FakeAgent:
    """One process: reads lines from stdin, plays each prompt as a turn."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.model = option(argv, "--model") or "fake-model"
        self.session_id = option(argv, "--session-id") or option(argv, "--resume") or "no-session"
        self.buffer = b""
        self.prompts: list[bytes] = []
        self.seen: set[str] = set()
        self.turns = 0
        self.in_turn = False
        self.is_interrupted = False
        self.hears_interrupts = True
        self.is_eof = False
        self.later: list[tuple[float | str, str]] = []
        self.asked = 0
        self.answers: dict[str, dict[str, Any]] = {}
        self.plays: dict[str, str] = {}

    def run(self) -> None:
        """Turns until stdin ends."""
        while True:
            if self.prompts:
                self.take(self.prompts.pop(0))
            elif self.later and seconds_to(self.later[0][0]) <= 0:
                _, text = self.later.pop(0)
                steps = text[3:].split(" ; ") if text.startswith("do ") else [f"say {text}"]
                self.turn(
                    "", [f"SCRIPT: {step}" for step in steps], b"", origin={"kind": "task-notification"}
                )
            elif self.is_eof:
                return
            else:
                self.listen(seconds_to(self.later[0][0]) if self.later else None)

    # -- stdin

    def listen(self, timeout_s: float | None) -> None:
        """Wait at most this long for stdin and take what is there: prompts are queued, controls answered."""
        timeout_s = None if timeout_s is None else max(0.0, timeout_s)
        if self.is_eof:
            time.sleep(timeout_s or 0)
        elif select.select([0], [], [], timeout_s)[0]:
            data = os.read(0, 1 << 20)
            self.is_eof = not data
            *lines, self.buffer = (self.buffer + data).split(b"\n")
            for line in lines:
                self.hear(line)
        if self.is_interrupted:
            self.is_interrupted = False
            raise Interrupted

    def hear(self, line: bytes) -> None:
        if not line.strip():
            return
        message = json.loads(line)
        if message["type"] == "user":
            self.prompts.append(line)
        elif message["type"] == "control_request":
            self.control(message["request_id"], message["request"])
        elif message["type"] == "control_response":
            response = message["response"]
            self.answers[response["request_id"]] = response.get("response", response)

    def control(self, request_id: str, request: dict[str, Any]) -> None:
        answer = {"subtype": "success", "request_id": request_id, "response": {}}
        match request["subtype"]:
            case "interrupt":
                answer["response"] = {"still_queued": []}
                self.is_interrupted = self.in_turn and self.hears_interrupts
            case "set_model":
                self.model = request.get("model") or "fake-model"
                text = f"<local-command-stdout>Set model to `{self.model}`</local-command-stdout>"
                self.emit({"type": "user", "message": {"role": "user", "content": text}, "isReplay": True})
            case "stop_task":
                self.emit({"type": "system", "subtype": "background_tasks_changed", "tasks": []})
            case "initialize":
                pass
            case other:
                error = f"Unsupported control request subtype: {other}"
                answer = {"subtype": "error", "request_id": request_id, "error": error}
        self.emit({"type": "control_response", "response": answer})

    def wait(self, seconds: float) -> None:
        """Silence for so long; an interrupt ends it."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.listen(left)

    # -- turns

    def take(self, line: bytes) -> None:
        """Play a prompt; one whose uuid was played before is ignored, as the real CLI does."""
        message = json.loads(line)
        uuid = message.get("uuid", "")
        if uuid and uuid in self.seen:
            self.state("idle")
            return
        self.seen.add(uuid)
        content = message["message"]["content"]
        text = content if isinstance(content, str) else "\n".join(block.get("text", "") for block in content)
        text = self.plays.get(text, text)
        script = [step for step in text.split("\n") if step.startswith("SCRIPT: ")]
        self.turn(uuid, script or ["SCRIPT: say " + text], line)

    def turn(self, uuid: str, script: list[str], line: bytes, origin: dict[str, Any] | None = None) -> None:
        self.in_turn = self.tells_idle = True
        self.fields: dict[str, Any] = {"origin": origin} if origin else {}
        end = "completed"
        self.state("running")
        try:
            self.lifecycle(uuid, "queued")
            self.lifecycle(uuid, "started")
            self.emit(self.init())
            for step in script:
                verb, _, rest = step.removeprefix("SCRIPT: ").partition(" ")
                self.play(verb, rest, line)
                self.listen(0)
        except Interrupted:
            end = "cancelled"
            text = [{"type": "text", "text": "[Request interrupted by user]"}]
            self.emit({"type": "user", "message": {"role": "user", "content": text}})
        self.in_turn = False
        self.turns += 1
        self.emit(self.result(uuid, end))
        self.lifecycle(uuid, end)
        if self.tells_idle:
            self.state("idle")

    def play(self, verb: str, rest: str, line: bytes) -> None:
        words = rest.split()
        match verb:
            case "say":
                self.say(rest)
            case "lines":
                count, size = int(words[0]), int(words[1])
                for first in range(0, count, 1000):
                    write(1, b"".join(numbered(n, size) for n in range(first, min(first + 1000, count))))
            case "rate":
                self.rate(float(words[0]), words[1], int(words[2]))
            case "raw":
                write(1, rest.encode() + b"\n")
            case "partial":
                write(1, rest.encode())
            case "bytes":
                write(1, bytes.fromhex(rest))
            case "big":
                write(1, numbered(0, int(rest)))
            case "many":
                text = rest.split(" ", 2)[2].replace("@", "x" * int(words[1])) + "\n"
                for n in range(int(words[0])):
                    write(1, text.replace("#", str(n)).encode())
            case "stderr":
                flood(2, int(rest))
            case "echo":
                self.echo(line)
            case "child":
                self.emit({"type": "fake", "pid": start_child(words)})
            case "ignore-term":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "last-words":
                signal.signal(signal.SIGTERM, lambda *_: self.end(rest))
            case "ignore-interrupt":
                self.hears_interrupts = False
            case "sleep":
                self.wait(float(rest))
            case "hang":
                self.wait(86400)
            case "deaf":
                time.sleep(86400)
            case "close-stdout":
                os.close(1)
                os.open(os.devnull, os.O_WRONLY)
            case "result":
                self.fields |= json.loads(rest)
            case "lose-idle":
                self.tells_idle = False
            case "later":
                due, _, text = rest.partition(" ")
                self.later.append((time.monotonic() + float(due) if is_number(due) else due, text))
            case "ask":
                calls, tool, given = rest.split(" ", 2)
                self.ask(int(calls), tool, json.loads(given))
            case "withdraw":
                request_id = self.request("Bash", {"command": "rm"})
                self.emit({"type": "control_cancel_request", "request_id": request_id})
            case "await-steer":
                self.await_steer()
            case "exit":
                os._exit(int(rest))
            case "die":
                os.kill(os.getpid(), int(rest))
            case _:
                self.say(f"unknown step: {verb}")

    def request(self, tool: str, given: dict[str, Any]) -> str:
        self.asked += 1
        request_id = f"ask-{self.asked}"
        request: dict[str, Any] = {
            "subtype": "can_use_tool",
            "tool_name": tool,
            "input": given,
            "tool_use_id": f"t-{request_id}",
        }
        rules = [{"toolName": tool, "ruleContent": given.get("command", "")}]
        suggestion = {"type": "addRules", "rules": rules, "behavior": "allow", "destination": "localSettings"}
        request["permission_suggestions"] = [suggestion]
        self.emit({"type": "control_request", "request_id": request_id, "request": request})
        return request_id

    def ask(self, count: int, tool: str, given: dict[str, Any]) -> None:
        ids = [self.request(tool, given) for _ in range(count)]
        while not self.answers.keys() >= set(ids):
            self.listen(None)
        for request_id in ids:
            self.say(json.dumps({"id": request_id, **self.answers[request_id]}))

    def await_steer(self) -> None:
        while not self.prompts:
            self.listen(None)
        message = json.loads(self.prompts.pop(0))
        self.seen.add(message["uuid"])
        self.lifecycle(message["uuid"], "started")
        self.say("steered: " + message["message"]["content"][0]["text"])
        self.lifecycle(message["uuid"], "completed")

    def rate(self, per_second: float, end: str, size: int) -> None:
        """Until there are as many as `end` says, or a file of this name."""
        start = time.monotonic()
        n = 0
        while n < int(end) if is_number(end) else not os.path.exists(end):
            self.wait(start + n / per_second - time.monotonic())
            write(1, numbered(n, size))
            n += 1

    def echo(self, line: bytes) -> None:
        where = {"argv": self.argv, "env": ENVIRONMENT, "cwd": os.getcwd(), "pid": os.getpid()}
        self.emit({"type": "fake", **where, "stdin": line.decode("utf-8", "backslashreplace")})

    def end(self, last_words: str) -> None:
        if last_words:
            write(1, last_words.encode() + b"\n")
        else:
            self.say("last words")
        os._exit(0)

    # -- stdout

    def emit(self, message: dict[str, Any]) -> None:
        write(1, json.dumps(message | {"session_id": self.session_id}).encode() + b"\n")

    def say(self, text: str) -> None:
        content = [{"type": "text", "text": text}]
        self.emit(
            {"type": "assistant", "message": {"role": "assistant", "model": self.model, "content": content}}
        )

    def state(self, state: str) -> None:
        self.emit({"type": "system", "subtype": "session_state_changed", "state": state})

    def lifecycle(self, uuid: str, state: str) -> None:
        if uuid:
            self.emit({"type": "command_lifecycle", "command_uuid": uuid, "state": state})

    def init(self) -> dict[str, Any]:
        what = {"cwd": os.getcwd(), "model": self.model, "permissionMode": "bypassPermissions", "tools": []}
        return {
            "type": "system",
            "subtype": "init",
            **what,
            "claude_code_version": "0.0.0-fake",
            "pid": os.getpid(),
        }

    def result(self, uuid: str, end: str) -> dict[str, Any]:
        """The result line: the cost is cumulative over the process, all else is this turn's."""
        result = {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "num_turns": 1,
            "stop_reason": "end_turn",
            "total_cost_usd": 0.25 * self.turns,
            "usage": {"input_tokens": 10, "output_tokens": 5},
            "terminal_reason": "completed",
            "result": "done",
            "result_index": self.turns - 1,
        }
        if end == "cancelled":
            result |= {
                "subtype": "error_during_execution",
                "is_error": True,
                "terminal_reason": "aborted_streaming",
            }
            result |= {"stop_reason": None, "errors": ["[ede_diagnostic] interrupted"]}
        if uuid:
            result |= {"user_message_uuid": uuid, "user_message_uuids": [uuid]}
        return result | self.fields


def is_number(word: str) -> bool:
    return word.replace(".", "").isdigit()


def seconds_to(due: float | str) -> float:
    """Until a moment; where it is a file that must be there, until the next look."""
    if isinstance(due, str):
        return 0.0 if os.path.exists(due) else LOOK_AGAIN_S
    return due - time.monotonic()


def option(argv: list[str], name: str) -> str | None:
    for at, word in enumerate(argv):
        if word == name and at + 1 < len(argv):
            return argv[at + 1]
        if word.startswith(name + "="):
            return word.removeprefix(name + "=")
    return None


def numbered(n: int, size: int) -> bytes:
    """A message with its number and the monotonic time in ns, padded to `size` bytes with its newline."""
    head = (
        b'{"type":"assistant","n":%d,"t":%d,"message":{"role":"assistant","content":[{"type":"text","text":"'
    )
    line = head % (n, time.monotonic_ns())
    tail = b'"}]}}\n'
    return line + b"x" * (size - len(line) - len(tail)) + tail


def write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def flood(fd: int, size: int) -> None:
    for left in range(size, 0, -len(PADDING)):
        write(fd, PADDING[: min(left, len(PADDING)) - 1] + b"\n")


def start_child(words: list[str]) -> int:
    """Fork a child that sleeps and holds stdout; the pid of the one that stays."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        told = os.read(reader, 16)
        os.close(reader)
        if "daemon" in words:
            os.waitpid(pid, 0)
        return int(told)
    if "setsid" in words or "daemon" in words:
        os.setsid()
    if "daemon" in words and os.fork():
        os._exit(0)
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(writer, b"%d" % os.getpid())
    if "bare" in words:
        os.execve("/bin/sleep", ["sleep", "600"], {})
    second, seconds = (0.001, 600_000) if "quick" in words else (1, 600)
    for _ in range(1 if "brief" in words else seconds):
        time.sleep(second)
        if "chatty" in words:
            write(1, b'{"type":"fake","chatter":true}\n')
    os._exit(0)


def transcript(session_id: str) -> str:
    """Where the real CLI keeps a session; its presence decides between --session-id and --resume."""
    folder = "".join(c if c.isalnum() else "-" for c in os.getcwd())
    home = ENVIRONMENT.get("CLAUDE_CONFIG_DIR") or ENVIRONMENT.get("HOME", "/nonexistent") + "/.claude"
    return f"{home}/projects/{folder}/{session_id}.jsonl"


def open_session(agent: FakeAgent) -> None:
    """Create or resume as the real CLI does, with its refusals."""
    path = transcript(agent.session_id)
    if option(agent.argv, "--resume"):
        if not os.path.exists(path):
            text = f"No conversation found with session ID: {agent.session_id}"
            agent.emit(
                {"type": "result", "subtype": "error_during_execution", "is_error": True, "errors": [text]}
            )
            sys.exit(text)
    elif os.path.exists(path):
        sys.exit(f"Error: Session ID {agent.session_id} is already in use.")
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write('{"type":"user"}\n')


def main() -> None:
    argv = sys.argv[1:]
    flags = []
    while argv and argv[0] == "--fake":
        flags.append(argv[1])
        argv = argv[2:]
    if "--version" in argv:
        write(1, b"0.0.0-fake (Fake Agent)\n")
        return
    for flag in flags:
        if flag.startswith("exit "):
            sys.stderr.write("the fake agent was told to fail\n")
            sys.exit(int(flag.removeprefix("exit ")))
        if flag == "deaf":
            time.sleep(86400)
        if flag == "mute":
            while os.read(0, 65536):
                pass
            return
    agent = FakeAgent(argv)
    for flag in flags:
        if flag.startswith("plays "):
            with open(flag.removeprefix("plays ")) as file:
                agent.plays = json.load(file)
    open_session(agent)
    agent.run()


if __name__ == "__main__":
    main()
