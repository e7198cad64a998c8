"""Scripts for the stand-in of the CLI (`stand_in.js`), and how it is put in the CLI's place.

A script is a list of steps; one that is not ended by `exits`, `kills_itself` or `hangs` ends with
code 0 after its last step, as the CLI does. `{tree}`, `{cwd}`, `{home}`, `{here}` (the folder of
the script), `{model}`, `{session}` and `{prompt}` in any text become what they name.

What the lines look like was taken from qwen-code 0.24.4; `tests/contract/test_stand_in.py` holds
them against the real one.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from server.agents.installation import Installation

Step = dict[str, Any]
Script = list[Step]

NODE = Path(
    subprocess.run(
        ["node", "-p", "process.execPath"],
        env={"PATH": os.pathsep.join([os.environ["PATH"], f"{sys.prefix}/bin"])},
        check=True, capture_output=True, text=True,
    ).stdout.strip()
)  # fmt: skip
"""The program itself: the name on PATH may be a script that starts it, and takes its signals."""
SOURCE = Path(__file__).with_name("stand_in.js")
VERSION = "0.24.4"
RESULT_TOOL = "structured_output"
ANSWER = {"word": "yes", "end": "complete"}
GOAL = {"v": 2, "goal": None, "activity": "idle"}
NO_COST = {"input_tokens": 0, "output_tokens": 0}
COST = {"input_tokens": 1_000, "output_tokens": 50, "cache_read_input_tokens": 100,
        "total_tokens": 1_050}  # fmt: skip


def install(place: Path, *scripts: Script) -> Installation:
    """Put a stand-in with this script (the parts, joined) into a folder of its own."""
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SOURCE, place / "cli.js")
    steps = [step for script in scripts for step in script]
    (place / "script.json").write_text(json.dumps(steps), "utf-8")
    return Installation(NODE, place / "cli.js", VERSION)


# ── whole attempts ───────────────────────────────────────────────────────────────────────────────


def delivers(answer: Any = ANSWER, **changes: Any) -> Script:
    """From the last call to the last line; with `changes` of that line."""
    return [*called(RESULT_TOOL, answer, "Structured output accepted."), *ends(answer, **changes)]


def good() -> Script:
    """An attempt without a trait: it introduces itself, reads a file, delivers."""
    return [*begins(), *called("read_file", {"file_path": "{tree}/a.py"}, "A = 1\n"), *delivers()]


# ── the first and the last line ──────────────────────────────────────────────────────────────────


def begins(**changes: Any) -> Script:
    """The first line (`extra_tools` and `without_tools` change the tools that the flags leave), and
    the `goal_state` that follows it."""
    return [{"do": "init", **changes}, event({"type": "goal_state", "goal_state": GOAL})]


def ends(answer: Any = ANSWER, **changes: Any) -> Script:
    """The last line of a success."""
    return [line(
        type="result",
        **{
            "subtype": "success", "is_error": False, "duration_ms": 522, "duration_api_ms": 400,
            "num_turns": 1, "result": json.dumps(answer), "usage": COST, "permission_denials": [],
            "structured_result": answer, **changes,
        },
    )]  # fmt: skip


def fails(message: str, *, code: int = 1) -> Script:
    """The last line of a failure, and the end."""
    return [
        line(
            type="result", subtype="error_during_execution", is_error=True, duration_ms=216,
            duration_api_ms=0, num_turns=1, permission_denials=[],
            usage=NO_COST | {"cache_read_input_tokens": 0}, error={"message": message},
        ),
        *exits(code),
    ]  # fmt: skip


def api_error(text: str) -> Script:
    """As 0.24.4 tells of a refused call: as words, as a message, as a failure."""
    shown = f"[API Error: {text}]"
    return [*says(shown, usage=NO_COST), *fails(shown)]


def api_error_as_success(text: str) -> Script:
    """As 0.15.10 told of it: a success with code 0."""
    shown = f"[API Error: {text}]"
    last = ends(result=shown, usage=NO_COST)
    del last[0]["event"]["structured_result"]
    return [*says(shown), *last]


# ── what it says ─────────────────────────────────────────────────────────────────────────────────


def says(*pieces: str, usage: Any = None) -> Script:
    """A whole message of text, one delta for each piece."""
    return [*message_start(), *deltas(*pieces), *message_end("".join(pieces), usage=usage)]


def says_much(piece: str, times: int) -> Script:
    """A whole message of one delta of that length, as its line and its `assistant` line."""
    long = {"$repeat": piece, "times": times}
    return [
        *message_start(),
        event({"type": "content_block_delta", "index": 0,
               "delta": {"type": "text_delta", "text": long}}),
        *message_end(long),
    ]  # fmt: skip


def message_start() -> Script:
    message = {"id": str(uuid.uuid4()), "role": "assistant", "model": "{model}", "content": []}
    block = {"type": "text", "text": ""}
    return [
        event({"type": "message_start", "message": message}),
        event({"type": "content_block_start", "index": 0, "content_block": block}),
    ]


def deltas(*pieces: str) -> Script:
    return [
        event({"type": "content_block_delta", "index": 0,
               "delta": {"type": "text_delta", "text": piece}})
        for piece in pieces
    ]  # fmt: skip


def message_end(text: Any, *, usage: Any = None) -> Script:
    return [
        event({"type": "content_block_stop", "index": 0}),
        _assistant([{"type": "text", "text": text}], usage=usage or COST),
        event({"type": "message_stop"}),
    ]


def called(
    name: str, arguments: Any, reply: str, *, is_error: bool = False, text: str = "I look."
) -> Script:
    """A message with a tool call, and what the tool answered."""
    call_id = f"call_{uuid.uuid4().hex[:8]}"
    use = {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
    given = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
    answer = {"type": "tool_result", "tool_use_id": call_id, "is_error": is_error, "content": reply}
    return [
        *message_start(),
        *deltas(text),
        event({"type": "content_block_stop", "index": 0}),
        _assistant([{"type": "text", "text": text}], usage=NO_COST),
        event({"type": "content_block_start", "index": 0, "content_block": {**use, "input": {}}}),
        event({"type": "content_block_delta", "index": 0, "delta": given}),
        event({"type": "content_block_stop", "index": 0}),
        _assistant([use], usage=COST, stop_reason="tool_use"),
        event({"type": "message_stop"}),
        line(type="user", message={"role": "user", "content": [answer]}),
    ]


def denied(name: str, arguments: Any) -> Script:
    """A call that plan mode refuses; the last line lists it in `permission_denials`."""
    words = f'Qwen Code requires permission to use "{name}", but that permission was declined.'
    return called(name, arguments, words, is_error=True)


def denial(name: str, arguments: Any) -> dict[str, Any]:
    return {"tool_name": name, "tool_use_id": "call_1", "tool_input": arguments}


def retries(*, preserve_text: bool, **data: Any) -> Script:
    """The CLI asks the model again. Without `preserve_text` it says so twice (measured)."""
    told = {"reason": "retry", "discardedToolCalls": 0, "preserveText": preserve_text, **data}
    one = line(type="system", subtype="retry", data=told)
    kept = "; preserving delivered text" if preserve_text else ""
    words = f"Retrying provider attempt (0 buffered tool call(s) discarded{kept}).\n"
    return ([one] if preserve_text or data else [one, one]) + complains(words)


def event(of: Any) -> Step:
    """One `stream_event`."""
    return line(type="stream_event", event=of)


def line(**fields: Any) -> Step:
    """One line of JSON; the stand-in adds its ids."""
    return {"do": "line", "event": fields}


def _assistant(content: list[Any], *, usage: Any, stop_reason: str | None = None) -> Step:
    message = {
        "id": str(uuid.uuid4()), "type": "message", "role": "assistant", "model": "{model}",
        "content": content, "stop_reason": stop_reason, "usage": usage,
    }  # fmt: skip
    return line(type="assistant", message=message)


# ── what comes out besides ───────────────────────────────────────────────────────────────────────


def writes(data: bytes) -> Script:
    """These bytes on stdout, whatever they are; no line end is added."""
    return [{"do": "raw", "base64": base64.b64encode(data).decode("ascii")}]


def writes_much(piece: str, times: int) -> Script:
    return [{"do": "raw", "text": {"$repeat": piece, "times": times}}]


def cut_last_line() -> Script:
    """Half of a last line, and code 0: what a pipe leaves of a long answer."""
    return writes(b'{"type":"result","subtype":"success","is_error":false,"result":"{\\"word\\":')


def complains(text: str) -> Script:
    """On stderr."""
    return [{"do": "stderr", "text": text}]


def floods(text: str = "") -> Script:
    """Output without end: of this text, or (without) of events that nobody knows."""
    return [{"do": "flood", "text": text, "event": {"type": "news"}}]


# ── what it does ─────────────────────────────────────────────────────────────────────────────────


def waits(seconds: float) -> Script:
    """Silence. (The real CLI is silent for some 1.5 s before its first line.)"""
    return [{"do": "wait", "seconds": seconds}]


def waits_for(place: str) -> Script:
    """Silence until this file is there and not empty."""
    return [{"do": "await_file", "path": place}]


def hangs() -> Script:
    """Silence without end."""
    return [{"do": "hang"}]


def exits(code: int) -> Script:
    return [{"do": "exit", "code": code}]


def kills_itself(signal: str) -> Script:
    """Ended by a signal that nobody of podium sent: SIGKILL as by the kernel, SIGSEGV as by a
    defect, SIGTERM as by a person."""
    return [{"do": "kill", "signal": signal}]


def ignores_signals() -> Script:
    """From here on SIGTERM and SIGINT do nothing."""
    return [{"do": "ignore_signals"}]


def closes_stdout() -> Script:
    return [{"do": "close_stdout"}]


def puts(place: str, text: str) -> Script:
    """Writes a file, and says `done` or the error's code."""
    return [{"do": "put", "path": place, "text": text}]


