"""Debian's nginx with the recipes of deploy/nginx, and podium behind it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from server.commands.doctor.address import asked
from server.commands.doctor.diagnosis import Diagnosis
from server.settings import Settings
from tests.fakes.agent import FakeAgent
from tests.integration.proxies import Proxy, listener, nginx, reserved
from tests.server.harness import TOKEN, WAIT_SECONDS, House, house
from tests.server.readers import Reader, stored

BEARER = {"Authorization": f"Bearer {TOKEN}"}
KEPT = {"taken off": {"proxy_pass http://podium;": "proxy_pass http://podium/;"}, "handed on": {}}
"""What a proxy does with the path."""


@asynccontextmanager
async def behind(
    place: Path, *, changes: dict[str, str] | None = None, agent: FakeAgent | None = None
) -> AsyncIterator[tuple[House, Proxy]]:
    with closing(listener()) as listening:
        public = f"https://tools.example.com:{listening.getsockname()[1]}/podium"
        async with (
            house(place, public_url=public, agent=agent) as home,
            nginx(place / "nginx", listening, urlsplit(home.url).netloc, changes=changes) as proxy,
        ):
            yield home, proxy


@pytest.mark.parametrize("way", KEPT)
async def test_everything_gets_through(tmp_path: Path, way: str) -> None:
    async with behind(tmp_path, changes=KEPT[way]) as (home, proxy), proxy.http() as browser:
        bare = await browser.get("/podium")
        assert (bare.status_code, urlsplit(bare.headers["location"]).path) == (308, "/podium/")
        page = await browser.get("/podium/")
        assert (page.status_code, "<title>podium" in page.text) == (200, True)
        assert (await browser.get("/podium/pane.js")).status_code == 200
        assert (await browser.get("/")).status_code == 404, "no other path of the host is podium's"
        assert (await browser.get("/podium/api/runs")).status_code == 401
        opened = await browser.post(
            "/podium/api/session", json={"token": TOKEN}, headers={"Origin": proxy.origin}
        )
        assert opened.headers["set-cookie"].startswith("__Secure-podium_session=")
        cookie = opened.headers["set-cookie"].partition(";")[0]
        launched = await browser.post(
            "/podium/api/runs",
            json=home.body(),
            headers={"Cookie": cookie, "Origin": proxy.origin},
        )
        run_id = launched.json()["run_id"]
        frames = await home.end_of(run_id)
        async with proxy.socket(Cookie=cookie, Origin=proxy.origin) as socket:
            await socket.send(json.dumps({"type": "subscribe", "id": "1", "run_id": run_id}))
            seen = [json.loads(await socket.recv()) for _ in range(len(frames) + 3)]
        assert [frame for frame in seen if "at" in frame] == frames
        recording = await browser.get(f"/podium/api/runs/{run_id}/recording", headers=BEARER)
        assert [json.loads(line) for line in recording.text.splitlines()[1:]] == frames
        report = await browser.get(f"/podium/api/runs/{run_id}/report.md", headers=BEARER)
        assert report.text.startswith("# ")


async def test_events_arrive_one_by_one_while_the_run_goes_on(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.hold()
    async with behind(tmp_path, agent=agent) as (home, proxy), proxy.http(**BEARER) as client:
        run_id = await home.launch()
        await agent.started(2)
        async with client.stream("GET", f"/podium/api/runs/{run_id}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            reader = Reader(response)
            said = await reader.until("flow_run_step_delta")
            agent.release()
            rest = await reader.rest()
        assert rest[-1].frame["type"] == "flow_run_finished"
        assert said.frame["text"], "read while every agent was held"
        assert stored([said, *rest])[-1] == (await home.end_of(run_id))[-1]


async def test_a_buffered_stream_shows_nothing_until_its_end(tmp_path: Path) -> None:
    """Without the header that podium sends, the test above would wait for ever."""
    changes = {"include snippets/podium-proxy.conf;": (
        "include snippets/podium-proxy.conf; proxy_ignore_headers X-Accel-Buffering;"
    )}  # fmt: skip
    agent = FakeAgent()
    agent.hold()
    async with (
        behind(tmp_path, agent=agent, changes=changes) as (home, proxy),
        proxy.http(**BEARER) as client,
    ):
        run_id = await home.launch()
        await agent.started(2)
        path = f"/api/runs/{run_id}/events"
        asking = asyncio.ensure_future(_first_piece(client, f"/podium{path}"))
        while not home.podium.events._open:
            await asyncio.sleep(0)
        async with home.http.stream("GET", path) as direct:
            await Reader(direct).until("flow_run_step_delta")
        # nginx has one worker: what it has for the stream's reader it would have sent before this.
        await client.get("/podium/healthz")
        assert not asking.done()
        agent.release()
        assert await asking == 200


async def _first_piece(client: httpx.AsyncClient, path: str) -> int:
    async with client.stream("GET", path) as response:
        await anext(response.aiter_raw())
        return response.status_code


async def test_who_is_not_asked_for_by_name_is_nobody(tmp_path: Path) -> None:
    async with behind(tmp_path) as (_, proxy), proxy.http() as browser:
        rebound = await browser.get("/podium/healthz", headers={"Host": "evil.example"})
        assert rebound.status_code == 421
        right = await browser.get("/podium/healthz")
        assert right.status_code == 200
        foreign = await browser.post(
            "/podium/api/session", json={"token": TOKEN}, headers={"Origin": "https://evil.example"}
        )
        assert foreign.status_code == 403
        with pytest.raises(InvalidStatus) as refused:
            async with proxy.socket(Origin="https://evil.example", **BEARER):
                pass
        assert refused.value.response.status_code == 403


async def test_podium_refuses_the_name_itself(tmp_path: Path) -> None:
    """Where nginx takes every name, podium still does not."""
    changes = {"return 421;": "", "ssl_reject_handshake on;": "", "server_name _;": (
        "server_name nobody; ssl_certificate fullchain.pem; ssl_certificate_key privkey.pem;"
        "set $podium_user ''; location /podium/ { proxy_pass http://podium;"
        "include snippets/podium-proxy.conf; }"
    )}  # fmt: skip
    async with behind(tmp_path, changes=changes) as (_, proxy), proxy.http(**BEARER) as browser:
        answer = await browser.get("/podium/api/runs", headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
        assert (await browser.get("/podium/api/runs")).status_code == 200


async def test_no_secret_is_in_a_log(tmp_path: Path) -> None:
    async with behind(tmp_path) as (_, proxy), proxy.http() as browser:
        await browser.post("/podium/api/session", json={"token": TOKEN})
        await browser.get("/podium/api/runs", headers=BEARER)
        await browser.get(f"/podium/api/runs?token={TOKEN}", headers={"Referer": f"/?t={TOKEN}"})
        async with proxy.socket(**BEARER):
            pass
    log = proxy.log("podium.log")
    assert log.count("\n") == 4
    assert '"GET /podium/api/ws HTTP/1.1" 101' in log
    assert TOKEN not in log + proxy.log("error.log")


async def test_what_is_too_large_gets_podiums_own_answer(tmp_path: Path) -> None:
    async with behind(tmp_path) as (_, proxy), proxy.http(**BEARER) as client:
        sent = [b"x" * size for size in (1024 * 1024 + 1, 3 * 1024 * 1024)]
        answers = [await client.post("/podium/api/plans", content=body) for body in sent]
        answered: list[Any] = [
            (answer.status_code, answer.headers["content-type"]) for answer in answers
        ]
    assert answered == [(413, "application/json"), (413, "text/html")]


async def test_many_panes_share_nothing(tmp_path: Path) -> None:
    async with behind(tmp_path) as (home, proxy):
        sockets = [await proxy.socket(**BEARER) for _ in range(8)]
        run_id = await home.launch()
        subscribe = json.dumps({"type": "subscribe", "id": "1", "run_id": run_id})
        await asyncio.gather(*(socket.send(subscribe) for socket in sockets))
        whole = await home.end_of(run_id)

        async def read(socket: Any) -> list[Any]:
            frames: list[Any] = []
            async with asyncio.timeout(WAIT_SECONDS):
                while not frames or frames[-1]["type"] != "flow_run_finished":
                    frame = json.loads(await socket.recv())
                    frames += [frame] if "at" in frame else []
            return frames

        assert await asyncio.gather(*map(read, sockets)) == [whole] * 8
        for socket in sockets:
            await socket.close()


async def test_without_the_upgrade_there_is_no_socket(tmp_path: Path) -> None:
    """The recipe's own line opens it; podium says what is missing."""
    changes = {"default upgrade;": "default '';"}
    async with behind(tmp_path, changes=changes) as (_, proxy):
        with pytest.raises(InvalidStatus) as refused:
            async with proxy.socket(**BEARER):
                pass
    answer = refused.value.response
    assert answer.status_code == 426
    assert answer.body is not None
    assert b"Upgrade" in answer.body


