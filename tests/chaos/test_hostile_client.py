"""Whatever comes through the door, the right answer goes back, nothing stays, and nobody beside it
notices."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from server.limits import LimitSettings
from tests.chaos.app import Pace
from tests.chaos.bad_frames import fragment_sessions, frame_sessions
from tests.chaos.bad_handshakes import handshake_sessions, opening
from tests.chaos.bad_messages import message_sessions
from tests.chaos.bad_requests import request, request_sessions, unknown_paths
from tests.chaos.places import resident, sockets_of
from tests.chaos.servers import Served, served
from tests.chaos.strikers import ALIVE, BUSY, STILL_THERE, Case, session, strike
from tests.chaos.viewers import Place, Viewer, all_finished, all_live, viewing
from tests.server.harness import WAIT_SECONDS
from tests.server.raw_peer import CLOSE, PONG, TEXT, fragments, frame, raw_peer

FRAMES, HANDSHAKES, MESSAGES, REQUESTS, PATHS = 50_000, 10_000, 100_000, 3_000, 10_000
FLOODS, FRAGMENTS = 20, 100_000
"""Sessions, and fragments in each."""
MEMORY = 5 * 1024 * 1024
FULL = Pace(target=8_000, at_once=250, size=1_000)
"""More than the server keeps at hand of a live run and of its store: it has all the memory that it
needs for those."""
LIVE = Pace(target=10_000_000, at_once=2, pause=0.2, size=100)
"""What the healthy see meanwhile."""
AT_ONCE = 16
UNLIMITED = LimitSettings(
    sockets_per_user=1_000,
    request_burst=10_000,
    requests_per_second=10_000,
    launch_burst=10_000,
    launches_per_second=10_000,
)
"""Of one user, who is everybody here; the limits of single sockets are the usual ones."""
CALM_SECONDS = 60.0
"""For the last connections to end: they linger for 2 s."""


class Standing(NamedTuple):
    """What a server has."""

    tasks: int
    sockets: int
    memory: int


async def standing(server: Served) -> Standing:
    state = await server.state(trim=True)
    return Standing(sum(state.tasks.values()), len(sockets_of(server.pid)), resident(server.pid))


async def calm(server: Served, before: Standing) -> Standing:
    """What it has once no task and no descriptor is left of what came after `before`."""
    try:
        async with asyncio.timeout(CALM_SECONDS):
            while (now := await standing(server))[:2] > before[:2]:
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"something is left: {now}, and before it was {before}")
    return now


@asynccontextmanager
async def watched(place: Path) -> AsyncIterator[tuple[Served, list[Viewer]]]:
    """A server, and healthy panes beside what comes; they must have seen everything, and never have
    been cut off."""
    async with served(place, pace=FULL, limits=UNLIMITED) as server:
        run_id = await server.launch()
        await server.published(FULL.target)
        async with viewing(Place(server.url), run_id, 3) as healthy:
            await all_live(healthy)
            await server.pace(LIVE)
            yield server, list(healthy)
            await server.pace(Pace(ends=True))
            await all_finished(healthy)
        head = (await server.log(run_id)).head
        assert [viewer.wrong for viewer in healthy] == [[]] * 3
        assert {viewer.last for viewer in healthy} == {head}
        assert {viewer.connects for viewer in healthy} == {1}


def host_of(server: Served) -> str:
    return f"127.0.0.1:{server.port}"


async def attack(server: Served, *, part: float, seed: int) -> None:
    """All kinds of bad sessions, each answered as it must be; `part` of the full numbers."""
    host = host_of(server)
    # Bodies of megabytes come first, and few at once: what the allocator keeps of them for a while
    # is another thing than what is never given back.
    requests = request_sessions(host, round(REQUESTS * part), seed=seed)
    floods = fragment_sessions(host, max(2, round(FLOODS * part)), each=FRAGMENTS)
    kinds: list[tuple[Iterable[Case], int]] = [
        (requests, 4),
        (floods, 4),
        (frame_sessions(host, round(FRAMES * part), seed=seed), AT_ONCE),
        (handshake_sessions(host, round(HANDSHAKES * part), seed=seed), AT_ONCE),
        (message_sessions(host, round(MESSAGES * part), seed=seed), AT_ONCE),
    ]
    for cases, at_once in kinds:
        struck = await strike(server.port, cases, at_once=at_once, whole=cases is floods)
        assert struck.sessions > 0
        assert struck.wrong == []
    await ask_for_nothing(server, round(PATHS * part))


async def ask_for_nothing(server: Served, paths: int) -> None:
    """One connection asks for one path after the other that there is not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for first in range(0, paths, 50):
            count = min(50, paths - first)
            writer.write(unknown_paths(host_of(server), count))
            for _ in range(count):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_SECONDS)
                assert head.startswith(b"HTTP/1.1 404 ")
                await reader.readexactly(len(b"Not Found"))
    finally:
        writer.close()


