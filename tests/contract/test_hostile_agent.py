"""An agent program that is wholly hostile: what it does to its output, its input and its reports.

The runner is the real one; the program takes the CLI's place and begins as the CLI does.
"""

import asyncio
import platform
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from protocol.codec import encode, encode_frame
from protocol.resources import Containment, Proof, SelfTest
from server.agents.containment import seccomp
from server.agents.installation import Installation
from server.agents.qwen_runner import Guards, QwenRunner
from server.ports import AgentResult
from server.world import SystemClock
from tests.contract.test_qwen_cli import Bench
from tests.fakes import stand_in

pytestmark = pytest.mark.timeout(60)

BEGINS = """
const fs = require('node:fs');
const flag = (name) => process.argv[process.argv.indexOf(`--${name}`) + 1];
const line = (event) => fs.writeSync(1, JSON.stringify(event) + '\\n');
const init = (changes) => line({
  type: 'system', subtype: 'init', mcp_servers: [], model: process.env.OPENAI_MODEL,
  tools: ['grep_search', 'glob', 'read_file', 'structured_output'], permission_mode: 'plan',
  qwen_code_version: '0.24.4', ...changes,
});
const say = (text) => line({
  type: 'stream_event',
  event: { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } },
});
const result = (changes) => line({
  type: 'result', subtype: 'success', is_error: false, result: '{}', permission_denials: [],
  structured_result: { word: 'yes', end: 'complete' }, ...changes,
});
"""
REPORTS = """
const body = JSON.stringify({ write: WORD, network: WORD, processes: WORD });
fetch(new URL('/podium/self-test', process.env.OPENAI_BASE_URL), {
  method: 'POST', body, headers: { authorization: `Bearer ${process.env.OPENAI_API_KEY}` },
}).then((answer) => { init(); say(String(answer.status)); result(); });
"""


def hostile(place: Path, script: str, *, contained: bool = True) -> Bench:
    here = Bench(place, "http://127.0.0.1:1/v1")
    program = place / "program"
    program.mkdir()
    (program / "cli.js").write_text(BEGINS + script)
    here.runner = QwenRunner(
        place / "data",
        clock=SystemClock(),
        guards=Guards(contained=contained, required=contained),
        keep_attempts=True,
        installed=Installation(stand_in.NODE, program / "cli.js", stand_in.VERSION),
    )
    return here


# --- what it does not read ----------------------------------------------------------------------


@pytest.mark.parametrize("contained", [True, False])
async def test_an_agent_that_reads_no_prompt_stops_no_clock(
    tmp_path: Path, contained: bool
) -> None:
    """A pipe holds 64 KiB: who waited for the rest to be taken would wait for ever."""
    here = hostile(tmp_path, "init(); setInterval(() => {}, 1000)", contained=contained)
    async with asyncio.timeout(30):
        result = await here.run("x" * 1_000_000, seconds=1)
    assert result.failure is not None
    assert result.failure.reason == "total_timeout"
    assert result.receipt is not None
    assert here.processes() == []


# --- what it does to files of ours --------------------------------------------------------------

RUNS_AS_ITS_OWNER = """
init(); result();
for (const [stream, mode] of [[1, 0o4777], [2, 0o6777]]) {
  try { fs.fchmodSync(stream, mode); } catch {}
  try { fs.chmodSync(`/proc/self/fd/${stream}`, mode); } catch {}
}
"""


def modes(here: Bench) -> set[int]:
    """Of the output files of the attempt, but for who may read and write."""
    files = (here.place / "data" / "attempts").rglob("std*")
    return {stat.S_IMODE(place.stat().st_mode) & 0o7111 for place in files}


@pytest.fixture
def no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "program", lambda _machine: None)


async def test_no_output_becomes_a_program_that_runs_as_the_server(tmp_path: Path) -> None:
    here = hostile(tmp_path, RUNS_AS_ITS_OWNER)
    assert (await here.run()).failure is None
    assert await asyncio.to_thread(modes, here) == {0}


@pytest.mark.usefixtures("no_filter")
async def test_without_the_filter_it_would_as_long_as_it_runs(tmp_path: Path) -> None:
    here = hostile(tmp_path, RUNS_AS_ITS_OWNER + "fs.writeFileSync('/podium/home/done', '');"
                             "setInterval(() => {}, 1000)")  # fmt: skip
    async with here.open():
        running = asyncio.create_task(here.runner.run(here.order(), here.emit))
        async with asyncio.timeout(30):
            while not any(mode & 0o4000 for mode in await asyncio.to_thread(modes, here)):
                assert not running.done()
        running.cancel()
        await asyncio.wait([running])


async def test_an_output_that_nobody_may_open_is_read_to_its_end(tmp_path: Path) -> None:
    """Nor does a lease on it, which makes each opening wait for 45 s, hold anything up."""
    script = """
      init(); say('a'); fs.fchmodSync(1, 0); fs.fchmodSync(2, 0); say('b'); result();
    """
    result = await hostile(tmp_path, script).run()
    assert result.failure is None
    assert result.text == "ab"


