"""Publishing, subscribing, crashing and expiring in every order, over the real store and hub: a
client that keeps the rule of docs/wire.md has the log, whole, once and in order.

Each guard that this hangs on has its control: the same property with the guard taken away, where
the checker must find an order of moves that breaks it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from protocol.commands import Detail
from protocol.connection import Connection, Following
from protocol.frames import FlowRunHeartbeat
from protocol.ids import RunId
from server.channel import framing, hub
from server.channel.delivery import Delivery
from server.channel.outbox import Outbox
from server.ports import Hub, Store
from server.stores import log_reader, writer
from server.stores.writer import Tick
from tests.server.arena import Arena, Example, PublishFirst, Violation, Way, World, inline

EXAMPLES, READERS = 500, 10
"""Each reader of an example has an order of moves of its own: 5,000 in all."""

FRAME_BYTES = 250
"""Of one here, as it leaves over a WebSocket, about."""

pytestmark = pytest.mark.timeout(600)

OFTEN = [
    *["append"] * 10, *["commit"] * 10, *["answer"] * 20, *["pump"] * 30, *["subscribe"] * 14,
    *["unsubscribe"] * 3, *["drop"] * 3,
]  # fmt: skip
KINDS = [*OFTEN, "end", "crash", "cut"]
LOSSY = [*KINDS, *["lose"] * 8, *["beat"] * 4]
LIVE = ["subscribe", *["answer"] * 3, *["append"] * 3, *["commit"] * 5, *["pump"] * 6]


def examples(
    kinds: list[str], *, readers: int, details: Sequence[Detail] = tuple(Detail)
) -> st.SearchStrategy[Example]:
    move = st.tuples(st.sampled_from(kinds), st.integers(0, readers - 1), st.integers(0, 30))
    chosen = st.lists(st.sampled_from(details), min_size=readers, max_size=readers)
    moves = st.lists(move, min_size=20 + 5 * readers, max_size=30 + 10 * readers)
    sizes = (st.integers(1, 8), st.sampled_from([0, 64]), st.integers(1, 5))
    return st.builds(Example, chosen, moves, *sizes, live=st.integers(0, readers))


class Play:
    """One event loop and one store for all examples."""

    def __init__(self, runner: asyncio.Runner, arena: Arena) -> None:
        self._runner = runner
        self._arena = arena

    def __call__(self, example: Example, way: Way) -> None:
        """Raises Violation."""
        with (
            patch.object(hub, "RING_FRAMES", example.ring),
            patch.object(hub, "MAX_RINGS", example.rings),
            patch.object(framing, "PAGE_BYTES", example.page * FRAME_BYTES),
            patch.object(log_reader, "PAGE_BYTES", example.page * FRAME_BYTES),
            patch.object(writer, "Tick", PublishFirst if way.publish_first else Tick),
            patch.object(asyncio, "to_thread", inline),
        ):
            self._runner.run(World(self._arena, example, way).played())

    def violates(self, example: Example, way: Way) -> bool:
        try:
            self(example, way)
        except Violation:
            return True
        return False


@pytest.fixture
def no_blocking_calls() -> None:
    """Here the store works in the loop itself."""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    with asyncio.Runner() as runner:
        arena = Arena(tmp_path_factory.mktemp("arena"))
        runner.run(arena.boot())
        yield Play(runner, arena)
        runner.run(arena.stop())


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(example=examples(KINDS, readers=READERS))
def test_every_reader_has_the_log(play: Play, example: Example) -> None:
    play(example, Way())


@settings(max_examples=EXAMPLES // 10, deadline=None, suppress_health_check=list(HealthCheck))
@given(example=examples(LOSSY, readers=READERS, details=[Detail.FULL]))
def test_what_is_lost_on_the_way_is_found_by_the_heads_of_heartbeats(
    play: Play, example: Example
) -> None:
    play(example, Way(lossy=True))


# --- the guards, taken away -----------------------------------------------------------------------


class Deaf:
    """The hub, of which nobody hears anything."""

    def __init__(self, hub: Hub) -> None:
        self.real = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def listen(self, run_id: RunId, wake: Callable[[RunId], None]) -> None: ...


class RegisterSecond(Delivery):
    """Reads the head first, and begins to listen when the answer is given."""

    def __init__(self, connection: Connection, *, store: Store, hub: Hub, wake: Any) -> None:
        super().__init__(connection, store=store, hub=cast(Hub, Deaf(hub)), wake=wake)

    def _join(self, run_id: RunId) -> None:
        cast(Deaf, self._hub).real.listen(run_id, self._note)

    def _begin(self, run_id: RunId, following: Following) -> None:
        self._join(run_id)
        super()._begin(run_id, following)


class ReplayThenJoin(RegisterSecond):
    """Replays up to the head, and only then begins to listen."""

    def _begin(self, run_id: RunId, following: Following) -> None:
        Delivery._begin(self, run_id, following)

    def _say_caught_up(self, run_id: RunId, following: Following, outbox: Outbox) -> None:
        super()._say_caught_up(run_id, following, outbox)
        if following.live:
            self._join(run_id)


class NoHeads(Delivery):
    def heartbeat(self, at: str) -> FlowRunHeartbeat:
        return FlowRunHeartbeat(heads={}, at=at)


class StaleHeads(Delivery):
    """The heads are those of the subscriptions' beginnings."""

    def heartbeat(self, at: str) -> FlowRunHeartbeat:
        following = self._connection.following.items()
        return FlowRunHeartbeat(heads={run_id: it.head for run_id, it in following}, at=at)


WRONG = {
    "register second": Way(delivery=RegisterSecond),
    "replay, then join": Way(delivery=ReplayThenJoin),
    "publish before the commit": Way(publish_first=True),
    "no heads": Way(delivery=NoHeads, lossy=True),
    "stale heads": Way(delivery=StaleHeads, lossy=True),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_checker_sees_through_every_wrong_way(play: Play, wrong: str) -> None:
    way = WRONG[wrong]
    kinds = [*LIVE, "lose", "beat"] if way.lossy else [*LIVE, "crash"]
    order = examples(kinds, readers=1, details=[Detail.FULL] if way.lossy else list(Detail))
    try:
        found = find(
            order,
            lambda example: play.violates(example, way),
            settings=settings(
                max_examples=5_000, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
    except NoSuchExample:
        pytest.fail("the checker accepts the wrong way")
    play(found, Way(lossy=way.lossy))
