"""An endpoint below HTTP: it reads one request from each connection and then writes what the test
says, byte for byte."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
"""The head of an answer whose body is chunked."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class RawEndpoint:
    """Runs the script for each connection; `ended` is released when one has ended."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.url = ""
        self.requests: list[bytes] = []
        self.ended = asyncio.Semaphore(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(size))
            await self._play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self.ended.release()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The script, until it ends or the client hangs up."""
        playing = asyncio.ensure_future(self._script(writer))
        hung_up = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait({playing, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            playing.cancel()
            hung_up.cancel()
            await asyncio.gather(playing, hung_up, return_exceptions=True)


@asynccontextmanager
async def raw_serving(
    script: Script, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawEndpoint]:
    """Serve on a free loopback port; connections that are left at the end are cut."""
    endpoint = RawEndpoint(script)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(endpoint.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    endpoint.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield endpoint
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
