"""A server under test in a process of its own, and what its disk holds."""

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx
import msgspec

from server.local import ServerFile, running_server
from server.stores.sqlite import FILE
from tests.chaos.app import PUBLISH, Pace, State, Told
from tests.server.harness import TOKEN, plain_http, repository

READY_SECONDS = 120.0
MEASURED = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
"""A server under load is not measured for coverage: it would be another server."""


class Log(NamedTuple):
    """The frames of a run that a disk holds behind one, each with the checksum of all from there up
    to it."""

    after: int
    seqs: list[int]
    sums: list[int]

    @property
    def head(self) -> int:
        return self.after + len(self.seqs)

    @property
    def end(self) -> tuple[int, int]:
        """The last frame, and the checksum of all: what a viewer has in the end."""
        return self.seqs[-1], self.sums[-1]

    def begins_with(self, earlier: "Log") -> bool:
        size = len(earlier.sums)
        return self.sums[:size] == earlier.sums

    @property
    def whole(self) -> bool:
        return self.seqs == list(range(self.after + 1, self.head + 1))


class Served:
    """One DIR and the server on it. It can be killed, stopped, and started again."""

    def __init__(self, place: Path, **told: Any) -> None:
        self.place = place
        self.data = place / "data"
        self.told = Told(data=str(self.data), project=str(place / "project"), **told)
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def start(self, **changes: Any) -> None:
        """Raises AssertionError, with what the server said, when it does not come up."""
        self.told = msgspec.structs.replace(self.told, **changes)
        with await asyncio.to_thread(self._log) as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.chaos.app", msgspec.json.encode(self.told).decode(),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=log,
                env=environment(os.environ),
            )  # fmt: skip
        self.url = (await self._ready()).url

    async def _ready(self) -> ServerFile:
        assert self.process is not None
        ended = asyncio.create_task(self.process.wait())
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not ended.done():
                    place = await running_server(self.data)
                    if place is not None and place.pid == self.process.pid:
                        return place
                    await asyncio.wait([ended], timeout=0.02)
        finally:
            ended.cancel()
        raise AssertionError(f"the server ended before it was ready: {await self.said()}")

    def _log(self) -> IO[bytes]:
        return (self.place / "server.log").open("ab")

    async def said(self) -> str:
        """What all servers of this place have logged: warnings and worse."""
        return await asyncio.to_thread((self.place / "server.log").read_text)

    async def kill(self) -> None:
        """As a crash would: no handler of the server runs."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    async def published(self, frames: int) -> None:
        """Wait until the publisher has so many."""
        async with asyncio.timeout(READY_SECONDS):
            while (await self.state()).log < frames:
                await asyncio.sleep(0.02)

    async def state(self, *, trim: bool = False) -> State:
        """`trim`: once the process has given back the memory that it does not need."""
        return await self._chaos("GET", trim=trim)

    async def pace(self, pace: Pace) -> None:
        """Tell the publisher of this process; another one is told by `start(pace=...)`."""
        await self._chaos("POST", msgspec.json.encode(pace))

    async def _chaos(self, method: str, body: bytes = b"", *, trim: bool = False) -> State:
        place = "/chaos?trim=1" if trim else "/chaos"
        async with self.http() as http:
            answer = await http.request(method, place, content=body)
        return msgspec.json.decode(answer.content, type=State)

    def http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return plain_http(base_url=self.url, headers=headers, timeout=60)

    async def launch(self, question: str = PUBLISH) -> str:
        """A run whose publisher publishes; with another question, one that ends at once."""
        answer = await self.launching(question)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["run_id"])

    async def launching(self, question: str) -> httpx.Response:
        body = {
            "project_id": await self.project(),
            "flow_name": "code-review",
            "band": "small",
            "input": {"question": question, "paths": ["src"]},
        }
        async with self.http() as http:
            return await http.post("/api/runs", json=body)

    async def project(self) -> str:
        async with self.http() as http:
            return str((await http.get("/api/projects")).json()["projects"][0]["id"])

    async def status(self, run_id: str) -> str:
        async with self.http() as http:
            return str((await http.get(f"/api/runs/{run_id}")).json()["run"]["status"])

    async def log(self, run_id: str, *, after: int = 0) -> Log:
        """What the disk holds, the server running or not."""
        return await asyncio.to_thread(stored, self.data, run_id, after)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in given.items() if name not in MEASURED}


def stored(data: Path, run_id: str, after: int) -> Log:
    """Read from a copy: opening the database would put its journal away, which is the next
    server's to find."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (FILE, f"{FILE}-wal"):
            if (data / name).exists():
                shutil.copy(data / name, folder)
        with closing(sqlite3.connect(Path(folder) / FILE)) as db:
            return summed(frames_of(db, run_id), after)


def frames_of(db: sqlite3.Connection, run_id: str) -> Iterator[tuple[int, bytes]]:
    """Folded or not; a folded page is lines, each with a mark before its frame."""
    folded = "SELECT first, data FROM flow_frame_pages WHERE run_id = ? ORDER BY first"
    for first, page in db.execute(folded, (run_id,)):
        for seq, line in enumerate(zlib.decompress(page).split(b"\n"), first):
            yield seq, line[1:]
    live = "SELECT seq, data FROM flow_frames WHERE run_id = ? ORDER BY seq"
    yield from db.execute(live, (run_id,))


def summed(frames: Iterable[tuple[int, bytes]], after: int) -> Log:
    log, total = Log(after, [], []), 0
    for seq, frame in frames:
        if seq <= after:
            continue
        total = zlib.crc32(frame, total)
        log.seqs.append(seq)
        log.sums.append(total)
    return log


@asynccontextmanager
async def served(place: Path, *, fails: bool = False, **told: Any) -> AsyncIterator[Served]:
    """A server that is stopped at the end. It must have had no error to tell, or, when it `fails`,
    none that it did not expect."""
    server = Served(place, **told)
    await asyncio.to_thread(repository, place / "project")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
    said = await server.said()
    assert "Traceback" not in said, said
    assert fails or '"level":"error"' not in said.replace(" ", ""), said
