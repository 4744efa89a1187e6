"""Give an agent a task, watch it, and decide about what it wants to do: API_KEY=... python3 approve.py "Tidy up."

Change AGENT to "codex" and the rest stays as it is. Needs Python 3.11 and nothing else.
"""

import json
import os
import sys
import time
import uuid
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

AGENT = "claude-code"
SERVER = os.environ.get("AGENTSRV_URL", "http://127.0.0.1:3000")
ALWAYS = {"decision": "allow", "remember": "session"}


def call(path, body=None, after=0):
    """The answer, as soon as it can be had. What is sent twice has the same id, and is taken once."""
    headers = {"Authorization": f"Bearer {os.environ['API_KEY']}", "Last-Event-ID": str(after)}
    headers["Content-Type"] = "application/json"
    data = None if body is None else json.dumps(body).encode()
    while True:
        try:
            return urlopen(Request(SERVER + path, data, headers), timeout=60)
        except (OSError, HTTPException) as problem:
            if isinstance(problem, HTTPError) and problem.code < 500:
                raise
            print(f"[{problem}; trying again]", file=sys.stderr)
            time.sleep(1)


def events(job):
    """What happens in the job, each thing once. A broken connection is made again and goes on where it broke."""
    last = current = 0
    while True:
        try:
            with call(f"{job}/stream?format=acp", after=last) as stream:
                for line in stream:
                    field, _, value = line.decode().rstrip("\n").partition(": ")
                    if field == "id":
                        current = int(value)
                    elif field == "data":
                        yield json.loads(value)
                        last = current
        except (ConnectionError, TimeoutError, HTTPException) as problem:
            print(f"\n[{problem}]", file=sys.stderr)


def decide(question):
    """Ask whoever sits at the terminal."""
    if question["kind"] == "question":
        asked = question["input"]["questions"]
        return {"decision": "allow", "updatedInput": {"answers": {q["id"]: input(f"{q['question']} ") for q in asked}}}
    choices = {"y": {"decision": "allow"}, "n": {"decision": "deny"}}
    if ALWAYS in question["options"]:
        choices["always"] = ALWAYS
    while (word := input(f"\n{question['title']} [{'/'.join(choices)}] ")) not in choices:
        pass
    return choices[word]


def main():
    prompt = {"session_id": f"approve-{uuid.uuid4()}", "agent": AGENT, "prompt": sys.argv[1], "permission_mode": "ask"}
    how = {"format": "acp", "background": True, "message_id": str(uuid.uuid4())}
    job = f"/generate/v2/jobs/{json.load(call('/generate/v2', prompt | how))['taskId']}"
    for event in events(job):
        match event:
            case {"update": {"sessionUpdate": "agent_message_chunk", "content": {"text": text}}}:
                print(text, end="", flush=True)
            case {"type": "permission_request", "requestId": request_id}:
                call(f"{job}/permissions/{request_id}", decide(event)).close()
            case {"done": True}:
                sys.exit(event.get("error"))


if __name__ == "__main__":
    try:
        main()
    except HTTPError as refusal:
        sys.exit(json.load(refusal)["error"])
