"""The stop: who is told what, in which order, and that nobody holds it up. Whole processes where
signals are meant."""

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.channel import websocket
from server.channel.session import Session
from server.local import ServerFile, running_server
from server.stopping import BASE_MS, MAX_WINDOW_MS, return_times
from tests.server.contracts import SocketContract, socket_contract
from tests.server.harness import TOKEN, WAIT_SECONDS, House, Socket, house, plain_http, repository
from tests.server.raw_peer import TEXT, frame, raw_peer
from tests.server.readers import Reader, Talker
from tests.server.stalling import LOOK_SECONDS, LOOKS, stuck

BEARER = {"Authorization": f"Bearer {TOKEN}"}
MANY = "2500"
"""Texts of 4 KiB: more than the buffers of a connection take."""


class Process(NamedTuple):
    """`podium serve` with a fake agent, and an ended run that says much."""

    process: asyncio.subprocess.Process
    place: ServerFile
    http: httpx.AsyncClient
    run_id: str
    contract: SocketContract

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        async with connect(
            self.place.url.replace("http", "ws") + "/api/ws",
            additional_headers=BEARER,
            subprotocols=["podium.v1"],  # type: ignore[list-item]
            proxy=None,
        ) as opened:
            yield Socket(opened, self.contract)


@asynccontextmanager
async def serving(place: Path) -> AsyncIterator[Process]:
    project, data = place / "project", place / "data"
    await asyncio.to_thread(repository, project)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.talking_server", str(data), str(project), MANY
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while (found := await running_server(data)) is None:
                assert process.returncode is None
        async with plain_http(base_url=found.url, headers=BEARER) as http:
            run_id = await launched(http)
            contract = socket_contract((await http.get("/asyncapi.json")).content)
            yield Process(process, found, http, run_id, contract)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def launched(http: httpx.AsyncClient) -> str:
    """A run, once it has ended."""
    (project,) = (await http.get("/api/projects")).json()["projects"]
    question = {"question": "errors", "paths": ["src"]}
    body = {"project_id": project["id"], "flow_name": "code-review", "band": "small"}
    answer = await http.post("/api/runs", json={**body, "input": question})
    run_id = str(answer.json()["run_id"])
    async with (
        asyncio.timeout(WAIT_SECONDS),
        http.stream("GET", f"/api/runs/{run_id}/events?detail=outline") as response,
    ):
        await Reader(response).until("flow_run_finished")
    return run_id


@asynccontextmanager
async def reading_nothing(url: str, run_id: str) -> AsyncIterator[None]:
    """A socket that asks for a run: it holds a stop up for as long as it may."""
    async with raw_peer(url) as peer:
        message = {"type": "subscribe", "id": "s", "run_id": run_id}
        await peer.send(frame(TEXT, json.dumps(message).encode()))
        yield


@asynccontextmanager
async def stalled(here: Process) -> AsyncIterator[None]:
    """One that has taken all that it will."""
    async with reading_nothing(here.place.url, here.run_id):
        looks, before = 0, b""
        while looks < LOOKS:
            await asyncio.sleep(LOOK_SECONDS)
            metrics = (await here.http.get("/metrics")).content
            (sent,) = re.findall(rb"^podium_bytes_sent_total (\d+)$", metrics, re.MULTILINE)
            looks = looks + 1 if sent == before and int(sent) > 1_000_000 else 0
            before = sent
        yield


async def goodbye(wire: Socket) -> tuple[int, int]:
    """What the server says at its end: when to come back, and the close code."""
    draining = await wire.until(type="flow_run_draining")
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await wire.receive()
    assert closed.value.rcvd is not None
    return draining["retry_after_ms"], closed.value.rcvd.code


