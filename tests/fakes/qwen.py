#!/usr/bin/env python3
"""A stand-in for the agent's command line that misbehaves as it was measured, or worse.

The path of OPENAI_BASE_URL names the behaviour. It needs the standard library alone, so that it
starts in a few milliseconds.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

TOOLS = ["glob", "grep_search", "read_file", "structured_output"]
RAW = {"word": "yes", "end": "complete"}


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def write(data: str) -> None:
    sys.stdout.write(data)
    sys.stdout.flush()


def line(**event: Any) -> None:
    write(json.dumps(event) + "\n")


def init(**changes: Any) -> None:
    event = {
        "type": "system", "subtype": "init", "qwen_code_version": "0.24.4", "tools": TOOLS,
        "permission_mode": argument("--approval-mode"), "model": os.environ["OPENAI_MODEL"],
        "mcp_servers": [],
    }  # fmt: skip
    line(**{**event, **changes})
    # 0.24 says this at once, long before the model does.
    line(type="stream_event", event={"type": "goal_state", "goal": None})


def say(text: str) -> None:
    delta = {"type": "text_delta", "text": text}
    line(type="stream_event", event={"type": "content_block_delta", "index": 0, "delta": delta})


def result(**changes: Any) -> dict[str, Any]:
    return {
        "type": "result", "subtype": "success", "is_error": False, "result": json.dumps(RAW),
        "structured_result": RAW, "usage": {"input_tokens": 10, "output_tokens": 5},
        "permission_denials": [], **changes,
    }  # fmt: skip


def prompt() -> str:
    return sys.stdin.read()


def hang() -> NoReturn:
    while True:
        time.sleep(3_600)


# --- behaviours ---------------------------------------------------------------------------------


def good() -> None:
    init()
    say(prompt())
    line(**result())


def cut() -> None:
    """The end of a pipe that was closed too early: code 0, half a last line."""
    init()
    say("words")
    write(json.dumps(result())[:40])


def ends_without_result() -> None:
    init()
    say("words")
    sys.stderr.write("banner\nmax turns reached\n")
    sys.exit(int(os.environ["OPENAI_BASE_URL"].rpartition("-")[2]))


def api_error() -> None:
    init()
    say("[API Error: 500 broken]")
    error = {"message": "[API Error: 500 broken]"}
    line(type="result", subtype="error_during_execution", is_error=True, error=error)
    sys.exit(1)


def old_api_error() -> None:
    init()
    line(**result(result="[API Error: 401 key]", structured_result=None))


def retry() -> None:
    init()
    say("half of")
    data = {"attempt": 1, "maxRetries": 10, "delayMs": 60_000, "preserveText": True}
    line(type="system", subtype="retry", data=data)
    say("half of the text")
    line(**result())


def long_line() -> None:
    init()
    say("x" * 5_000_000)
    line(**result())


def endless() -> None:
    init()
    while True:
        say("words " * 10_000)


def drips() -> None:
    """Never silent for as long as a poll, and never done."""
    init()
    while True:
        say("word ")
        time.sleep(0.002)


def wrong_mode() -> None:
    init(permission_mode="yolo")
    hang()


def wrong_model() -> None:
    init(model="another")
    hang()


def extra_tool() -> None:
    init(tools=[*TOOLS, "write_file"])
    hang()


def mcp_server() -> None:
    init(mcp_servers=[{"name": "evil", "status": "connected"}])
    hang()


def silent() -> None:
    init()
    prompt()
    hang()


def stalls() -> None:
    init()
    say("a word")
    hang()


def deaf() -> None:
    """Never reads its prompt."""
    init()
    hang()


def mute() -> None:
    hang()


def stubborn() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    init()
    say("a word")
    hang()


def writes() -> None:
    init()
    (Path(argument("--add-dir")) / "a.py").write_text("A = 2\n")
    line(**result())


def adds() -> None:
    init()
    (Path(argument("--add-dir")) / "new.py").write_text("")
    line(**result())


def killed() -> None:
    init()
    os.kill(os.getpid(), signal.SIGKILL)


def usage() -> None:
    sys.stderr.write("Usage: qwen [options]\n" + "x" * 10_000 + "\nUnknown argument: nope\n")
    sys.exit(1)


def daemon() -> None:
    """Leave a grandchild in a session of its own, whose parent is gone."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writing, b"x")
            hang()
        os._exit(0)
    os.read(reading, 1)


def orphans() -> None:
    init()
    daemon()
    line(**result())


def orphans_and_hangs() -> None:
    init()
    daemon()
    say("a word")
    hang()


def family() -> None:
    """A child and a grandchild below it, in sessions of their own."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.write(writing, b"x")
        hang()
    os.read(reading, 1)
    init()
    say("a word")
    hang()


BEHAVIOURS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        good, cut, ends_without_result, api_error, old_api_error, retry, long_line, endless, drips,
        wrong_mode, wrong_model, extra_tool, mcp_server, silent, stalls, deaf, mute, stubborn,
        writes, adds, killed, usage, orphans, orphans_and_hangs, family,
    )
}  # fmt: skip

if __name__ == "__main__":
    BEHAVIOURS[os.environ["OPENAI_BASE_URL"].rpartition("/")[2].partition("-")[0]]()
