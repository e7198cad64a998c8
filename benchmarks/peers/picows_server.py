"""picows: a C extension's server, `send` for each socket, on uvloop as its authors advise."""

import asyncio

from picows import WSListener, WSMsgType, WSTransport, ws_create_server

from benchmarks.feed import announce, asked
from benchmarks.frames import payload
from benchmarks.loops import fastest


class Broadcast:
    def __init__(self) -> None:
        self.transports: set[WSTransport] = set()
        self._number = 0

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            message = payload(self._number)
            for transport in self.transports:
                transport.send(WSMsgType.TEXT, message)


class Pane(WSListener):  # type: ignore[misc] # it has no types
    def __init__(self, broadcast: Broadcast) -> None:
        super().__init__()
        self._broadcast = broadcast

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, b"ready")
        self._broadcast.transports.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._broadcast.transports.discard(transport)


async def main() -> None:
    one = Broadcast()
    server = await ws_create_server(lambda request: Pane(one), "127.0.0.1", 0, backlog=4_096)
    asked(one.publish)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fastest()) as runner:
        runner.run(main())
