"""Each guard of the channel, with and without it: the same attack is harmless with it, and without
it the checker sees what comes of it. So no guard can go unnoticed."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.frames import Channel, FlowRunStepDelta
from server.limits import HEARTBEAT_SECONDS
from server.ports import AgentFailure, AgentOrder, AgentResult, Emit, Fenced
from server.world import SystemClock
from tests.chaos.app import STEP, Pace
from tests.chaos.broken import GUARDS
from tests.chaos.places import accepted
from tests.chaos.servers import Served, served
from tests.chaos.viewers import Place, all_live, until, viewing
from tests.fakes.agent import FakeAgent
from tests.server.harness import House, Socket, house
from tests.server.raw_peer import TEXT, raw_peer, subscribing

pytestmark = pytest.mark.timeout(300)

LOG = Pace(target=1_500, at_once=250, size=4_000)
"""Of 6 MB: whoever asks for it and does not read is stalled."""
PATIENCE = 60.0
"""For what must come."""
SURE = 2.0
"""For what cannot come any more."""

Faults = list[str]


@asynccontextmanager
async def running(place: Path, guard: str | None, **told: Any) -> AsyncIterator[Served]:
    place.mkdir()
    async with served(place, without=guard, **told) as server:
        yield server
        if guard is not None:
            await server.kill()  # nobody needs to see how it stops


@asynccontextmanager
async def here(place: Path, guard: str | None, **how: Any) -> AsyncIterator[House]:
    place.mkdir()
    with pytest.MonkeyPatch.context() as change:
        if guard is not None:
            GUARDS[guard](change)
        async with house(place, **how) as home:
            yield home


# --- commit before publish ------------------------------------------------------------------------


async def shown_and_not_kept(place: Path, guard: str | None) -> Faults:
    """A server is killed as soon as a viewer has seen what an agent said."""
    async with running(place, guard, pace=Pace(target=100, at_once=10)) as server:
        run_id = await server.launch()
        async with viewing(Place(server.url), run_id, 1, remembers=True) as (viewer,):
            await until(lambda: viewer.said > 0, seconds=PATIENCE)
            await server.kill()
            kept = (await server.log(run_id)).head
            await until(lambda: not viewer.live.is_set(), seconds=PATIENCE)
            return [f"{viewer.last} was shown, {kept} is kept"] if viewer.last > kept else []


# --- stalled sockets ------------------------------------------------------------------------------


async def stalled_that_stay(place: Path, guard: str | None) -> Faults:
    """Sockets that the application has given up and let go."""
    settings = {"stall_seconds": 0.5}
    async with (
        running(place, guard, pace=LOG, settings=settings) as server,
        AsyncExitStack() as peers,
    ):
        run_id = await server.launch()
        await server.published(LOG.target)
        ports = set()
        for _ in range(3):
            peer = await peers.enter_async_context(raw_peer(server.url))
            await peer.send(subscribing(run_id))
            ports.add(peer.socket.getsockname()[1])
        async with asyncio.timeout(PATIENCE):
            while (await server.state()).sockets:
                await asyncio.sleep(0.05)
        left = await what_is_left(
            lambda: sorted(ports & set(accepted(server.pid, server.port))), guard
        )
        return [f"the socket of {port} is still there" for port in left]


async def held_up(place: Path, guard: str | None) -> Faults:
    """Viewers that get nothing because another one does not read."""
    async with (
        running(place, guard, pace=LOG, settings={"stall_seconds": 600}) as server,
        AsyncExitStack() as peers,
    ):
        run_id = await server.launch()
        await server.published(LOG.target)
        place_of = Place(server.url)
        async with viewing(place_of, run_id, 5, after=LOG.target) as crowd:
            await all_live(crowd)
            peer = await peers.enter_async_context(raw_peer(server.url))
            await peer.send(subscribing(run_id))
            # It is stuck when it has taken what its kernel takes; what comes then is for others.
            await until(
                lambda: peer.socket.getsockname()[1] in accepted(server.pid, server.port),
                seconds=PATIENCE,
            )
            await server.pace(Pace(target=LOG.target + 1_000, ends=True))
            left = await what_is_left(
                lambda: [number for number, it in enumerate(crowd) if not it.finished.is_set()],
                guard,
            )
            peer.reset()
        return [f"viewer {number} has waited" for number in left]


async def vanished_that_stay(place: Path, guard: str | None) -> Faults:
    """Sockets whose peer's packets do not come through any more."""
    async with here(place, guard) as home, AsyncExitStack() as peers:
        home.server.config.ws_ping_interval = home.server.config.ws_ping_timeout = 0.3
        ports = set()
        for _ in range(3):
            peer = await peers.enter_async_context(raw_peer(home.url))
            await peer.until(TEXT)
            peer.deafen()
            ports.add(peer.socket.getsockname()[1])
        left = await what_is_left(
            lambda: sorted(ports & set(accepted(os.getpid(), int(home.url.rpartition(":")[2])))),
            guard,
        )
        return [f"the socket of {port} is still there" for port in left]


