"""Readers of one run's events and files, on real sockets, and what a test does to a stored run."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from protocol.frames import Channel, FlowRunStepDelta
from server.ports import AgentOrder, AgentResult, Emit
from tests.fakes.agent import FakeAgent
from tests.server.harness import WAIT_SECONDS, House


class Event(NamedTuple):
    """One server-sent event; a comment has neither `id` nor `data`."""

    id: str | None
    data: bytes
    comment: str = ""
    retry: str | None = None

    @property
    def frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.data)
        return frame


def parsed(block: bytes) -> Event:
    """An event as the HTML standard reads it; a field that podium does not send is a fault."""
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(": ")
        assert name in ("id", "data", "retry", ""), line
        assert name not in fields, "a frame is one line"
        fields[name] = value
    data = fields.get("data", "").encode()
    return Event(fields.get("id"), data, fields.get("", ""), fields.get("retry"))


class Reader:
    """An open stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._bytes = response.aiter_raw()
        self._rest = b""

    async def next(self) -> Event | None:
        """The next event, or None at the end."""
        async with asyncio.timeout(WAIT_SECONDS):
            while b"\n\n" not in self._rest:
                chunk = await anext(self._bytes, None)
                if chunk is None:
                    assert self._rest == b"", "the stream ended within an event"
                    return None
                self._rest += chunk
        block, _, self._rest = self._rest.partition(b"\n\n")
        return parsed(block)

    async def rest(self) -> list[Event]:
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    async def until(self, kind: str) -> Event:
        while True:
            event = await self.next()
            assert event is not None, f"the stream ended without {kind}"
            if event.data and event.frame["type"] == kind:
                return event


@asynccontextmanager
async def reading(
    home: House, run_id: str, query: str = "", **headers: str
) -> AsyncIterator[Reader]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with home.http.stream(
        "GET", f"/api/runs/{run_id}/events{query}", headers=named
    ) as response:
        assert response.status_code == 200, await response.aread()
        yield Reader(response)


async def events_of(home: House, run_id: str, query: str = "", **headers: str) -> list[Event]:
    """All events of a stream, to its end."""
    async with reading(home, run_id, query, **headers) as reader:
        return await reader.rest()


def stored(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The frames of the log among them."""
    return [event.frame for event in events if event.data and "at" in event.frame]


class Talker(FakeAgent):
    """One of its attempts says `count` texts of 4 KiB."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        if order.ref.step_id == "review.security":
            await emit([_said(order, number) for number in range(self._count)])
        return await super().run(order, emit)


def _said(order: AgentOrder, number: int) -> FlowRunStepDelta:
    return FlowRunStepDelta(
        run_id=order.ref.run_id,
        step_id=order.ref.step_id,
        attempt=order.ref.attempt,
        channel=Channel.THINKING,
        offset=number * 4096,
        text=chr(97 + number % 26) * 4096,
    )


async def altered(place: Path, sql: str, *values: object) -> None:
    """Change the stored rows behind the server's back, as a power cut or an expiry leaves them."""

    def change() -> None:
        with closing(sqlite3.connect(place / "data" / "podium.db")) as db, db:
            db.execute(sql, values)

    await asyncio.to_thread(change)
