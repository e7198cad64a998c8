"""Every way to read a run lets the same people in, and refuses the others alike."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.server.harness import TOKEN, House, house, plain_http
from tests.server.readers import altered

NOBODY = "00000000-0000-4000-8000-000000000000"
WAYS = ["", "/events", "/frames", "/recording", "/report.md", "/report.json"]
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


@pytest.fixture
async def run_id(home: House) -> str:
    run_id = await home.launch()
    await home.end_of(run_id)
    return run_id


@pytest.fixture
async def stranger(home: House) -> AsyncIterator[httpx.AsyncClient]:
    async with plain_http(base_url=home.url) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
async def test_who_may_read_a_run(
    home: House, run_id: str, stranger: httpx.AsyncClient, way: str
) -> None:
    path = f"/api/runs/{run_id}{way}"

    async def status(**headers: str) -> int:
        return (await stranger.get(path, headers=headers)).status_code

    assert await status() == 401
    assert await status(Authorization="Bearer wrong") == 401
    assert await status(Authorization=TOKEN) == 401
    assert await status(Cookie="podium_session=9999999999.0000") == 401
    assert await status(**BEARER, Origin="https://evil.example") == 403
    assert await status(**BEARER, Host="evil.example") == 403
    assert await status(**BEARER) == 200
    assert await status(**BEARER, Origin=home.url) == 200
    assert (await stranger.post("/api/session", json={"token": TOKEN})).status_code == 200
    assert await status() == 200, "the cookie signs in"
    assert await status(Origin="https://evil.example") == 403
    assert await status(Host="evil.example") == 403
    assert (await stranger.get(f"{path}?token={TOKEN}", headers={"Cookie": ""})).status_code == 401


@pytest.mark.parametrize("way", WAYS)
async def test_a_run_of_another_looks_like_none(
    home: House, run_id: str, tmp_path: Path, way: str
) -> None:
    bad = await home.http.get(f"/api/runs/xyz{way}")
    assert (bad.status_code, bad.json()) == (400, {"error": "invalid id"})
    none = await home.http.get(f"/api/runs/{NOBODY}{way}")
    assert (none.status_code, none.json()) == (404, {"error": "run not found"})
    await altered(tmp_path, "UPDATE flow_runs SET user_id = 'ann' WHERE id = ?", run_id)
    other = await home.http.get(f"/api/runs/{run_id}{way}")
    assert (other.status_code, other.content) == (none.status_code, none.content)
    async with home.socket() as wire:
        answers = [
            await wire.ask(type="subscribe", id=name, run_id=name) for name in (run_id, NOBODY)
        ]
    assert [{**answer, "id": ""} for answer in answers] == [{**answers[1], "id": ""}] * 2


async def test_the_socket_refuses_the_same(home: House) -> None:
    for headers, status in (
        ({"X-Nothing": "1"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({**BEARER, "Origin": "https://evil.example"}, 403),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with home.socket(**headers):
                pass
        assert refused.value.response.status_code == status
