"""Whom the command line takes for the server of DIR: it is given the operator's token."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from server.local import (
    ServerFile,
    own_server,
    read_server_file,
    running_server,
    still_runs,
)
from server.stores import migrate
from server.stores.migrate import StoreLocked, lock


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[ServerFile]:
    """Somebody who answers as a podium does, on the port of one that was killed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        found = ServerFile(url=f"http://127.0.0.1:{port}", token="t", pid=os.getpid())
        await asyncio.to_thread(found.write, tmp_path)
        yield found


async def test_only_who_holds_the_folder_is_its_server(place: ServerFile, tmp_path: Path) -> None:
    assert await running_server(tmp_path) is None, "there never was a server"
    with await asyncio.to_thread(lock, tmp_path):
        assert await running_server(tmp_path) == place
    assert await running_server(tmp_path) is None, "it was killed"


async def test_the_file_of_a_killed_server_does_not_speak_for_the_next_one(
    place: ServerFile, tmp_path: Path
) -> None:
    """Whoever has its port now would be given the token while the next server is starting."""
    with await asyncio.to_thread(lock, tmp_path):
        killed = msgspec.structs.replace(place, pid=1)
        await asyncio.to_thread(killed.write, tmp_path)
        assert await running_server(tmp_path) is None
        assert not await still_runs(tmp_path, killed)
        await asyncio.to_thread(place.write, tmp_path)
        assert await running_server(tmp_path) == place
        assert await still_runs(tmp_path, place)


async def test_who_reads_while_a_server_says_where_it_is_reads_all_of_it(tmp_path: Path) -> None:
    """Else a command takes it for none, and starts one that finds DIR in use."""
    places = [ServerFile(url="u" * size, token="t", pid=1) for size in (10, 60_000)]
    await asyncio.to_thread(places[0].write, tmp_path)

    def write() -> None:
        for number in range(1_000):
            places[number % 2].write(tmp_path)

    writing = asyncio.create_task(asyncio.to_thread(write))
    reads = 0
    while not writing.done() or not reads:
        assert await asyncio.to_thread(read_server_file, tmp_path) in places
        reads += 1
    await writing
    assert [it.name for it in tmp_path.iterdir()] == ["server.json"]


async def test_two_commands_that_start_a_server_at_once_use_one(tmp_path: Path) -> None:
    """Both find none and start one; who comes second uses the other's, and does not end it."""
    async with AsyncExitStack() as stack:
        starting = [
            asyncio.create_task(stack.enter_async_context(own_server(tmp_path, os.environ)))
            for _ in range(2)
        ]
        started = await asyncio.gather(*starting)
        assert sorted(it.own for it in started) == [False, True]
        assert started[0].place == started[1].place
        assert await running_server(tmp_path) == started[0].place
    assert await running_server(tmp_path) is None
    assert "\0" not in await asyncio.to_thread((tmp_path / "server.log").read_text)


def test_who_only_looks_keeps_no_server_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open(encoding="ascii") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            fcntl.flock(looking, fcntl.LOCK_UN)

        monkeypatch.setattr(time, "sleep", pause)
        with lock(tmp_path):
            assert pauses == [migrate.LOCK_PAUSE]
            monkeypatch.setattr(time, "sleep", pauses.append)
            with pytest.raises(StoreLocked):
                lock(tmp_path)
    assert len(pauses) == migrate.LOCK_TRIES
