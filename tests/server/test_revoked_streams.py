"""Whoever may no longer follow a run gets no more of it, however slowly they take what there is."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.http.event_outbox import EventOutbox
from server.http.sse import Stream
from server.http.streamed import Outlet
from server.ports import StoreUnavailable
from tests.server.harness import WAIT_SECONDS, House
from tests.server.people import Person, admit, shared_house, socket_of
from tests.server.readers import Talker
from tests.server.test_events import LARGE, open_streams, stalled_reader
from tests.server.test_revocation import End, events, launched, leave_project, revoke_user

BUFFERED = 64 * 1024
"""So much waits in the server before a stream writes no more."""
FRAMING = 4 * 1024
"""Of the answer's head and of its chunks, at most."""


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with shared_house(tmp_path, agent=Talker(LARGE), stall_seconds=600.0) as opened:
        yield opened


@pytest.fixture
async def ann(home: House) -> Person:
    return await admit(home, "ann", home.project_id)


async def ended(home: House, person: Person) -> str:
    """A run of theirs that has ended."""
    run_id = await launched(home, person)
    async with socket_of(home, person) as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        assert [frame async for frame in wire.frames_of(run_id)]
    return run_id


async def full(stream: Stream) -> Outlet:
    """Wait until its reader lets it write no more."""
    async with asyncio.timeout(WAIT_SECONDS):
        while stream._outbox is None or stream._outbox._outlet.waiting < BUFFERED:
            await asyncio.sleep(0)
    return stream._outbox._outlet


async def drops(peer: socket.socket) -> int:
    """Take what still comes, to the end, a little at a time; how much it was."""
    taken = 0
    loop = asyncio.get_running_loop()
    with suppress(ConnectionResetError):
        async with asyncio.timeout(WAIT_SECONDS):
            while data := await loop.sock_recv(peer, 4096):
                taken += len(data)
    return taken


@pytest.mark.parametrize("end", [revoke_user, leave_project])
@pytest.mark.parametrize("guarded", [True, False])
async def test_what_waits_for_a_slow_reader_does_not_leave(
    home: House, ann: Person, end: End, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Only what the kernel had. The control ends the stream as well, after its page."""
    if not guarded:
        monkeypatch.setattr(EventOutbox, "drop", lambda self: None)
    handed = 0
    write = Outlet.write

    async def counted(self: Outlet, data: bytes) -> None:
        nonlocal handed
        handed += len(data)
        await write(self, data)

    run_id = await ended(home, ann)
    monkeypatch.setattr(Outlet, "write", counted)
    with await stalled_reader(home, run_id, ann.token) as peer:
        (stream,) = open_streams(home)
        waiting = (await full(stream)).waiting
        gone = handed - waiting
        await end(home, ann)
        if guarded:  # it need not take a byte for that
            await asyncio.wait_for(stream.ended.wait(), WAIT_SECONDS)
        assert (await drops(peer) <= gone + FRAMING) is guarded
    await asyncio.wait_for(stream.ended.wait(), WAIT_SECONDS)


@pytest.mark.parametrize("guarded", [True, False])
async def test_the_log_is_not_read_again(
    home: House, ann: Person, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The control is a stream that is not told to end."""
    if not guarded:
        monkeypatch.setattr(EventOutbox, "drop", lambda self: None)
        monkeypatch.setattr(Stream, "_ending", False)
    reads: list[object] = []

    async def read(*args: object, **kwargs: object) -> None:
        reads.append(args)
        raise StoreUnavailable("that is all")

    run_id = await ended(home, ann)
    with await stalled_reader(home, run_id, ann.token) as peer:
        (stream,) = open_streams(home)
        await full(stream)
        monkeypatch.setattr(stream._store, "page", read)
        await revoke_user(home, ann)
        await drops(peer)
        await asyncio.wait_for(stream.ended.wait(), WAIT_SECONDS)
    assert (reads == []) is guarded


async def test_a_stream_that_is_withdrawn_while_it_opens_says_nothing(
    home: House, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it would begin, or the run as it is."""
    run_id = await ended(home, ann)
    opening = Stream.open

    async def slow(self: Stream) -> None:
        await opening(self)
        await revoke_user(home, ann)

    monkeypatch.setattr(Stream, "open", slow)
    async with events(home, ann, run_id) as reader:
        assert await reader.rest() == []
