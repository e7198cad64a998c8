"""`/metrics`: who may read it, that Prometheus can, and that it counts what happened."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server import metrics
from server.metrics import LoopLag
from tests.server.harness import House, house, plain_http
from tests.server.readers import reading

LINE = re.compile(r"([a-z_]+(?:\{[a-z]+=\"[^\"]+\"\})?) (\d+(?:\.\d+)?(?:e-\d+)?)")
DOCS = (Path(__file__).parents[2] / "docs" / "operate.md").read_text("utf-8")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


async def read(home: House) -> dict[str, float]:
    answer = await home.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            matched = LINE.fullmatch(line)
            assert matched, line
            found[matched[1]] = float(matched[2])
    return found


async def test_what_happens_is_counted(home: House) -> None:
    before = await read(home)
    assert (before["podium_sockets"], before["podium_runs"]) == (0, 0)
    home.agent.hold()
    run_id = await home.launch()
    async with home.socket() as wire, home.socket(Origin=home.url), reading(home, run_id) as reader:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        await wire.until(type="flow_run_caught_up")
        await reader.until("flow_run_caught_up")
        during = await read(home)
        assert during["podium_sockets"] == 1
        assert during["podium_strangers"] == 1
        assert during["podium_subscriptions"] == 1
        assert during["podium_event_streams"] == 1
        assert during["podium_runs"] == 1
        assert during["podium_frames_sent_total"] >= 5
        assert during["podium_bytes_sent_total"] > 1_000
        for number in range(100):
            await wire.send(type="ping", id=str(number))
        await wire.until(code="rate_limited")
        home.agent.release()
        await wire.until(type="flow_run_finished")
        await home.podium.drain()
    after = await read(home)
    assert after["podium_sockets"] == after["podium_strangers"] == after["podium_runs"] == 0
    assert after['podium_runs_ended_total{status="completed"}'] == 1
    assert after['podium_closes_total{code="1012"}'] == 2
    assert after['podium_rate_limited_total{what="messages"}'] >= 1
    assert after["podium_tasks"] > 1
    assert 3 < after["process_open_fds"] < after["process_max_fds"]


async def test_only_the_operator_reads_them(home: House) -> None:
    async with plain_http(base_url=home.url) as stranger:
        assert (await stranger.get("/metrics")).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await stranger.get("/metrics", headers=wrong)).status_code == 401
        for path in ("/healthz", "/readyz"):
            assert (await stranger.get(path)).status_code == 200


async def test_every_metric_is_in_the_docs_with_its_type(home: House) -> None:
    types = re.findall(r"^# TYPE (\w+) (\w+)$", (await home.http.get("/metrics")).text, re.M)
    assert len(types) == len(set(types)) > 15
    for name, kind in types:
        assert name.endswith("_total") is (kind == "counter")
        assert f"`{name}`" in DOCS, name


async def test_a_loop_that_is_held_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LOOK_SECONDS", 0.01)
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch())
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    end = loop.time() + 0.2
    while loop.time() < end:
        pass
    while not lag.worst:
        await asyncio.sleep(0)
    watching.cancel()
    assert lag.worst > 0.1
