"""An agent that speaks ACP and says what it is told, in which mode, and what of its environment it sees."""

import json
import os
import sys

mode = "default"


def tell(**fields: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **fields}) + "\n")
    sys.stdout.flush()


for line in sys.stdin:
    message = json.loads(line)
    params, result = message.get("params", {}), {}
    match message.get("method"):
        case "initialize":
            result = {"protocolVersion": 1, "agentCapabilities": {}}
        case "session/new":
            models = {"currentModelId": "m", "availableModels": [{"modelId": "m", "name": "M"}]}
            result = {"sessionId": "c", "models": models}
        case "session/set_mode":
            mode = params["modeId"]
        case "session/prompt":
            seen = {name: value for name, value in os.environ.items() if name.startswith("MY_AGENT")}  # noqa: TID251
            text = f"{params['prompt'][0]['text']} {mode} {json.dumps(seen, sort_keys=True)}"
            update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
            tell(method="session/update", params={"sessionId": "c", "update": update})
            result = {"stopReason": "end_turn"}
        case _:
            pass
    if "id" in message:
        tell(id=message["id"], result=result)