async def what_is_left(look: Callable[[], list[int]], guard: str | None) -> list[int]:
    """Wait until nothing is; with the guard away for as long as is needed to be sure."""
    try:
        await until(lambda: not look(), seconds=PATIENCE if guard is None else SURE)
    except TimeoutError:
        return look()
    return []


# --- attempts -------------------------------------------------------------------------------------


class LateAgent(FakeAgent):
    """The second attempt of a step runs, and the first one, which has failed, still speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = False
        self._first: tuple[AgentOrder, Emit] | None = None

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        if order.ref.step_id != STEP:
            return await super().run(order, emit)
        if self._first is None:
            self._first = (order, emit)
            return self._result(order, AgentFailure(reason="x", message="no", repairable=True))
        try:
            await speak(*self._first)
        except Fenced:
            self.refused = True
        await speak(order, emit)
        return self._result(order, self.answer(order))


async def speak(order: AgentOrder, emit: Emit) -> None:
    text = FlowRunStepDelta(
        run_id=order.ref.run_id, step_id=order.ref.step_id, attempt=order.ref.attempt,
        channel=Channel.TEXT, offset=0, text=f"I am attempt {order.ref.attempt}",
    )  # fmt: skip
    await emit([text])


async def late_attempts(place: Path, guard: str | None) -> Faults:
    agent = LateAgent()
    async with here(place, guard, agent=agent) as home:
        frames = await home.end_of(await home.launch())
    assert frames[-1]["status"] == "completed"
    assert any(frame.get("text") == "I am attempt 2" for frame in frames)
    assert agent.refused is (guard is None)
    return too_late(frames)


def too_late(frames: Iterable[dict[str, Any]]) -> Faults:
    """Frames of an attempt behind those of a later one."""
    newest: dict[str, int] = {}
    faults = []
    for frame in frames:
        step_id, attempt = frame.get("step_id"), frame.get("attempt", 0)
        if step_id is None:
            continue
        if attempt < newest.get(step_id, 0):
            faults.append(f"{frame['seq']}: attempt {attempt} of {step_id}")
        newest[step_id] = max(attempt, newest.get(step_id, 0))
    return faults


# --- a quiet tail ---------------------------------------------------------------------------------


class Beats(SystemClock):
    """A heartbeat comes when the test says so: else it would mend what is to be seen here."""

    def __init__(self) -> None:
        self.due = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds == HEARTBEAT_SECONDS:
            await self.due.wait()
            self.due.clear()
        else:
            await super().sleep(seconds)


async def missed_at_the_tail(place: Path, guard: str | None) -> Faults:
    """The end of a run that comes right after a viewer has caught up."""
    async with here(place, guard, clock=Beats()) as home:
        home.agent.hold()
        run_id = await home.launch()
        await home.agent.started(2)
        async with home.socket() as wire:
            await wire.send(type="subscribe", id="s", run_id=run_id)
            await wire.until(type="flow_run_caught_up")
            home.agent.release()
            await ended(home, run_id)
            try:
                async with asyncio.timeout(PATIENCE if guard is None else SURE):
                    await wire.until(type="flow_run_finished")
            except TimeoutError:
                return ["the end was never told"]
    return []


async def ended(home: House, run_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await home.http.get(f"/api/runs/{run_id}")).json()["run"]["status"] != "completed":
            await asyncio.sleep(0.02)


async def loss_that_nobody_tells(place: Path, guard: str | None) -> Faults:
    """The last frame before a quiet time does not arrive, and no other one comes."""
    clock = Beats()
    async with here(place, guard, clock=clock) as home:
        run_id = await home.launch()
        last = (await home.end_of(run_id))[-1]["seq"]
        async with home.socket() as wire:
            await wire.send(type="subscribe", id="s", run_id=run_id)
            has = await up_to(wire, last - 1)
            clock.due.set()
            told = await wire.until(type="flow_run_heartbeat")
    return [] if told["heads"].get(run_id, 0) > has else ["the client does not know of it"]


async def up_to(wire: Socket, last: int) -> int:
    """What a client has that loses all frames after one."""
    has = 0
    while (frame := await wire.receive())["type"] != "flow_run_caught_up":
        if "at" in frame and frame.get("seq", 0) <= last:
            has = max(has, frame.get("seq", 0))
    return has


# --- all of them ----------------------------------------------------------------------------------

ATTACKS: dict[str, Callable[[Path, str | None], Awaitable[Faults]]] = {
    "commit before publish": shown_and_not_kept,
    "abort": stalled_that_stay,
    "a writer for each socket": held_up,
    "pings": vanished_that_stay,
    "attempt check": late_attempts,
    "register first": missed_at_the_tail,
    "heartbeat heads": loss_that_nobody_tells,
}


def test_no_guard_is_without_its_attack() -> None:
    assert set(ATTACKS) == set(GUARDS)


@pytest.mark.parametrize("guard", GUARDS)
async def test_a_guard_holds_and_is_needed(tmp_path: Path, guard: str) -> None:
    assert await ATTACKS[guard](tmp_path / "with", None) == []
    assert await ATTACKS[guard](tmp_path / "without", guard) != []