def enters_worktree(name: str = "evil") -> Script:
    """What the `enter_worktree` of plan mode leaves in a repository: a branch and a folder."""
    return [
        *puts(f"{{tree}}/.git/refs/heads/worktree-{name}", "0" * 40 + "\n"),
        *puts(f"{{tree}}/.qwen/worktrees/{name}/a.py", "A = 2\n"),
    ]


def reads(place: str) -> Script:
    """Says what is in a file, or the error's code."""
    return [{"do": "read", "path": place}]


def shows_environment() -> Script:
    """Says its whole environment as JSON."""
    return [{"do": "environment"}]


def shows_arguments() -> Script:
    """Says `argv` and `prompt` as JSON."""
    return [{"do": "arguments"}]


def leaves_a_worker(pid_file: str = "{here}/worker.pid") -> Script:
    """A worker in a session of its own, forked twice, that ignores SIGTERM: it survives its
    launcher. Goes on once it lives and its pid is in the file."""
    return [{"do": "orphan", "pid_file": pid_file}]


def has_children(count: int) -> Script:
    return [{"do": "children", "count": count}]


def takes_memory(mib: int) -> Script:
    """Takes and fills so much memory, and says `done` or the error."""
    return [{"do": "allocate", "mib": mib}]


def spins() -> Script:
    """Burns its processor without end, deaf to SIGTERM."""
    return [{"do": "spin"}]


def requests(body: Any = None, **how: Any) -> Script:
    """A call of the model's endpoint. `how`: `method`, `route` (`/chat/completions`), `url` (in
    place of the endpoint's), `token` (in place of its own), `headers`.

    What came back is said as text in JSON: `status`, `body`, `whole`, or `error`.
    """
    return [{"do": "request", "body": body, **how}]


def chat(**changes: Any) -> dict[str, Any]:
    """The body of a request as the CLI makes it, small."""
    tools = ["read_file", "glob", "grep_search", RESULT_TOOL]
    return {
        "model": "{model}",
        "messages": [{"role": "system", "content": "You are a test."},
                     {"role": "user", "content": "Say yes."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 777,
        "tools": [
            {"type": "function",
             "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
            for name in tools
        ],
        **changes,
    }  # fmt: skip
