"""A stand-in for the agent's CLI that writes at a steady rate. It takes the agent's arguments and
ends with a valid empty result.

Environment is the agent's own, so what it writes comes with the model's name: `rate-1000-for-3` are
tool calls, each with the time it was written, `text-200-for-30` pieces of one text.
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


def tool(number: int) -> dict[str, object]:
    """Distinct tool calls are never merged, so this many frames reach the log."""
    call = {"type": "tool_use", "id": str(number), "name": "glob", "input": {"at": time.time()}}
    return {"type": "assistant", "message": {"content": [call]}}


def text(number: int) -> dict[str, object]:
    end = "\n" if number % 10 == 0 else " "
    delta = {"type": "text_delta", "text": f"and {number} words,{end}"}
    return {"type": "stream_event", "event": {"type": "content_block_delta", "delta": delta}}


KINDS = {"rate": tool, "text": text}


def main() -> None:
    model = os.environ["OPENAI_MODEL"]
    kind, rate, _, seconds = model.split("-")
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
        line(KINDS[kind](number))
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
