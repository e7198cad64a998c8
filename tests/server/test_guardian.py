"""Nothing outlives the server, contained or not: the guardian, and the process that it holds."""

import asyncio
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest

from server.agents.containment.spawn import GUARDIAN
from tests.contract.test_containment import dies_with_its_server
from tests.fakes.scripted import marked, scripted, until

pytestmark = pytest.mark.timeout(60)


class Guarded:
    """A guardian of its own, with both ends of its lifeline."""

    def __init__(self) -> None:
        self.mark = f"podium-test-{uuid.uuid4()}"
        self.held, self.lifeline = os.pipe()

    async def start(self, script: str) -> asyncio.subprocess.Process:
        command = [sys.executable, "-I", "-S", str(GUARDIAN), str(self.held)]
        process = await asyncio.create_subprocess_exec(
            *command, "/bin/sh", "-c", script,
            env={"PATH": "/usr/bin:/bin", "MARK": self.mark},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=(self.held,),
        )  # fmt: skip
        os.close(self.held)
        return process


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 53", 53),
        ("kill -TERM $$", -signal.SIGTERM),
        ("kill -SEGV $$", -signal.SIGSEGV),
        ("kill -KILL $$", -signal.SIGKILL),
        ("exec /nowhere/at/all", 127),
    ],
)
async def test_it_ends_as_the_agent_did(script: str, code: int) -> None:
    guarded = Guarded()
    process = await guarded.start(script)
    assert await process.wait() == code
    os.close(guarded.lifeline)


async def test_it_passes_the_streams_through() -> None:
    guarded = Guarded()
    process = await guarded.start("cat; echo more")
    out, _ = await process.communicate(b"some and ")
    assert out == b"some and more\n"
    os.close(guarded.lifeline)


BACKGROUND = "(setsid sh -c 'trap \"\" TERM HUP; sleep 600' &); sleep 601 & "


async def test_what_the_agent_left_ends_with_it() -> None:
    guarded = Guarded()
    process = await guarded.start(BACKGROUND + "exit 3")
    assert await process.wait() == 3
    assert marked(guarded.mark) == []
    os.close(guarded.lifeline)


async def test_the_end_of_the_lifeline_ends_all() -> None:
    guarded = Guarded()
    process = await guarded.start(BACKGROUND + "echo ready; sleep 602")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    await until(lambda: len(marked(guarded.mark)) >= 4)
    os.close(guarded.lifeline)
    assert await process.wait() == -signal.SIGKILL
    assert marked(guarded.mark) == []


async def test_a_signal_ends_all() -> None:
    guarded = Guarded()
    process = await guarded.start(BACKGROUND + "echo ready; sleep 602")
    assert process.stdout is not None
    await process.stdout.readline()
    process.terminate()
    await process.wait()
    assert marked(guarded.mark) == []
    os.close(guarded.lifeline)


async def test_a_dead_guardian_takes_the_agent_with_it() -> None:
    guarded = Guarded()
    process = await guarded.start("echo ready; exec sleep 600")
    assert process.stdout is not None
    await process.stdout.readline()
    process.kill()
    await until(lambda: marked(guarded.mark) == [], seconds=20)
    await process.wait()
    os.close(guarded.lifeline)


CHAIN = """
import os, signal, sys, time
signal.alarm(55)
print("ready", flush=True)
until = time.monotonic() + 50
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
    os.setsid()
"""


async def test_a_chain_of_forks_is_caught_up_with() -> None:
    """Each process leaves its session, forks and ends at once: a list of them is always old."""
    guarded = Guarded()
    process = await guarded.start(f"exec {sys.executable} -c '{CHAIN}' & sleep 600")
    assert process.stdout is not None
    await process.stdout.readline()
    os.close(guarded.lifeline)
    async with asyncio.timeout(40):  # by itself the chain goes on for longer
        await process.wait()
    assert marked(guarded.mark) == []


async def test_a_killed_server_takes_the_uncontained_tree_with_it(tmp_path: Path) -> None:
    await dies_with_its_server(tmp_path, contained=False)


async def test_without_the_guardian_the_tree_outlives_the_server(tmp_path: Path) -> None:
    """The negative control of the test above, of which it has all but the guardian."""
    mark = f"podium-test-{uuid.uuid4()}"
    script = "from tests.contract.hiding import serve; serve()"
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), mark, "unguarded",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"
        os.kill(server.pid, signal.SIGKILL)
        await server.wait()
        assert len(marked(mark)) >= 6
    finally:
        while pids := marked(mark):
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0)


async def test_killing_waits_for_the_last_process(tmp_path: Path) -> None:
    script = """
        const { spawn } = require('node:child_process');
        spawn('/bin/sh', ['-c', 'trap "" TERM; sleep 600'], { detached: true, stdio: 'ignore' })
          .on('spawn', () => console.log('ready'));
        setInterval(() => {}, 1000);
    """
    async with scripted(tmp_path) as here:
        process = await here.start(script, found=None)
        await until(lambda: here.said() == "ready\n")
        await until(lambda: len(marked(str(tmp_path))) >= 4)
        assert process.ended_at is None
        await asyncio.gather(process.kill(), process.kill())
        assert marked(str(tmp_path)) == []
        assert process.ended_at is not None
        assert process.exit_code == -signal.SIGKILL
