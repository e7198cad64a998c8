"""The stand-in for the CLI: its own traits, and that its lines are those of the real one."""

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from server.agents import attempt, installation, invocation
from server.agents.installation import Installation
from server.agents.introduction import Expected
from server.agents.invocation import Door, Places
from server.agents.outcome import Delivered, outcome
from server.agents.profile import PINNED
from server.agents.qwen_runner import Guards, QwenRunner
from server.agents.stream_json import StreamParser
from server.demo.wire import Turn
from server.ports import AgentFailure, Clock
from server.world import SystemClock
from tests.contract.test_qwen_cli import SCHEMA, TOOLS, Bench
from tests.fakes import stand_in
from tests.fakes.model import FakeModel, calls, cuts_connection, ends_early, refuses, serving
from tests.fakes.stand_in import Script

pytestmark = pytest.mark.timeout(60)

NOBODY = "http://127.0.0.1:1/v1"


def standing_in(
    place: Path,
    *scripts: Script,
    url: str = NOBODY,
    contained: bool = False,
    clock: Clock | None = None,
) -> Bench:
    """The real runner with the stand-in; by itself it is where it can do harm."""
    here = Bench(place, url)
    here.runner = QwenRunner(
        place / "data",
        clock=clock or SystemClock(),
        guards=Guards(contained=contained, required=contained),
        keep_attempts=True,
        installed=stand_in.install(place / "stand-in", *scripts),
    )
    return here


# ── by itself ────────────────────────────────────────────────────────────────────────────────────


def flags(**changes: str | None) -> list[str]:
    given = {
        "--approval-mode": "plan", "--output-format": "stream-json",
        "--exclude-tools": ",".join(PINNED.excluded), "--session-id": str(uuid.uuid4()),
        **changes,
    }  # fmt: skip
    return [word for name, value in given.items() for word in (name, value or "")]