KEEPS_MEMORY = """
const taken = require('node:child_process').spawnSync('/usr/bin/perl', ['-e', `
  my $name = "x"; my $f = syscall(NUMBER, $name, 0);
  print $f < 0 ? "refused" : "taken";
`]);
init(); say(taken.error ? 'no perl' : String(taken.stdout)); result();
"""


async def kept(place: Path) -> str:
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    script = KEEPS_MEMORY.replace("NUMBER", str(seccomp.DENIED["memfd_create"][column]))
    return (await hostile(place, script).run()).text


async def test_it_takes_no_memory_that_no_limit_counts(tmp_path: Path) -> None:
    """What lies in a memfd is no process's as long as nobody maps it: 4.8 GB of it passed a limit
    of 2."""
    assert await kept(tmp_path) == "refused"


@pytest.mark.usefixtures("no_filter")
async def test_without_the_filter_it_takes_it(tmp_path: Path) -> None:
    assert await kept(tmp_path) == "taken"


# --- what it says of itself ---------------------------------------------------------------------


@pytest.mark.parametrize("word", ["failed_as_it_must", "succeeded"])
async def test_an_uncontained_agent_puts_no_test_into_its_receipt(
    tmp_path: Path, word: str
) -> None:
    """It has its token and may well post a report; but nothing was tried before it began."""
    here = hostile(tmp_path, REPORTS.replace("WORD", f"'{word}'"), contained=False)
    result = await here.run()
    receipt = result.receipt
    assert receipt is not None
    assert receipt.contained is Containment.NONE
    probes = {receipt.write_probe, receipt.network_probe, receipt.process_probe}
    assert probes == {SelfTest.NOT_RUN}
    assert receipt.proven is Proof.NO


async def test_a_contained_agent_reports_too_late(tmp_path: Path) -> None:
    here = hostile(tmp_path, REPORTS.replace("WORD", "'succeeded'"))
    result = await here.run()
    assert result.text == "409"
    assert result.receipt is not None
    assert result.receipt.proven is Proof.YES


class Much(NamedTuple):
    script: str
    proven: Proof


MUCH = {
    "version": Much("init({ qwen_code_version: 'x'.repeat(8e6) })", Proof.NO),
    "mode": Much("init({ permission_mode: 'x'.repeat(8e6) })", Proof.NO),
    "tools": Much("init({ tools: Array(5e5).fill(0).map((_, n) => `tool${n}`) })", Proof.NO),
    "denials": Much(
        "init(); result({ permission_denials: Array(1e5).fill({ tool_name: 'x'.repeat(80) }) })",
        Proof.YES,
    ),
    "call": Much(
        "init(); line({ type: 'assistant', message: { content: [{ type: 'tool_use', input: {},"
        " id: 'x'.repeat(4e6), name: 'y'.repeat(4e6) }] } }); result()",
        Proof.YES,
    ),
    "retry": Much(
        "init(); fs.writeSync(1, `{\"type\":\"system\",\"subtype\":\"retry\",\"data\":"
        "{\"delayMs\":1e300,\"attempt\":${'9'.repeat(200)}}}\\n`); result()",
        Proof.YES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MUCH)
async def test_what_it_says_of_itself_is_bounded(tmp_path: Path, what: str) -> None:
    """A receipt is in a frame, in the store, in every report and on every page."""
    here = hostile(tmp_path, f"{MUCH[what].script}; setTimeout(() => {{}}, 500)")
    result: AgentResult = await here.run()
    assert result.receipt is not None
    assert result.receipt.proven is MUCH[what].proven
    assert len(encode(result.receipt)) < 256 * 1024
    assert all(len(encode_frame(frame)) < 16 * 1024 for frame in here.frames)
    assert all(abs(value) < 2**53 for value in counts(here))


def counts(here: Bench) -> list[int]:
    """The numbers of all notices: a page reads no larger ones."""
    data = [getattr(frame, "data", None) or {} for frame in here.frames]
    return [value for each in data for value in each.values() if isinstance(value, int)]


async def test_a_tool_that_many_others_stand_before_is_seen(tmp_path: Path) -> None:
    """What is kept of its first line has a bound, and nothing hides behind that."""
    tools = "[...Array(500).fill('glob'), 'grep_search', 'read_file', 'structured_output', 'z']"
    result = await hostile(tmp_path, f"init({{ tools: {tools} }})").run()
    assert result.failure is not None
    assert result.failure.reason == "unexpected_tools"


# --- what a crash leaves ------------------------------------------------------------------------


async def test_nothing_of_an_attempt_is_left_outside_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's folder for such files is not podium's to clean after a crash."""
    here = hostile(tmp_path, "init(); result();")
    subprocess.run(["git", "init", "-q", here.repository], check=True)
    async with here.open():
        await here.runner.check()
        monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
        result = await here.runner.run(here.order(), here.emit)
    assert result.receipt is not None
    assert result.receipt.repository_before == result.receipt.repository_after is not None
