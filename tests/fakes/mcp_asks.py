"""An MCP server on stdin and stdout whose one tool, `ask`, asks the user for a name and tells the answer.

Run as a program; it needs nothing but Python.
"""

from __future__ import annotations

import json
import sys
from typing import Any

TOOL = {"name": "ask", "description": "asks the user", "inputSchema": {"type": "object"}}
FORM = {
    "message": "Who are you?",
    "requestedSchema": {
        "type": "object",
        "properties": {"name": {"type": "string", "description": "Your name"}},
        "required": ["name"],
    },
}


def main() -> None:
    call = None
    for line in sys.stdin:
        message = json.loads(line)
        match message.get("method"):
            case "initialize":
                version = message["params"]["protocolVersion"]
                info = {"name": "asks", "version": "1"}
                answer(
                    message, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
                )
            case "tools/list":
                answer(message, {"tools": [TOOL]})
            case "tools/call":
                call = message
                send({"jsonrpc": "2.0", "id": "question", "method": "elicitation/create", "params": FORM})
            case None if message.get("id") == "question" and call is not None:
                told = json.dumps(message.get("result") or message.get("error"))
                answer(call, {"content": [{"type": "text", "text": told}]})
            case _ if "id" in message and "method" in message:
                answer(message, {})
            case _:
                pass


def answer(request: dict[str, Any], result: dict[str, Any]) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