@asynccontextmanager
async def process(
    place: Path,
    *scripts: Script,
    arguments: list[str] | None = None,
    stdout: Any = asyncio.subprocess.PIPE,
    key: str = "k",
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The stand-in without a runner; killed at the end."""
    installed: Installation = stand_in.install(place, *scripts)
    started = await asyncio.create_subprocess_exec(
        str(installed.node), str(installed.cli), *(flags() if arguments is None else arguments),
        cwd=place, env={"HOME": str(place), "OPENAI_API_KEY": key, "OPENAI_MODEL": "m"},
        stdin=asyncio.subprocess.PIPE, stdout=stdout, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert started.stdin is not None
    started.stdin.write(b"the prompt")
    started.stdin.close()
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


async def test_it_takes_the_flags_and_the_prompt(tmp_path: Path) -> None:
    script = [*stand_in.begins(), *stand_in.shows_arguments()]
    async with process(tmp_path, script) as started:
        out, err = await started.communicate()
    assert started.returncode == 0
    init, *_, shown = events(out)
    assert sorted(init["tools"]) == ["glob", "grep_search", "read_file"]
    assert json.loads(shown["event"]["delta"]["text"])["prompt"] == "the prompt"
    assert len(err) < 200


@pytest.mark.parametrize("change", [
    {"--frobnicate": "1"}, {"--session-id": "not-a-uuid"}, {"--approval-mode": "none"},
])  # fmt: skip
async def test_flags_that_it_does_not_know_cost_a_page_of_usage(
    tmp_path: Path, change: dict[str, str]
) -> None:
    async with process(tmp_path, stand_in.good(), arguments=flags(**change)) as started:
        out, err = await started.communicate()
    assert (started.returncode, out) == (1, b"")
    assert len(err) > 8_000


async def test_without_a_key_it_says_so(tmp_path: Path) -> None:
    async with process(tmp_path, stand_in.good(), key="") as started:
        out, _ = await started.communicate()
    assert started.returncode == 1
    (only,) = events(out)
    assert only["is_error"]


LONG = [*stand_in.begins(), *stand_in.says_much("x", 1_600_000), *stand_in.delivers()]


async def test_a_pipe_loses_its_tail_at_exit_and_a_file_does_not(tmp_path: Path) -> None:
    """Why the runner takes stdout from a file: code 0 both times."""
    script = [*LONG, *stand_in.exits(0)]
    read, write = os.pipe()
    async with process(tmp_path / "pipe", script, stdout=write) as started:
        os.close(write)
        # Nobody reads while it lives: the pipe is full, the rest waits in its memory.
        assert await started.wait() == 0
    with os.fdopen(read, "rb") as pipe:
        cut = pipe.read()
    assert len(cut) < 1_000_000
    assert not cut.endswith(b"\n")
    place = tmp_path / "out"
    with place.open("wb") as file:
        async with process(tmp_path / "file", script, stdout=file) as started:
            assert await started.wait() == 0
    assert events(place.read_bytes())[-1]["type"] == "result"


async def test_deltas_are_flushed_one_by_one(tmp_path: Path) -> None:
    script = [
        *stand_in.begins(), *stand_in.message_start(), *stand_in.deltas("one"),
        *stand_in.waits_for("{here}/go"), *stand_in.deltas("two"),
    ]  # fmt: skip
    async with process(tmp_path, script) as started:
        assert started.stdout is not None
        while b'"one"' not in await started.stdout.readline():
            pass
        (tmp_path / "go").write_text("on")
        assert b'"two"' in await started.stdout.read()


@pytest.mark.parametrize(
    ("name", "code", "types"),
    [
        ("SIGTERM", 130, ["assistant", "stream_event"]),
        ("SIGINT", 130, ["assistant", "stream_event"]),
        ("SIGHUP", -signal.SIGHUP, []),
        ("SIGKILL", -signal.SIGKILL, []),
    ],
)
async def test_a_signal_ends_it_as_measured(
    tmp_path: Path, name: str, code: int, types: list[str]
) -> None:
    script = [*stand_in.begins(), *stand_in.deltas("So far"), *stand_in.hangs()]
    async with process(tmp_path, script) as started:
        assert started.stdout is not None
        while b"So far" not in await started.stdout.readline():
            pass
        started.send_signal(signal.Signals[name])
        rest = events(await started.stdout.read())
        assert await started.wait() == code
    assert [event["type"] for event in rest] == types
    if rest:
        assert rest[0]["message"]["content"] == [{"type": "text", "text": "So far"}]


async def test_a_closed_stdout_is_ignored(tmp_path: Path) -> None:
    read, write = os.pipe()
    script = [*stand_in.begins(), *stand_in.says("on and on"), *stand_in.puts("{here}/done", "x")]
    os.close(read)
    async with process(tmp_path, script, stdout=write) as started:
        os.close(write)
        assert await started.wait() == 0
    assert (tmp_path / "done").read_text() == "x"


async def test_it_leaves_a_worker_behind(tmp_path: Path) -> None:
    async with process(tmp_path, stand_in.leaves_a_worker(), stdout=None) as started:
        assert await started.wait() == 0
    worker = int((tmp_path / "worker.pid").read_text())
    os.kill(worker, signal.SIGTERM)
    assert Path(f"/proc/{worker}").exists()
    assert os.getsid(worker) != os.getsid(0), "in a session of its own"
    os.kill(worker, signal.SIGKILL)


# ── beside the real one ──────────────────────────────────────────────────────────────────────────

FREE = ("input", "tool_input", "structured_result", "slash_commands", "agents", "tools")
"""Fields whose content is not the CLI's own."""


def form(value: Any) -> Any:
    """JSON without its content: the keys, and the kind of every value."""
    if isinstance(value, dict):
        return {key: "free" if key in FREE else form(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [form(item) for item in value]
    return type(value).__name__


def forms(data: bytes) -> list[Any]:
    """The lines of an attempt in order: their types, and their form."""
    found = []
    for event in events(data):
        inner = event.get("event", {})
        kinds = [event["type"], event.get("subtype"), inner.get("type")]
        kinds.append(inner.get("delta", {}).get("type"))
        found.append((kinds, form(event)))
    return found


BAD = {"word": "y", "end": "complete"}
TARGET = {"file_path": "{tree}/b.py", "content": "x"}
LOOKS: Script = [
    *stand_in.begins(),
    *stand_in.called("read_file", {"file_path": "{tree}/a.py"}, "A = 1\n"),
    *stand_in.denied("write_file", TARGET),
    *stand_in.called("structured_output", BAD, "params/word must NOT have …", is_error=True),
    *stand_in.delivers(permission_denials=[stand_in.denial("write_file", TARGET)]),
]
RETRIES: Script = [
    *stand_in.begins(),
    *stand_in.message_start(),
    *stand_in.deltas("So I begin to ", "say something "),
    *stand_in.retries(preserve_text=True),
    *stand_in.called("read_file", {"file_path": "{tree}/a.py"}, "A = 1\n")[2:],
    *stand_in.message_start(),
    *stand_in.deltas("So I begin to ", "say something "),
    *stand_in.message_end("So I begin to say something ", usage=stand_in.NO_COST),
    *stand_in.retries(preserve_text=False),
    *stand_in.delivers(),
]
SAYS = Turn("So I begin to say something here")


class Alone(NamedTuple):
    """An attempt without a runner, which would end it at the relay's first trouble."""

    data: bytes
    code: int
    parser: StreamParser
    outcome: Delivered | AgentFailure


async def alone(here: Bench, installed: Installation) -> Alone:
    """The command of an attempt, run to its own end with the bench's endpoint."""
    order, places = here.order(), Places(here.place / "alone")
    await asyncio.to_thread(attempt._lay_out, installed, places, order)
    door = Door(here.endpoint.base_url, "k")
    with places.stdout.open("wb") as out, places.stderr.open("wb") as err:
        started = await asyncio.create_subprocess_exec(
            *invocation.command(installed, order, places),
            cwd=places.cwd, env=invocation.environment(installed, order, places, door),
            stdin=asyncio.subprocess.PIPE, stdout=out, stderr=err,
        )  # fmt: skip
        try:
            await started.communicate(order.prompt.user.encode())
        finally:
            if started.returncode is None:
                started.kill()
                await started.wait()
    data, code = places.stdout.read_bytes(), started.returncode or 0
    expected = Expected(version=installed.version, model=order.endpoint.model)
    parser = StreamParser(order.ref, expected=expected, tree=str(order.tree))
    parser.feed(data)
    came = outcome(parser, exit_code=code, stderr=places.stderr.read_text())
    return Alone(data, code, parser, came)


@pytest.mark.real_agent
@pytest.mark.timeout(90)
@pytest.mark.parametrize("case", ["looks", "retries", "refused"])
async def test_its_lines_are_those_of_the_real_one(tmp_path: Path, case: str) -> None:
    read = calls("read_file", {"file_path": str(tmp_path / "real" / "tree" / "a.py")})
    good = calls("structured_output", stand_in.ANSWER)
    behaviours, script = {
        "looks": (
            [
                read,
                calls("write_file", {"file_path": str(tmp_path / "b.py"), "content": "x"}),
                calls("structured_output", BAD),
                good,
            ],
            LOOKS,
        ),
        "retries": (
            [cuts_connection(SAYS, after=3), read, ends_early(SAYS, after=3), good],
            RETRIES,
        ),
        "refused": ([refuses(401)], [*stand_in.begins(), *stand_in.api_error("401 no")]),
    }[case]
    (tmp_path / "real").mkdir()
    (tmp_path / "double").mkdir()
    async with serving(FakeModel(*behaviours).app) as url:
        here = Bench(tmp_path / "real", url)
        real = await alone(here, await asyncio.to_thread(installation.find))
    double = stand_in.install(tmp_path / "double" / "stand-in", script)
    stood_in = await alone(Bench(tmp_path / "double", NOBODY), double)
    assert forms(stood_in.data) == forms(real.data)
    assert stood_in.code == real.code
    assert stood_in.parser.init is not None
    assert real.parser.init is not None
    assert list(stood_in.parser.init.tools) == list(real.parser.init.tools) == TOOLS
    assert stood_in.parser.usage.requests == real.parser.usage.requests
    assert kind(stood_in.outcome) == kind(real.outcome)


def kind(came: Delivered | AgentFailure) -> object:
    return came.reason if isinstance(came, AgentFailure) else came.raw


async def test_without_a_trait_it_delivers(tmp_path: Path) -> None:
    here = standing_in(tmp_path, stand_in.good())
    result = await here.run()
    assert result.failure is None
    assert result.raw == stand_in.ANSWER
    assert set(SCHEMA["properties"]) == set(stand_in.ANSWER)  # type: ignore[call-overload]
    assert (here.tree / "a.py").read_text() == "A = 1\n"
