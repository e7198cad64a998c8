"""The table of broken models and agents: each ends within its clock, with its own reason, leaves no
process, changes no file, and the next attempt of the same runner delivers."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.responses import Response

from protocol.codec import encode_frame
from protocol.frames import FlowRunStepDelta, FlowRunStepNotice, FlowRunStepTool, ToolStatus
from server.agents import invocation
from server.agents.attempt import SPARE_REQUESTS
from server.agents.containment.limits import WATCH_SECONDS
from server.agents.containment.process import POLL_SECONDS
from server.agents.invocation import Door, Places
from server.agents.reasons import KINDS, Again, FailureReason
from server.agents.relay.chat import HOLD_SECONDS
from server.demo.app import Behaviour
from server.demo.wire import ChatRequest, Turn
from server.ports import AgentResult, Clock
from server.world import SystemClock
from tests.contract.test_qwen_cli import GOOD, Bench, bench
from tests.contract.test_stand_in import standing_in
from tests.fakes import stand_in
from tests.fakes.model import (
    FakeModel,
    calls,
    compresses,
    cuts_connection,
    cuts_json,
    drops_front,
    ends_early,
    fails_inside,
    falls_silent,
    garbles,
    never_meets_the_schema,
    no_tools,
    only_comments,
    rate_limits,
    redirects,
    refuses,
    says,
    says_in_one_piece,
    serving,
    silent,
    stops_at_limit,
    talks_for_ever,
    too_long,
    wanders,
    writes_with_everything,
)
from tests.fakes.scripted import until
from tests.fakes.stand_in import Script

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
    notices: int = 0
    """How many a person sees besides the end itself."""


BEGINS = stand_in.begins()
SAYS = stand_in.says("I read ", "the files.")
ASKS = stand_in.requests(stand_in.chat())
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
        None, notices=1,
    ),
    "a retry that begins anew": Row(
        [
            *BEGINS, *stand_in.says("So I "), *stand_in.retries(preserve_text=False),
            *stand_in.says("So I "), *stand_in.delivers(),
        ],
        None, notices=1,
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
    "silence in the middle": Row([*BEGINS, *ASKS, *SAYS, *stand_in.hangs()], "idle_timeout",
                                 idle=1),
    "a wait that is announced": Row(
        [
            *BEGINS, *ASKS,
            *stand_in.retries(preserve_text=False, attempt=1, maxRetries=10, delayMs=60_000),
            *stand_in.hangs(),
        ],
        "idle_timeout",
        idle=1,
        notices=1,
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


@asynccontextmanager
async def standing(
    place: Path, script: Script, model: FakeModel | None = None, clock: Clock | None = None
) -> AsyncIterator[Bench]:
    """The stand-in with a runner that goes on from attempt to attempt, before a good model."""
    async with serving((model or FakeModel(GOOD)).app) as url:
        here = standing_in(place, script, url=url, clock=clock)
        async with here.open():
            yield here


def failed_by_name(result: AgentResult, reason: str) -> None:
    """It ended with this reason, is repeated as the table says, and names one way out."""
    assert result.failure is not None
    assert result.failure.reason == reason
    assert result.raw is None
    again, hint = KINDS[FailureReason(reason)]
    assert result.failure.retryable == (again is Again.RETRY)
    assert result.failure.repairable == (again is Again.REPAIR)
    assert result.failure.message.count(hint) <= 1
    assert result.failure.message.endswith(")")


def notices(here: Bench) -> list[str]:
    return [frame.code for frame in here.frames if isinstance(frame, FlowRunStepNotice)]


@pytest.mark.parametrize("name", ROWS)
async def test_an_agent_that(tmp_path: Path, name: str) -> None:
    row = ROWS[name]
    async with standing(tmp_path, row.script) as here:
        result = await under(here, row)
        assert here.processes() == []
        for frame in here.frames:
            encode_frame(frame)
        if row.reason is None:
            assert result.failure is None
            assert result.raw == stand_in.ANSWER
        else:
            failed_by_name(result, row.reason)
        assert len(notices(here)) == row.notices
        await still_healthy(here)


async def still_healthy(here: Bench) -> None:
    """The same runner goes on as if nothing had been: the next agent asks, and delivers."""
    script = [*BEGINS, *ASKS, *stand_in.delivers()]
    stand_in.install(here.place / "stand-in", script)
    here.frames.clear()
    result = await here.run()
    assert result.failure is None
    assert result.raw == stand_in.ANSWER
    assert answered(here)["status"] == 200
    assert notices(here) == []


async def test_a_tool_is_not_left_running_by_an_agent_that_died(tmp_path: Path) -> None:
    """Its last frame says that it failed, and why."""
    begun = stand_in.called("read_file", {"file_path": "{tree}/a.py"}, "never")[:-1]
    async with standing(tmp_path, [*BEGINS, *begun, *stand_in.kills_itself("SIGKILL")]) as here:
        await here.run()
    running, last = [frame for frame in here.frames if isinstance(frame, FlowRunStepTool)]
    assert (running.status, last.status) == (ToolStatus.RUNNING, ToolStatus.FAILED)
    assert running.call_id == last.call_id
    assert (last.result or "").startswith("killed: ")


async def test_a_tool_is_not_left_running_by_a_cancelled_attempt(tmp_path: Path) -> None:
    begun = stand_in.called("read_file", {"file_path": "{tree}/a.py"}, "never")[:-1]
    async with standing(tmp_path, [*BEGINS, *begun, *stand_in.hangs()]) as here:
        running = asyncio.create_task(here.run())
        await until(lambda: any(isinstance(frame, FlowRunStepTool) for frame in here.frames))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert isinstance(here.frames[-1], FlowRunStepTool)
    assert here.frames[-1].status is ToolStatus.FAILED


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
    async with standing(tmp_path, row.script) as here:
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
    installed = stand_in.install(tmp_path / "stand-in")
    door = Door("url", "token")
    whole = invocation.environment(installed, here.order(), Places(tmp_path), door)
    # bash says in `_` what it started; dash does not.
    assert json.loads(environment).keys() - {"_"} == whole.keys()
    assert set(os.environ) - whole.keys(), "there is something to keep out"
    assert "a very private question" in arguments.partition('"prompt"')[2]
    assert "a very private question" not in arguments.partition('"prompt"')[0]


async def test_a_worker_forked_twice_does_not_survive(tmp_path: Path) -> None:
    here = standing_in(tmp_path, BEGINS, stand_in.leaves_a_worker(), stand_in.delivers())
    result = await here.run()
    assert result.failure is None
    worker = int((tmp_path / "stand-in" / "worker.pid").read_text())
    assert not Path(f"/proc/{worker}").exists()
    assert here.processes() == []


# ── at the relay, with an agent that asks for what it must not have ──────────────────────────────

SHELL = [{"type": "function", "function": {"name": "run_shell_command", "parameters": {}}}]
UNLIMITED = {key: value for key, value in stand_in.chat().items() if key != "max_tokens"}
HUGE = stand_in.chat(messages=[{"role": "user", "content": {"$repeat": "x", "times": 9_000_000}}])
REFUSED_AT_ONCE: dict[str, tuple[Script, str]] = {
    "another tool": (stand_in.requests(stand_in.chat(tools=SHELL)), "unexpected_tools"),
    "another model": (stand_in.requests(stand_in.chat(model="other")), "unexpected_request"),
    "no limit": (stand_in.requests(UNLIMITED), "unexpected_request"),
    "no stream": (stand_in.requests(stand_in.chat(stream=False)), "unexpected_request"),
    "too much": (stand_in.requests(HUGE), "request_too_large"),
}
"""What it asks for, and the reason that ends its attempt."""
ANSWERED_NO: dict[str, tuple[Script, int]] = {
    "another route": (stand_in.requests(stand_in.chat(), route="/embeddings"), 404),
    "the list of models": (stand_in.requests(method="GET", route="/models"), 404),
    "another token": (stand_in.requests(stand_in.chat(), token="guessed"), 401),
    "no token": (stand_in.requests(stand_in.chat(), token=""), 401),
}
"""What it asks for, and the status that it gets; then it may go on."""


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
async def test_an_attempt_ends_that_asks_for(tmp_path: Path, name: str) -> None:
    """Nothing of it reaches the endpoint."""
    script, reason = REFUSED_AT_ONCE[name]
    model = FakeModel(GOOD)
    async with standing(tmp_path, [*BEGINS, *script, *stand_in.delivers()], model) as here:
        failed_by_name(await here.run(), reason)
        assert model.requests == []
        assert here.processes() == []
        await still_healthy(here)


@pytest.mark.parametrize("name", ANSWERED_NO)
async def test_the_relay_does_not_give(tmp_path: Path, name: str) -> None:
    script, status = ANSWERED_NO[name]
    model = FakeModel(GOOD)
    async with standing(tmp_path, [*BEGINS, *script, *stand_in.delivers()], model) as here:
        result = await here.run()
        assert answered(here)["status"] == status
        assert model.requests == []
        assert result.failure is None
        await still_healthy(here)


async def test_an_agent_that_asks_for_ever_has_a_budget(tmp_path: Path) -> None:
    model = FakeModel(GOOD)
    async with standing(tmp_path, [*BEGINS, *ASKS * 20, *stand_in.delivers()], model) as here:
        failed_by_name(await here.run(turns=2), "budget_exhausted")
        assert len(model.requests) == 2 + SPARE_REQUESTS
        await still_healthy(here)


def answered(here: Bench) -> dict[str, Any]:
    """What the agent says it got."""
    texts = [frame.text for frame in here.frames if isinstance(frame, FlowRunStepDelta)]
    found: dict[str, Any] = json.loads(next(text for text in texts if text.startswith("{")))
    return found


# ── at the relay, with servers as they are met ───────────────────────────────────────────────────

TURN = Turn("one two three four five six seven eight nine")
LONG = stand_in.chat(
    messages=[{"role": "user", "content": "def value(number):\n    return number + 1\n" * 500}]
)
CALL = ("structured_output", {"word": "x" * 400, "end": "complete"})
TRIES = 3
"""Of the relay, where a server may be busy only now."""


class Server(NamedTuple):
    """What the endpoint does, and what podium makes of it."""

    behaviour: Behaviour
    reason: str
    tries: int = 1
    first_byte: float = PLENTY
    idle: float = PLENTY
    retry_after: float | None = None
    pauses: list[float] | None = None
    """Seconds between its tries, where they are given."""


SERVERS: dict[str, Server] = {
    # refusals
    **{f"HTTP {status}": Server(refuses(status), "endpoint_refused_key") for status in (401, 403)},
    "HTTP 404": Server(refuses(404), "endpoint_not_found"),
    "HTTP 422": Server(refuses(422), "api_error"),
    **{f"HTTP {status}": Server(refuses(status), "endpoint_overloaded", TRIES)
       for status in (408, 500, 503)},
    "HTTP 429": Server(refuses(429), "rate_limited", TRIES),
    "no credit": Server(refuses(429, "insufficient_quota"), "quota_spent"),
    **{f"{name}: too long": Server(too_long(name), "context_exceeded")
       for name in ("llama.cpp", "vllm", "vllm-old", "ollama")},
    **{f"{name}: no tools": Server(no_tools(name), "no_tool_calls")
       for name in ("vllm", "vllm-old", "ollama")},
    # 429 with a Retry-After
    "now": Server(rate_limits("0"), "rate_limited", TRIES, pauses=[0, 0], retry_after=0),
    "in 7 s": Server(rate_limits("7"), "rate_limited", TRIES, pauses=[7, 7], retry_after=7),
    "in 31 s": Server(rate_limits("31"), "rate_limited", retry_after=31),
    "tomorrow": Server(rate_limits("86400"), "rate_limited", retry_after=86_400),
    "at a time": Server(rate_limits("Sat, 31 Jan 2026 12:05:00 GMT"), "rate_limited",
                        retry_after=300),
    "at a time that is over": Server(rate_limits("Sat, 31 Jan 2026 11:00:00 GMT"), "rate_limited",
                                     TRIES, pauses=[0, 0], retry_after=0),
    "soon": Server(rate_limits("soon"), "rate_limited", TRIES),
    "never": Server(rate_limits("-1"), "rate_limited", TRIES),
    "in ages": Server(rate_limits("9" * 400), "rate_limited", retry_after=86_400),
    # elsewhere
    "a redirect": Server(redirects("http://127.0.0.1:1/v1"), "endpoint_redirects"),
    "another redirect": Server(redirects("/elsewhere", 301), "endpoint_redirects"),
    "a redirect to nowhere": Server(redirects("::::"), "endpoint_redirects"),
    # broken answers
    "a broken event": Server(garbles(), "stream_malformed"),
    "a cut connection": Server(cuts_connection(TURN, after=3), "stream_cut"),
    "an early end": Server(ends_early(TURN, after=3), "stream_cut"),
    "an error in the middle": Server(fails_inside(TURN, after=3, message="lost"),
                                     "endpoint_error"),
    "gzip that nobody asked for": Server(compresses(TURN), "endpoint_no_chat"),
    "an event of 10 MB": Server(says_in_one_piece(10_000_000), "event_too_large"),
    "no end": Server(talks_for_ever(), "answer_too_long"),
    "nothing": Server(says(""), "empty_answer"),
    "a cut text": Server(stops_at_limit("So I"), "answer_cut"),
    "a cut result": Server(cuts_json(*CALL), "answer_cut"),
    "a dropped front": Server(drops_front(TURN, tokens=300), "context_cut"),
    # silence
    "silence": Server(silent(), "first_byte_timeout", first_byte=1),
    "comments only": Server(only_comments(), "first_byte_timeout", first_byte=1),
    "silence in the middle": Server(falls_silent(TURN, after=3), "idle_timeout", idle=1),
}  # fmt: skip


class Skipping(SystemClock):
    """The relay's pauses are over at once, and time is that much further; all else is real."""

    REAL = (POLL_SECONDS, WATCH_SECONDS, HOLD_SECONDS)

    def __init__(self) -> None:
        self.skipped: list[float] = []
        self._ahead = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 31, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    async def sleep(self, seconds: float) -> None:
        if seconds in self.REAL:
            await super().sleep(seconds)
        else:
            self.skipped.append(seconds)
            self._ahead += seconds


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_with(tmp_path: Path, name: str) -> None:
    """Its own reason, within its clock, and said once: by the notice that it is asked again, or by
    the end of the attempt alone."""
    row, clock = SERVERS[name], Skipping()
    now = row.behaviour

    async def answer(request: ChatRequest) -> Response:
        return await now(request)

    model = FakeModel(answer)
    script = [*BEGINS, *stand_in.requests(LONG), *stand_in.delivers()]
    async with standing(tmp_path, script, model, clock) as here:
        result = await here.run(first_byte=row.first_byte, idle=row.idle)
        failed_by_name(result, row.reason)
        assert here.processes() == []
        assert len(model.requests) == row.tries
        assert notices(here) == ([row.reason] if row.tries > 1 else [])
        assert result.failure is not None
        assert result.failure.retry_after == row.retry_after
        assert httpx.URL(here.endpoint.base_url).netloc.decode() in result.failure.message
        assert len(clock.skipped) == row.tries - 1
        assert row.pauses in (None, clock.skipped)
        now = GOOD
        await still_healthy(here)


