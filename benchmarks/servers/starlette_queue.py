"""Starlette's own way to many subscribers: a queue and a task each, `websocket.send` for each
message. The message is encoded once; uvicorn is set up as podium sets it up."""

import asyncio

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from benchmarks.feed import announce, asked, listener
from benchmarks.frames import payload

WAITING = 1_024
"""Messages that may wait for one socket."""


class Broadcast:
    """The open sockets, by their queues."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()
        self._number = 0

    async def endpoint(self, websocket: WebSocket) -> None:
        await websocket.accept()
        queue: asyncio.Queue[str] = asyncio.Queue(WAITING)
        sending = asyncio.create_task(self._send(websocket, queue))
        self._queues.add(queue)
        queue.put_nowait("ready")
        try:
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass
        finally:
            self._queues.discard(queue)
            sending.cancel()

    @staticmethod
    async def _send(websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
        while True:
            await websocket.send_text(await queue.get())

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            text = payload(self._number).decode()
            for queue in self._queues:
                queue.put_nowait(text)


async def main() -> None:
    broadcast = Broadcast()
    app = Starlette(routes=[WebSocketRoute("/", broadcast.endpoint)])
    with listener() as bound:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off",
            ws="websockets-sansio", ws_per_message_deflate=False,
        )  # fmt: skip
        asked(broadcast.publish)
        announce(bound.getsockname()[1])
        await uvicorn.Server(config).serve(sockets=[bound])


if __name__ == "__main__":
    asyncio.run(main())
