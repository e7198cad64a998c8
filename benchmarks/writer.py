"""A stand-in for the agent's CLI that writes at a steady rate, each text with the time it was
written. It takes the agent's arguments and ends with a valid empty result.

Environment is the agent's own, so the rate comes with the model's name: `rate-1000-for-3`.
"""

import json
import os
import sys
import time

TOOLS = ["glob", "grep_search", "read_file", "structured_output"]
RESULT = {
    "summary": "Nothing was found.",
    "findings": [],
    "cleared": [],
    "deferred": [],
    "negative": True,
    "searched": ["everything"],
    "end": "complete",
}


def line(event: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    model = os.environ["OPENAI_MODEL"]
    _, rate, _, seconds = model.split("-")
    sys.stdin.read()
    line(
        {
            "type": "system",
            "subtype": "init",
            "qwen_code_version": "0.24.4",
            "permission_mode": "plan",
            "model": model,
            "tools": TOOLS,
            "mcp_servers": [],
        }
    )
    began, number = time.monotonic(), 0
    while time.monotonic() - began < float(seconds):
        number += 1
        # Distinct tool calls are never merged, so this many frames reach the log.
        call = {"type": "tool_use", "id": str(number), "name": "glob", "input": {"at": time.time()}}
        line({"type": "assistant", "message": {"content": [call]}})
        time.sleep(max(0.0, began + number / float(rate) - time.monotonic()))
    line(
        {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "result": "done",
            "structured_result": RESULT,
            "usage": {},
            "permission_denials": [],
        }
    )


main()
