"""The `websockets` library's own server and its `broadcast()`, on uvloop where it is there."""

import asyncio

from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.feed import announce, asked
from benchmarks.frames import payload
from benchmarks.loops import fastest


class Broadcast:
    def __init__(self) -> None:
        self._connections: set[ServerConnection] = set()
        self._number = 0

    async def endpoint(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        await connection.send("ready")
        try:
            await connection.wait_closed()
        finally:
            self._connections.discard(connection)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            broadcast(self._connections, payload(self._number).decode())


async def main() -> None:
    one = Broadcast()
    async with serve(one.endpoint, "127.0.0.1", 0, compression=None, backlog=4_096) as server:
        asked(one.publish)
        announce(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fastest()) as runner:
        runner.run(main())
