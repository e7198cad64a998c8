"""The table of broken models and agents: each ends within its clock, with its own reason, leaves no
process, changes no file, and the next attempt of the same runner delivers."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from protocol.codec import encode_frame
from protocol.frames import FlowRunStepDelta, FlowRunStepNotice, FlowRunStepTool, ToolStatus
from server.agents.invocation import ALLOWED_TOOLS
from server.agents.reasons import KINDS, Again, FailureReason
from server.agents.relay_pass import Pass
from server.demo.app import Behaviour
from server.demo.wire import Turn
from server.ports import AgentResult, ModelEndpoint
from tests.contract.test_qwen_cli import GOOD, Bench, bench
from tests.contract.test_stand_in import standing_in
from tests.fakes import stand_in
from tests.fakes.model import (
    FakeModel,
    calls,
    compresses,
    drops_front,
    fails_inside,
    never_meets_the_schema,
    no_tools,
    rate_limits,
    redirects,
    says,
    says_in_one_piece,
    serving,
    stops_at_limit,
    too_long,
    wanders,
    writes_with_everything,
)
from tests.fakes.stand_in import Script
from tests.server.relays import MODEL, question, relaying

pytestmark = pytest.mark.timeout(90)

PLENTY = 60.0


class Row(NamedTuple):
    """What the agent does, and what podium makes of it."""

    script: Script
    reason: str | None
    """None: it delivers."""
    first_byte: float = PLENTY
    idle: float = PLENTY
    total: float = PLENTY


BEGINS = stand_in.begins()
SAYS = stand_in.says("I read ", "the files.")
BAD = {"word": "y", "end": "complete"}
REFUSED = stand_in.called("structured_output", BAD, "params/word: too short", is_error=True)
LOOP = "Loop detection halted the run (consecutive_identical_tool_calls: …)."
TARGET = {"file_path": "{tree}/b.py", "content": "x"}
UNEXPECTED = stand_in.called("write_file", TARGET, "Successfully created b.py.")
PADDED = {"type": "news", "padding": "x" * 8_000}

ROWS: dict[str, Row] = {
    # what is odd and yet delivers
    "slow to start": Row([*stand_in.waits(1.5), *stand_in.good()], None),
    "a line of 10 MB": Row(
        [*BEGINS, *stand_in.says_much("x", 10_000_000), *stand_in.delivers()], None
    ),
    "a retry that keeps the text": Row(
        [
            *BEGINS, *stand_in.message_start(), *stand_in.deltas("So I "),
            *stand_in.retries(preserve_text=True), *stand_in.deltas("So I "),
            *stand_in.message_end("So I So I "), *stand_in.delivers(),
        ],
        None,
    ),
    "a retry that begins anew": Row(
        [
            *BEGINS, *stand_in.says("So I "), *stand_in.retries(preserve_text=False),
            *stand_in.says("So I "), *stand_in.delivers(),
        ],
        None,
    ),
    "half characters": Row([*BEGINS, *stand_in.says("a\ud800", "\udfffb"), *stand_in.delivers()],
                           None),
    "unknown events": Row(
        [*BEGINS, stand_in.line(type="news", of=[1]), *stand_in.delivers()], None
    ),
    "a refused write": Row(
        [
            *BEGINS, *stand_in.denied("write_file", TARGET),
            *stand_in.delivers(permission_denials=[stand_in.denial("write_file", TARGET)]),
        ],
        None,
    ),
    "an answer that meets the schema in the end": Row(
        [*BEGINS, *REFUSED, *stand_in.delivers()], None
    ),
    # the process
    "a flag that it does not know": Row(
        [*stand_in.complains("usage " * 1_700 + "\nUnknown argument: x\n"), *stand_in.exits(1)],
        "usage_error",
    ),
    "killed by the kernel": Row([*BEGINS, *SAYS, *stand_in.kills_itself("SIGKILL")], "killed"),
    "a defect of its own": Row([*BEGINS, *stand_in.kills_itself("SIGSEGV")], "crashed"),
    "ended by a person": Row([*BEGINS, *SAYS, *stand_in.kills_itself("SIGTERM")], "interrupted"),
    "code 130": Row([*BEGINS, *SAYS, *stand_in.exits(130)], "interrupted"),
    "code 1 with a stack": Row(
        [*BEGINS, *stand_in.complains("TypeError: x\n    at f\n"), *stand_in.exits(1)],
        "agent_error",
    ),
    "code 53": Row([*BEGINS, *SAYS, *stand_in.exits(53)], "turns_exhausted"),
    "code 55": Row([*BEGINS, *SAYS, *stand_in.exits(55)], "budget_exhausted"),
    "a success with code 53": Row([*stand_in.good(), *stand_in.exits(53)], "turns_exhausted"),
    # the first line
    "another mode": Row(stand_in.begins(permission_mode="yolo") + stand_in.delivers(),
                        "wrong_mode"),
    "another model": Row(stand_in.begins(model="other") + stand_in.delivers(), "wrong_model"),
    "another version": Row(stand_in.begins(qwen_code_version="0.15.10") + stand_in.delivers(),
                           "wrong_version"),
    "a tool too many": Row(stand_in.begins(extra_tools=["write_file"]) + stand_in.delivers(),
                           "unexpected_tools"),
    "a tool too few": Row(stand_in.begins(without_tools=["glob"]) + stand_in.delivers(),
                          "missing_tools"),
    "a tool server": Row(
        stand_in.begins(mcp_servers=[{"name": "x", "status": "connected"}]) + stand_in.delivers(),
        "mcp_servers",
    ),
    "no first line": Row([*SAYS, *stand_in.delivers()], "no_introduction"),
    "nothing at all": Row(stand_in.exits(0), "no_introduction"),
    "another program": Row(stand_in.writes(b"Welcome!\n"), "no_introduction"),
    "a second first line": Row(
        [*BEGINS, *stand_in.begins(permission_mode="yolo"), *stand_in.delivers()], "wrong_mode"
    ),
    "a tool that was not offered runs": Row([*BEGINS, *UNEXPECTED, *stand_in.delivers()],
                                            "unexpected_tools"),
    # the output
    "a cut last line": Row([*BEGINS, *SAYS, *stand_in.cut_last_line()], "cut_output"),
    "no last line": Row([*BEGINS, *SAYS], "no_result"),
    "stdout closed too early": Row(
        [*BEGINS, *stand_in.closes_stdout(), *stand_in.exits(0)], "no_result"
    ),
    "a line that is no JSON": Row([*BEGINS, *stand_in.writes(b"oops\n"), *stand_in.delivers()],
                                  "garbled_output"),
    "broken UTF-8": Row(
        [*BEGINS, *stand_in.writes(b'{"type":"x\xff\xfe"}\n'), *stand_in.delivers()],
        "garbled_output",
    ),
    "zeros": Row([*BEGINS, *stand_in.writes(b"\0" * 4_096 + b"\n"), *stand_in.delivers()],
                 "garbled_output"),
    "words after the result": Row([*stand_in.good(), *SAYS], "garbled_output"),
    "a line of 17 MB": Row(
        [*BEGINS, *stand_in.says_much("x", 17_000_000), *stand_in.delivers()], "output_limit"
    ),
    "a line without end": Row([*BEGINS, *stand_in.floods("x" * 65_536)], "output_limit"),
    "lines without end": Row([*BEGINS, {"do": "flood", "event": PADDED}], "output_limit"),
    # the answer
    "plain text": Row(
        [*BEGINS, *SAYS, *stand_in.fails("Model produced plain text instead of …")], "plain_text"
    ),
    "plain text as a success": Row(
        [*BEGINS, *SAYS, *stand_in.ends(structured_result=None)], "plain_text"
    ),
    "an empty result": Row([*BEGINS, *stand_in.delivers({})], "empty_result"),
    "a list as the result": Row([*BEGINS, *stand_in.delivers([1])], "empty_result"),
    "the same call again": Row([*BEGINS, *SAYS, *stand_in.fails(LOOP)], "loop"),
    "the same wrong answer again": Row([*BEGINS, *REFUSED, *stand_in.fails(LOOP)],
                                       "schema_never_met"),
    "only wrong answers": Row([*BEGINS, *REFUSED, *REFUSED, *stand_in.exits(53)],
                              "schema_never_met"),
    # the endpoint, as the CLI tells of it
    "HTTP 401": Row([*BEGINS, *stand_in.api_error("401 no")], "endpoint_refused_key"),
    "HTTP 404": Row([*BEGINS, *stand_in.api_error("404 no")], "endpoint_not_found"),
    "HTTP 429": Row([*BEGINS, *stand_in.api_error("429 slow down")], "rate_limited"),
    "HTTP 500": Row([*BEGINS, *stand_in.api_error("500 no")], "endpoint_overloaded"),
    "HTTP 500 as a success": Row([*BEGINS, *stand_in.api_error_as_success("500 no")],
                                 "endpoint_overloaded"),
    "a broken stream": Row(
        [*BEGINS, *stand_in.api_error("terminated (cause: UND_ERR_SOCKET: other side closed)")],
        "stream_cut",
    ),
    # the clocks
    "silence from the start": Row(stand_in.hangs(), "first_byte_timeout", first_byte=1),
    "silence of the model": Row([*BEGINS[:1], *stand_in.hangs()], "first_byte_timeout",
                                first_byte=1),
    "silence in the middle": Row([*BEGINS, *SAYS, *stand_in.hangs()], "idle_timeout", idle=1),
    "a wait that is announced": Row(
        [
            *BEGINS,
            *stand_in.retries(preserve_text=False, attempt=1, maxRetries=10, delayMs=60_000),
            *stand_in.hangs(),
        ],
        "idle_timeout",
        idle=1,
    ),
    "no end": Row([*BEGINS, *SAYS, *stand_in.hangs()], "total_timeout", total=1),
    "deaf and busy": Row([*BEGINS, *stand_in.ignores_signals(), *stand_in.spins()],
                         "total_timeout", total=1),
    "with children": Row([*BEGINS, *stand_in.has_children(5), *stand_in.hangs()], "total_timeout",
                         total=1),
    # the copy
    "a worktree in the copy": Row(
        [*BEGINS, *stand_in.enters_worktree(), *stand_in.delivers()], "read_only_unproven"
    ),
    "a write that is not told": Row(
        [*BEGINS, *stand_in.puts("{tree}/a.py", "A = 2\n"), *stand_in.delivers()],
        "read_only_unproven",
    ),
}  # fmt: skip


async def under(here: Bench, row: Row) -> AgentResult:
    """One attempt under the clocks of the row."""
    return await here.run(first_byte=row.first_byte, idle=row.idle, seconds=row.total)


@pytest.mark.parametrize("name", ROWS)
async def test_an_agent_that(tmp_path: Path, name: str) -> None:
    row = ROWS[name]
    here = standing_in(tmp_path, row.script)
    result = await under(here, row)
    assert here.processes() == []
    for frame in here.frames:
        encode_frame(frame)
    if row.reason is None:
        assert result.failure is None
        assert result.raw == stand_in.ANSWER
    else:
        assert result.failure is not None
        assert result.failure.reason == row.reason
        assert result.raw is None
        again = KINDS[FailureReason(row.reason)].again
        assert result.failure.retryable == (again is Again.RETRY)
        assert result.failure.repairable == (again is Again.REPAIR)
    await still_healthy(here)


async def still_healthy(here: Bench) -> None:
    """The same runner goes on as if nothing had been."""
    stand_in.install(here.place / "stand-in", stand_in.good())
    result = await here.run()
    assert result.failure is None
    assert result.raw == stand_in.ANSWER


FIRST_LINES = [name for name, row in ROWS.items() if row.reason in (
    "wrong_mode", "wrong_model", "wrong_version", "unexpected_tools", "missing_tools",
    "mcp_servers", "no_introduction",
) and "runs" not in name and "second" not in name]  # fmt: skip


@pytest.mark.parametrize("name", FIRST_LINES)
async def test_no_word_is_taken_from_an_agent_that_is_not_the_one_asked_for(
    tmp_path: Path, name: str
) -> None:
    here = standing_in(tmp_path, ROWS[name].script)
    await here.run()
    words = [f for f in here.frames if isinstance(f, FlowRunStepDelta) and f.channel != "stderr"]
    assert words == []
    assert not any(isinstance(frame, FlowRunStepTool) for frame in here.frames)


async def test_a_refused_write_is_counted_and_shown(tmp_path: Path) -> None:
    here = standing_in(tmp_path, ROWS["a refused write"].script)
    result = await here.run()
    assert result.denied_tools == 1
    assert result.receipt is not None
    assert result.receipt.denials == ["write_file"]
    shown = [frame.status for frame in here.frames if isinstance(frame, FlowRunStepTool)]
    assert ToolStatus.DENIED in shown


async def test_an_announced_wait_is_one_notice_with_its_cause(tmp_path: Path) -> None:
    row = ROWS["a wait that is announced"]
    here = standing_in(tmp_path, row.script)
    await under(here, row)
    (notice,) = [frame for frame in here.frames if isinstance(frame, FlowRunStepNotice)]
    assert notice.code == "model_retry"
    assert "60 s (try 1 of 10)" in notice.message


async def test_the_environment_is_closed_and_the_prompt_is_no_argument(tmp_path: Path) -> None:
    script = [
        *BEGINS, *stand_in.shows_environment(), *stand_in.shows_arguments(), *stand_in.delivers(),
    ]  # fmt: skip
    here = standing_in(tmp_path, script)
    await here.run("a very private question")
    environment, arguments = [
        frame.text for frame in here.frames if isinstance(frame, FlowRunStepDelta)
    ][:2]
    assert set(os.environ) - {"HOME", "PATH", "LANG", "TERM", "NO_PROXY"} != set()
    assert not [
        name for name in os.environ
        if f'"{name}":' in environment and name not in {"HOME", "PATH", "LANG", "TERM", "NO_PROXY"}
    ]  # fmt: skip
    assert "a very private question" in arguments.partition('"prompt"')[2]
    assert "a very private question" not in arguments.partition('"prompt"')[0]


@pytest.mark.xfail(strict=True, reason="only a guardian or a namespace holds a worker forked twice")
async def test_a_worker_forked_twice_does_not_survive(tmp_path: Path) -> None:
    here = standing_in(tmp_path, BEGINS, stand_in.leaves_a_worker(), stand_in.delivers())
    try:
        await here.run()
        assert here.processes() == []
    finally:
        for pid in await asyncio.to_thread(here.processes):
            os.kill(pid, signal.SIGKILL)


# ── through the relay, with an agent that asks for what it must not have ─────────────────────────

SHELL = [{"type": "function", "function": {"name": "run_shell_command", "parameters": {}}}]
HOSTILE: dict[str, tuple[Script, str | None, int]] = {
    "another tool": (
        stand_in.requests(stand_in.chat(tools=SHELL)), "unexpected_tools", 403,
    ),
    "another model": (
        stand_in.requests(stand_in.chat(model="other")), "unexpected_request", 403,
    ),
    "no limit": (
        stand_in.requests({k: v for k, v in stand_in.chat().items() if k != "max_tokens"}),
        "unexpected_request", 400,
    ),
    "no stream": (
        stand_in.requests(stand_in.chat(stream=False)), "unexpected_request", 400,
    ),
    "another route": (
        stand_in.requests(stand_in.chat(), route="/embeddings"), None, 404,
    ),
    "the list of models": (stand_in.requests(method="GET", route="/models"), None, 404),
    "another token": (stand_in.requests(stand_in.chat(), token="guessed"), None, 401),
    "no token": (stand_in.requests(stand_in.chat(), token=""), None, 401),
}  # fmt: skip
"""What it asks for, the reason that ends the attempt, and the status that it gets at once."""


@pytest.mark.parametrize("name", HOSTILE)
async def test_the_relay_refuses_an_agent_that_asks_for(tmp_path: Path, name: str) -> None:
    """A real process asks; nothing of it reaches the endpoint."""
    script, reason, status = HOSTILE[name]
    model = FakeModel(GOOD)
    async with serving(model.app) as url, behind_a_relay(tmp_path, url, script) as (here, given):
        await here.run()
        assert answered(here)["status"] == status
        assert model.requests == []
        assert (given.failure.reason if given.failure else None) == reason
        if reason is None and status == 404:
            assert len(given.surprises) == 1


async def test_the_relay_lets_a_good_request_through(tmp_path: Path) -> None:
    """The control: the same process, asking as the CLI does, gets its answer."""
    model = FakeModel(GOOD)
    script = stand_in.requests(stand_in.chat())
    async with serving(model.app) as url, behind_a_relay(tmp_path, url, script) as (here, given):
        await here.run()
        assert answered(here)["status"] == 200
        assert len(model.requests) == 1
        assert (given.failure, given.surprises) == (None, [])


@asynccontextmanager
async def behind_a_relay(
    place: Path, url: str, script: Script
) -> AsyncIterator[tuple[Bench, Pass]]:
    async with relaying(place, url, tools=ALLOWED_TOOLS, answer_tokens=777, requests=3) as relayed:
        given = relayed.given
        here = standing_in(place, BEGINS, script, stand_in.delivers(), url=relayed.relay.url)
        here.endpoint = ModelEndpoint(
            name="relay", base_url=relayed.relay.url, api_key=given.token, model=MODEL
        )
        yield here, given


def answered(here: Bench) -> dict[str, Any]:
    """What the agent says it got."""
    texts = [frame.text for frame in here.frames if isinstance(frame, FlowRunStepDelta)]
    found: dict[str, Any] = json.loads(next(text for text in texts if text.startswith("{")))
    return found


# ── servers, in their own words, at the relay ────────────────────────────────────────────────────

TURN = Turn("one two three four five six seven eight nine")
LONG = "def value(number):\n    return number + 1\n" * 500
SERVERS: dict[str, tuple[Behaviour, str]] = {
    **{f"{name}: too long": (too_long(name), "context_exceeded")
       for name in ("llama.cpp", "vllm", "vllm-old", "ollama")},
    **{f"{name}: no tools": (no_tools(name), "no_tool_calls")
       for name in ("vllm", "vllm-old", "ollama")},
    **{f"429, Retry-After {value!r}": (rate_limits(value), "rate_limited")
       for value in ("0", "86400", "Sat, 31 Jan 2026 12:00:00 GMT", "soon", "-1", "9" * 400)},
    "a redirect": (redirects("http://127.0.0.1:1/v1"), "endpoint_redirects"),
    "another redirect": (redirects("/elsewhere", 301), "endpoint_redirects"),
    "an error in the middle": (fails_inside(TURN, after=3, message="lost"), "endpoint_error"),
    "a cut text": (stops_at_limit("So I"), "answer_cut"),
    "a dropped front": (drops_front(TURN, tokens=300), "context_cut"),
    "gzip that nobody asked for": (compresses(TURN), "stream_malformed"),
    "an event of 10 MB": (says_in_one_piece(10_000_000), "stream_malformed"),
    "nothing": (says(""), "empty_answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_with(tmp_path: Path, name: str) -> None:
    behaviour, reason = SERVERS[name]
    model = FakeModel(behaviour)
    body = question(messages=[{"role": "user", "content": LONG}])
    async with (
        serving(model.app) as url,
        relaying(tmp_path, url, answer_bytes=100_000_000) as relayed,
    ):
        assert (await relayed.fails(body)).reason == reason


# ── the real CLI ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real_agent
async def test_a_model_that_writes_with_everything_changes_nothing(tmp_path: Path) -> None:
    writers = writes_with_everything(str(tmp_path / "tree"))
    async with bench(tmp_path, *writers, GOOD) as (here, _):
        result = await here.run(turns=40, tool_calls=40)
    assert result.failure is None
    assert [path.name for path in here.tree.iterdir()] == ["a.py"]
    assert (here.tree / "a.py").read_text() == "A = 1\n"
    shown = {
        frame.name: frame.status for frame in here.frames if isinstance(frame, FlowRunStepTool)
    }
    assert shown.pop("structured_output") is ToolStatus.OK
    assert len(shown) == len(writers)
    assert set(shown.values()) <= {ToolStatus.FAILED, ToolStatus.DENIED}


REAL: dict[str, tuple[Behaviour, str, dict[str, Any]]] = {
    "repeats one call": (calls("grep_search", {"pattern": "A"}), "loop", {}),
    "repeats one wrong answer": (calls("structured_output", BAD), "schema_never_met", {}),
    "never meets the schema": (never_meets_the_schema(), "schema_never_met", {"turns": 4}),
    "wanders": (wanders(), "turns_exhausted", {"turns": 3}),
    "wanders with few calls": (wanders(), "budget_exhausted", {"tool_calls": 2}),
    "has too small a window": (too_long("llama.cpp"), "context_exceeded", {}),
    "talks in one piece of 10 MB": (says_in_one_piece(10_000_000), "plain_text", {}),
}


@pytest.mark.real_agent
@pytest.mark.parametrize("name", REAL)
async def test_a_model_that(tmp_path: Path, name: str) -> None:
    behaviour, reason, limits = REAL[name]
    async with bench(tmp_path, behaviour) as (here, _):
        result = await here.run(**limits)
        assert here.processes() == []
    assert result.failure is not None
    assert result.failure.reason == reason
    assert (here.tree / "a.py").read_text() == "A = 1\n"
    for frame in here.frames:
        encode_frame(frame)