async def chatter(server: Served) -> int:
    """1,000 messages a second, until the socket is closed; returns the code."""
    async with raw_peer(server.url) as peer:
        closed = asyncio.create_task(peer.until(CLOSE))
        ping = b"".join(frame(TEXT, b'{"type":"ping","id":"%d"}' % number) for number in range(100))
        while not closed.done():
            await peer.send(ping)
            await asyncio.wait([closed], timeout=0.1)
        return (await closed).code


async def trickle(server: Served, beginning: bytes, more: bytes) -> bytes:
    """Send a little, and then a byte now and then: what comes back before the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answer = asyncio.create_task(reader.read())
    writer.write(beginning)
    try:
        while not answer.done():
            writer.write(more)
            await asyncio.wait([answer], timeout=0.5)
        return await answer
    finally:
        writer.close()


async def slow(server: Served) -> None:
    """Headers and bodies that never end, two dozen at a time."""
    heads = [
        (opening(host_of(server))[:-2] + b"X: ", b"x"),
        (b"GET / HTTP/1.1\r\nX: ", b"x"),
        (b"P", b""),
        (request(host_of(server), "POST /api/runs", body=b"{", length=1_000), b" "),
    ]  # fmt: skip
    answers = await asyncio.gather(*(trickle(server, *head) for head in heads * 6))
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}


@pytest.mark.timeout(900)
async def test_nothing_that_comes_breaks_the_server(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, _):
        await attack(server, part=0.05, seed=1)
        before = await calm(server, await standing(server))
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(chatter(server))
            group.create_task(slow(server))
            await attack(server, part=1.0, seed=2)
        assert talking.result() == 4429
        after = await calm(server, before)
        grown = after.memory - before.memory
        assert grown <= MEMORY, f"{grown:,} bytes more than before"
    assert await server.said() == "", "no stranger fills the log"


async def test_a_hundred_sockets_of_one_user(tmp_path: Path) -> None:
    async with served(tmp_path, limits=LimitSettings()) as server, AsyncExitStack() as stay:
        before = await standing(server)
        held = [await stay.enter_async_context(raw_peer(server.url)) for _ in range(32)]
        more = Case("one more", opening(host_of(server)), STILL_THERE, frozenset({BUSY}))
        assert (await wrongs(server, [more] * 68)) == []
        for peer in held:
            await peer.send(STILL_THERE)
            await peer.until(PONG)
        for peer in held:
            peer.reset()
        await calm(server, before)
        again = Case("again", opening(host_of(server)), STILL_THERE, frozenset({ALIVE}))
        assert await session(server.port, again, "reset") == ALIVE


async def wrongs(server: Served, cases: Iterable[Case]) -> list[str]:
    """What was answered otherwise than it must be."""
    return (await strike(server.port, cases, at_once=AT_ONCE)).wrong


# ── what the guards are there for ────────────────────────────────────────────────────────────────


async def test_without_the_cap_a_flood_is_a_message(tmp_path: Path) -> None:
    flood = fragments(3_000) + STILL_THERE
    async with served(tmp_path, without="fragments") as server:
        case = Case("flood", opening(host_of(server)), flood, frozenset({"4413"}))
        assert await wrongs(server, [case]) == ["flood: alive, not 4413"]


async def test_memory_that_is_filled_is_seen(tmp_path: Path) -> None:
    async with served(tmp_path, without="headers") as server:
        assert await wrongs(server, frame_sessions(host_of(server), 300, seed=1)) == []
        before = await standing(server)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n" + b"X: yyyyyyyyyyyy\r\n" * 200_000)
        async with asyncio.timeout(WAIT_SECONDS):
            while (await standing(server)).memory - before.memory <= MEMORY:
                await asyncio.sleep(0.05)
        writer.transport.abort()


async def test_a_traceback_does_not_go_unseen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Traceback"):
        async with served(tmp_path, without="UTF-8") as server:
            bad = Case("", opening(host_of(server)), frame(TEXT, b"\xff"), frozenset({"1007"}))
            assert await wrongs(server, [bad]) == []
