"""python-socketio's asynchronous server under uvicorn: `emit` to a room, which encodes a message
once for all. On uvloop where it is there."""

import asyncio
from typing import Any

import socketio
import uvicorn

from benchmarks.feed import announce, asked, listener
from benchmarks.frames import payload
from benchmarks.loops import fastest

ROOM = "run"


class Emitter:
    """Emits what is asked for, one after the other."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._number = 0
        self._asked = asyncio.Semaphore(0)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._asked.release()

    async def emit(self) -> None:
        while True:
            await self._asked.acquire()
            self._number += 1
            await self._server.emit("frame", payload(self._number).decode(), room=ROOM)


async def main() -> None:
    server = socketio.AsyncServer(
        async_mode="asgi", cors_allowed_origins=[], http_compression=False
    )

    async def connected(sid: str, *_: object) -> None:
        await server.enter_room(sid, ROOM)
        await server.emit("ready", room=sid)

    server.on("connect", connected)
    emitter = Emitter(server)
    emitting = asyncio.create_task(emitter.emit())
    with listener() as bound:
        config = uvicorn.Config(
            socketio.ASGIApp(server), log_config=None, access_log=False, lifespan="off",
            ws="websockets-sansio", ws_per_message_deflate=False,
        )  # fmt: skip
        asked(emitter.publish)
        path = "/socket.io/?EIO=4&transport=websocket"
        announce(bound.getsockname()[1], path=path, say=["40"])
        await uvicorn.Server(config).serve(sockets=[bound])
    await emitting


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fastest()) as runner:
        runner.run(main())
