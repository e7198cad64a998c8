"""The demo model as a child process: it comes up, goes away, and never outlives its parent."""

import asyncio
import os
import signal
import sys

import httpx
import pytest

from server.demo import process
from server.demo.process import DemoError, DemoProcess

PARENT = """
import asyncio, os
from server.demo.process import DemoProcess

async def main():
    async with DemoProcess() as demo:
        os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_it_serves_on_a_port_of_its_own_and_stops() -> None:
    async with DemoProcess(pace=0) as demo, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{demo.base_url}/models")
        pid = demo.pid
        assert pid is not None
        assert os.getsid(pid) == pid
    assert answer.headers["x-podium-demo"] == "scripted"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_second_stop_does_nothing() -> None:
    async with DemoProcess(pace=0) as demo:
        await demo.stop()


async def test_a_child_that_does_not_come_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DemoError, match="status 1") as caught:
        await DemoProcess().start()
    assert caught.value.status == 1


async def test_a_child_that_says_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_SECONDS", 0)
    demo = DemoProcess()
    with pytest.raises(DemoError, match="in time"):
        await demo.start()
    assert demo.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(demo.pid, 0)


async def test_it_ends_when_its_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stderr=asyncio.subprocess.PIPE
    )
    assert parent.stderr is not None
    assert await parent.wait() == -signal.SIGKILL
    # The child holds the other end of this pipe until it is gone.
    assert b"Traceback" not in await parent.stderr.read()
