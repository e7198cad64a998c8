"""A relay on real sockets, an agent that asks as the real one does, a clock that tests move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec

from protocol.ids import RunId, StepId
from server.agents.relay.passes import Notice, Pass
from server.agents.relay.rules import Admission
from server.agents.relay.server import Relay
from server.ports import AgentFailure, AttemptRef, ModelEndpoint
from tests.server.harness import plain_http

KEY = "sk-the-key-that-nobody-sees"
MODEL = "podium-demo"
WAIT_SECONDS = 20.0


class HandClock:
    """Time passes only when the test says so, or at once where nobody has to wait."""

    def __init__(self) -> None:
        self._now = 1_000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._news = asyncio.Condition()
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 1, 31, 12, tzinfo=UTC) + timedelta(seconds=self._now - 1_000.0)

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        async with self._news:
            self.slept.append(seconds)
            if seconds > 0:
                self._sleepers.append((self._now + seconds, woken))
            self._news.notify_all()
        if seconds > 0:
            await woken.wait()

    async def sleeper(self, number: int = 1) -> float:
        """Wait for the sleep of that number, counted from 1; its seconds."""
        async with asyncio.timeout(WAIT_SECONDS), self._news:
            await self._news.wait_for(lambda: len(self.slept) >= number)
        return self.slept[number - 1]

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for due, woken in self._sleepers:
            if due <= self._now:
                woken.set()


def endpoint(url: str, *, key: str = KEY) -> ModelEndpoint:
    return ModelEndpoint(name="default", base_url=url, api_key=key, model=MODEL)


def admission(url: str, **changes: Any) -> Admission:
    """A good admission with small limits."""
    fields: dict[str, Any] = {
        "ref": AttemptRef(RunId("r"), StepId("s"), 1),
        "endpoint": endpoint(url),
        "tools": frozenset({"read_file", "structured_output"}),
        "answer_tokens": 1_000,
        "requests": 10,
        "total_tokens": None,
        "answer_bytes": 1_000_000,
    }
    return Admission(**{**fields, **changes})


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def question(**changes: Any) -> dict[str, Any]:
    """A good chat request, shaped as the real agent's."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}],
        "max_tokens": 1_000,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [tool("read_file"), tool("structured_output")],
    }
    return {**fields, **changes}


class Bench:
    """One pass of a running relay, and its agent."""

    def __init__(
        self, relay: Relay, given: Pass, clock: HandClock, http: httpx.AsyncClient
    ) -> None:
        self.relay = relay
        self.given = given
        self.clock = clock
        self.http = http
        self.notices: list[Notice] = []

    async def ask(self, body: object = None, *, token: str | None = None) -> httpx.Response:
        """One request, its answer read to the end."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body or question())
        return await self.http.post(
            "/chat/completions", content=content, headers=self.headers(token)
        )

    def headers(self, token: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.given.token if token is None else token}"}

    async def failed(self) -> AgentFailure:
        """Wait for the failure."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.given.changed.wait()
        assert self.given.failure is not None
        return self.given.failure

    async def fails(self, body: object = None) -> AgentFailure:
        """Ask, and see the failure while the agent still waits; then close the pass, and see the
        agent get no answer."""
        asking = asyncio.create_task(self.ask(body))
        failure = await self.failed()
        assert not asking.done(), "the agent is left to wait"
        await self.given.close()
        try:
            answer = await asking
        except httpx.RemoteProtocolError:
            return failure
        assert answer.status_code == 503
        return failure


@asynccontextmanager
async def relaying(place: Path, url: str, **changes: Any) -> AsyncIterator[Bench]:
    """A relay to the endpoint at `url`; `changes` are the admission's."""
    clock = HandClock()
    async with (
        Relay(place / "relay", clock=clock, chance=lambda: 0.0) as relay,
        plain_http(base_url=relay.url, timeout=WAIT_SECONDS) as http,
    ):
        notices: list[Notice] = []
        bench = Bench(relay, relay.admit(admission(url, **changes), notices.append), clock, http)
        bench.notices = notices
        yield bench
