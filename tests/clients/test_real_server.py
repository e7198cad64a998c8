"""The same clients and the real server, which restarts in the middle of a run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from protocol.errors import CloseCode
from tests.clients.runners import CLIENT_JS, RUNNER_JS, ProcessRunner, PythonRunner
from tests.clients.stage import Runner
from tests.fakes.agent import FakeAgent
from tests.server.harness import TOKEN, House, house

pytestmark = pytest.mark.timeout(90)

WAIT_SECONDS = 40.0
PACE = {"base_ms": 20, "max_ms": 200}


class Application:
    """What it was told so far."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._told: list[dict[str, Any]] = []

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                event = await self.runner.event()
                self._told.append(event)
                if wanted(event):
                    return event

    async def answer(self, label: str) -> dict[str, Any]:
        event = await self.until(lambda event: event.get("answer") == label)
        return dict(event["said"])

    async def state(self, state: str) -> None:
        await self.until(lambda event: event.get("state", {}).get("state") == state)

    async def frame(self, seq: int) -> None:
        await self.until(lambda event: event.get("heard") == ["frame", seq])

    @property
    def heard(self) -> list[Any]:
        return [event["heard"] for event in self._told if "heard" in event]


@asynccontextmanager
async def application(language: str, node: str) -> AsyncIterator[Application]:
    command = [node, str(RUNNER_JS), str(CLIENT_JS)]
    runner: Runner = PythonRunner() if language == "python" else ProcessRunner(command)
    try:
        yield Application(runner)
    finally:
        await runner.stop()


async def head_of(home: House, run_id: str) -> int:
    answer = await home.http.get(f"/api/runs/{run_id}/frames")
    return int(answer.json()["head"])


@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_a_run_goes_on_over_a_restart(tmp_path: Path, language: str, node: str) -> None:
    held = FakeAgent()
    held.hold()
    async with application(language, node) as app:
        async with house(tmp_path, agent=held) as home:
            port = urlsplit(home.url).port
            launch = {
                "do": "launch",
                "body": {
                    "key": "k",
                    "project_id": home.project_id,
                    "command": "/code-review small src",
                },
            }
            await app.runner.start(home.url, {"token": TOKEN, "backoff": PACE})
            await app.runner.act({**launch, "label": "first"})
            run_id = (await app.answer("first"))["run_id"]
            await held.started(2)
            await app.runner.act({"do": "follow", "run": run_id})
            await app.frame(await head_of(home, run_id))
        await app.state("reconnecting")
        await app.runner.act({**launch, "label": "again"})
        async with house(tmp_path, port=port) as home:
            again = await app.answer("again")
            frames = await home.end_of(run_id)
            if ["frame", len(frames)] not in app.heard:
                await app.frame(len(frames))
    assert again["run_id"] == run_id
    assert again["created"] is False
    heard = [seq for kind, seq in app.heard if kind == "frame"]
    assert heard == list(range(1, len(frames) + 1))
    assert not [kind for kind, _ in app.heard if kind not in ("frame", "caught_up")]


async def test_a_ticket_signs_in_and_every_connection_has_its_own(
    tmp_path: Path, node: str
) -> None:
    """As Node does it: its socket says no Origin by itself, and the server wants one."""
    async with application("javascript", node) as app, house(tmp_path) as home:
        tickets = [await _ticket(home) for _ in range(2)]
        await app.runner.start(home.url, {"tickets": tickets, "backoff": PACE})
        await app.state("live")
        for session in list(home.podium.channel._sessions):
            session.end(CloseCode.RESTART)
        await app.state("live")
        for session in list(home.podium.channel._sessions):
            session.end(CloseCode.RESTART)
        await app.state("signed_out")


async def _ticket(home: House) -> str:
    return str((await home.http.post("/api/ws-ticket")).json()["ticket"])
