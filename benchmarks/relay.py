"""What the relay adds to the first token: the same request, straight and through it, in turn.

The endpoint is a process of its own; the agent's side is in this process, as the relay is, and
costs the same on both ways.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.options import Options
from benchmarks.rows import Row
from protocol.ids import RunId, StepId
from server.agents.relay.rules import Admission
from server.agents.relay.server import Relay
from server.ports import AttemptRef, ModelEndpoint
from server.world import SystemClock

ROUNDS, WARM = 500, 50
REQUEST_BYTES = (17_000, 60_000)
"""An agent's first request, and one after some reading (measured)."""
TOOLS = ("read_file", "glob", "grep_search", "structured_output")


class Added(NamedTuple):
    """Seconds that the relay adds, for one size of request."""

    size: int
    direct: list[float]
    relayed: list[float]

    @property
    def differences(self) -> list[float]:
        return [far - near for near, far in zip(self.direct, self.relayed, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.differences)

    def __str__(self) -> str:
        tenths = statistics.quantiles(self.differences, n=10)
        direct, relayed = (statistics.median(it) * 1000 for it in (self.direct, self.relayed))
        return (
            f"+{self.median * 1000:.2f} ms ({tenths[0] * 1000:.2f}–{tenths[-1] * 1000:.2f};"
            f" {direct:.2f} → {relayed:.2f} ms), {len(self.direct)} pairs"
        )


def relay_rows(options: Options) -> list[Row]:
    return [
        Row(
            f"relay, added to the first token, {added.size // 1000} kB request",
            "≤ 2 ms",
            str(added),
            added.median <= 0.002,
            loose="≤ 4 ms",
            failed=added.median > 0.004,
        )
        for added in asyncio.run(first_token(options.size(ROUNDS, 10)))
    ]


async def first_token(rounds: int) -> list[Added]:
    with tempfile.TemporaryDirectory() as folder:
        async with endpoint() as url, Relay(Path(folder), clock=SystemClock()) as relay:
            return [await measured(relay, url, size, rounds) for size in REQUEST_BYTES]


async def measured(relay: Relay, url: str, size: int, rounds: int) -> Added:
    admission = Admission(
        ref=AttemptRef(RunId("bench"), StepId("bench"), 1),
        endpoint=ModelEndpoint(name="bench", base_url=url, api_key="key", model="bench"),
        tools=frozenset(TOOLS),
        answer_tokens=1_000,
        requests=rounds + WARM,
        total_tokens=None,
        answer_bytes=1_000_000,
    )
    given = relay.admit(admission, print)
    near, far = await Line.open(url, "key", size), await Line.open(relay.url, given.token, size)
    added = Added(size, [], [])
    for number in range(rounds + WARM):
        direct, relayed = await near.ask(), await far.ask()
        if number >= WARM:
            added.direct.append(direct)
            added.relayed.append(relayed)
    near.close()
    far.close()
    await given.close()
    return added


class Line:
    """One kept connection and one request, written again and again."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._request = request

    @classmethod
    async def open(cls, url: str, token: str, size: int) -> "Line":
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        text = ("def value(number):\n    return number + 1\n" * (size // 40))[:size]
        body = json.dumps(
            {
                "model": "bench",
                "stream": True,
                "max_tokens": 1_000,
                "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
                "tools": [{"type": "function", "function": {"name": name}} for name in TOOLS],
            }
        ).encode()
        head = (
            f"POST {place.path}/chat/completions HTTP/1.1\r\nHost: bench\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return cls(reader, writer, head.encode() + body)

    async def ask(self) -> float:
        """Seconds from the request to the first token."""
        began = time.perf_counter()
        self._writer.write(self._request)
        await self._reader.readuntil(b"data: ")
        took = time.perf_counter() - began
        await self._reader.readuntil(b"0\r\n\r\n")
        return took

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def endpoint() -> AsyncIterator[str]:
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("endpoint.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        yield line.decode().strip()
        assert process.stdin is not None
        process.stdin.close()