async def examined(proxy: Proxy) -> list[Diagnosis]:
    """What `podium doctor` finds through a proxy."""
    settings = Settings(public_url=f"{proxy.origin}/podium")
    async with proxy.http() as http:
        http.base_url = httpx.URL(f"https://127.0.0.1:{proxy.port}/podium")
        return await asked(http, settings)


async def test_doctor_finds_podium_behind_it(tmp_path: Path) -> None:
    async with behind(tmp_path) as (_, proxy):
        found = await examined(proxy)
    assert [it.says for it in found] == [
        f"podium answers at {proxy.origin}/podium/",
        "its WebSocket opens",
    ]


async def test_doctor_finds_lines_that_are_missing(tmp_path: Path) -> None:
    changes = {"include snippets/podium-proxy.conf;": "include snippets/careless.conf;"}
    async with behind(tmp_path, changes=changes) as (_, proxy):
        ready, socket = await examined(proxy)
    assert ready.well
    assert not socket.well
    assert "HTTP 426" in socket.says
    assert "`Upgrade` and `Connection`" in (socket.hint or "")


async def test_doctor_tells_a_proxy_that_leads_nowhere(tmp_path: Path) -> None:
    with closing(reserved()) as kept:
        changes = {
            "proxy_pass http://podium;": f"proxy_pass http://127.0.0.1:{kept.getsockname()[1]};"
        }
        async with behind(tmp_path, changes=changes) as (_, proxy):
            (found,) = await examined(proxy)
    assert "HTTP 502" in found.says
    assert "lead to podium" in (found.hint or "")
