"""Whom the command line takes for the server of DIR: it is given the operator's token."""

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.local import ServerFile, running_server
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
        found = ServerFile(url=f"http://127.0.0.1:{port}", token="t", pid=1)
        await asyncio.to_thread(found.write, tmp_path)
        yield found


async def test_only_who_holds_the_folder_is_its_server(place: ServerFile, tmp_path: Path) -> None:
    assert await running_server(tmp_path) is None, "there never was a server"
    with await asyncio.to_thread(lock, tmp_path):
        assert await running_server(tmp_path) == place
    assert await running_server(tmp_path) is None, "it was killed"


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
