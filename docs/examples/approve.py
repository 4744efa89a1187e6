"""Let an agent work, and decide about what it asks leave for: API_KEY=... python3 approve.py "Tidy up." """

import json
import os
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

AGENT = "claude-code"  # or codex: nothing below knows which
SERVER = os.environ.get("AGENTSRV_URL", "http://127.0.0.1:3000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('API_KEY')}", "Content-Type": "application/json"}


def call(path, body=None):
    """The server's answer, once it has one. What arrives twice is taken once, so it is safe to ask again."""
    while True:
        try:
            return urlopen(Request(SERVER + path, body and json.dumps(body).encode(), HEADERS), timeout=60)
        except (OSError, HTTPException) as problem:
            if isinstance(problem, HTTPError) and problem.code == 409:
                return problem  # a question that is settled: the stream says how
            if isinstance(problem, HTTPError) and problem.code < 500:
                sys.exit(why(problem))
            print(f"\n[{problem}; trying again]", file=sys.stderr)
            time.sleep(1)


def why(refused):
    """What the server says; something else may answer in its place."""
    with suppress(ValueError, KeyError, TypeError):
        return json.load(refused)["error"]
    return f"{SERVER} says {refused.code} {refused.reason}, and not as agentsrv does"


def events(job):
    """Every event of the job, once: a stream that breaks off is taken up where it broke."""
    seen = current = 0
    while True:
        with suppress(OSError, HTTPException, ValueError):  # a connection or a line that broke off
            for line in call(f"{job}/stream?format=acp&after={seen}"):
                name, _, value = line.decode().strip().partition(": ")
                if name == "id":
                    current = int(value)
                elif name == "data":
                    yield json.loads(value)
                    seen = current


def plain(text):
    """What would move the cursor, turn the order of reading around, or not be seen at all, stands as its code."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def decide(asked):
    """The answer of whoever sits at the terminal, and has seen all of what is asked: a title is cut."""
    if asked["kind"] == "question":
        answers = {each["id"]: input(f"\n{plain(each['question'])} ") for each in asked["input"]["questions"]}
        return {"decision": "allow", "updatedInput": {"answers": answers}}
    print("\n" + json.dumps(asked["input"], indent=2), end="")
    choices = {"always" if "remember" in o else "yn"[o["decision"] == "deny"]: o for o in asked["options"]}
    while (word := input(f"\n{plain(asked['title'])} [{'/'.join(choices)}] ")) not in choices:
        pass
    return choices[word]


def main(text):
    name = f"approve-{time.time_ns()}"
    prompt = {"session_id": name, "message_id": name, "agent": AGENT, "prompt": text}
    options = {"permission_mode": "ask", "format": "acp", "background": True}
    job = f"/generate/v2/jobs/{json.load(call('/generate/v2', prompt | options))['taskId']}"
    for event in events(job):
        match event:
            case {"update": {"sessionUpdate": "agent_message_chunk", "content": {"text": text}}}:
                print(plain(text), end="", flush=True)
            case {"type": "permission_request", "requestId": request_id}:
                waiting = json.load(call(f"{job}/permissions"))["permissions"]
                if any(each["requestId"] == request_id for each in waiting):  # not settled meanwhile
                    call(f"{job}/permissions/{request_id}", decide(event)).close()
            case {"done": True}:
                print()
                sys.exit(event.get("error"))


if len(sys.argv) != 2 or not os.environ.get("API_KEY"):
    sys.exit('API_KEY=... python3 approve.py "What the agent shall do"')
try:
    main(sys.argv[1])
except (EOFError, KeyboardInterrupt):
    sys.exit("\nThe agent works on, and waits for answers: agentsrv answer")