async def test_nobody_there(tmp_path: Path) -> None:
    script = [*BEGINS, *ASKS, *stand_in.delivers()]
    here = standing_in(tmp_path, script, clock=Skipping())
    result = await here.run()
    failed_by_name(result, "endpoint_unreachable")
    assert notices(here) == ["endpoint_unreachable"]
    assert here.processes() == []


async def test_a_server_that_recovers_is_a_notice_and_no_failure(tmp_path: Path) -> None:
    """The control of the table: the same refusal, once."""
    model, clock = FakeModel(rate_limits("7"), GOOD), Skipping()
    script = [*BEGINS, *ASKS, *stand_in.delivers()]
    async with standing(tmp_path, script, model, clock) as here:
        result = await here.run()
    assert result.failure is None
    assert (notices(here), clock.skipped) == (["rate_limited"], [7])


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
    "talks in one piece of 10 MB": (says_in_one_piece(10_000_000), "event_too_large", {}),
    "falls silent": (falls_silent(TURN, after=3), "idle_timeout", {"idle": 1}),
}


@pytest.mark.real_agent
@pytest.mark.parametrize("name", REAL)
async def test_a_model_that(tmp_path: Path, name: str) -> None:
    behaviour, reason, limits = REAL[name]
    async with bench(tmp_path, behaviour) as (here, _):
        result = await here.run(**limits)
        assert here.processes() == []
    failed_by_name(result, reason)
    assert (here.tree / "a.py").read_text() == "A = 1\n"
    for frame in here.frames:
        encode_frame(frame)