async def test_a_process_says_goodbye_takes_nobody_in_and_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as here, here.socket() as wire:
        path = f"/api/runs/{here.run_id}/events"
        async with stalled(here), here.http.stream("GET", path) as response:
            events = Reader(response)
            await events.until("flow_run_subscribed")
            await wire.until(type="flow_run_hello")
            here.process.send_signal(signal.SIGTERM)
            retry_after_ms, code = await goodbye(wire)
            assert (code, 1_000 <= retry_after_ms < 2_000) == (1012, True)
            # The one that stalls is still there, and with it the server.
            ready = await here.http.get("/readyz")
            assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
            with pytest.raises(InvalidStatus) as refused:
                async with here.socket():
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["retry-after"] == "1"
            stream = await here.http.get(path)
            assert (stream.status_code, stream.headers["retry-after"]) == (503, "1")
            rest = await events.rest()
            assert rest[-1].frame["type"] == "flow_run_draining"
            assert rest[-1].retry == str(rest[-1].frame["retry_after_ms"])
        assert await asyncio.wait_for(here.process.wait(), WAIT_SECONDS) == 0
    assert not (tmp_path / "data" / "server.json").exists()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(tmp_path: Path, name: signal.Signals) -> None:
    async with (
        serving(tmp_path) as here,
        stalled(here),
        here.socket() as wire,
    ):
        await wire.until(type="flow_run_hello")
        here.process.send_signal(name)
        await wire.until(type="flow_run_draining")
        here.process.send_signal(name)
        assert await asyncio.wait_for(here.process.wait(), WAIT_SECONDS) == -name


HANGS = """
import asyncio, time
from server import stopping

stopping.EXIT_SECONDS = 0.1

async def main():
    signals = stopping.Signals()
    signals.listen(lambda: time.sleep(60))
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_stop_that_hangs_is_ended() -> None:
    """Even one that holds the event loop."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HANGS, stdout=asyncio.subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), WAIT_SECONDS) == -signal.SIGKILL


async def held(home: House) -> list[Session]:
    """The sessions that a stop leaves, with one that reads nothing among them."""
    run_id = await home.launch()
    await home.end_of(run_id)
    async with reading_nothing(home.url, run_id), home.socket() as wire:
        channel = home.podium.channel
        await stuck(home)
        goodbyes = asyncio.create_task(goodbye(wire))
        await home.podium.drain()
        left = list(channel._sessions)
        assert (await goodbyes)[1] == 1012
    return left


async def test_who_stalls_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "DRAIN_SECONDS", 0.2)
    async with house(tmp_path / "a", agent=Talker(int(MANY))) as home:
        assert await held(home) == []
    # The control: it takes the time that a close has, and the server's grace.
    monkeypatch.setattr(Session, "abort", lambda self: None)
    monkeypatch.setattr(websocket, "ABORT_SECONDS", 0.2)
    async with house(tmp_path / "b", agent=Talker(int(MANY))) as home:
        assert len(await held(home)) == 1


async def test_a_live_reader_gets_what_is_committed_before_its_close(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    async with home.socket() as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        await wire.until(type="flow_run_caught_up")
        assert (await home.http.post(f"/api/runs/{run_id}/cancel")).status_code == 200
        draining = asyncio.create_task(home.podium.drain())
        await wire.until(type="flow_run_status", status="cancelling")
        await draining


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


@pytest.mark.parametrize("count", [1, 2, 50, 500, 5_000])
def test_clients_come_back_spread(count: int) -> None:
    times = return_times(count)
    assert len(times) == count
    assert min(times) >= BASE_MS
    assert max(times) < BASE_MS + max(1_000, min(MAX_WINDOW_MS, 10 * count))
    seconds = Counter((time - BASE_MS) // 1_000 for time in times)
    assert max(seconds.values()) - min(seconds.values()) <= 2 + count // 1_000
    if count >= 500:
        tenths = Counter(time // 100 for time in times)
        assert max(tenths.values()) <= count / 40, "not in the same tenth of a second"
        assert times != sorted(times), "not in the order in which they came"
