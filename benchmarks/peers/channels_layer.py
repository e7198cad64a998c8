"""Django Channels: a consumer for each socket, and `group_send` over the in-memory layer, under
uvicorn (which is the faster one; daphne took half as much again). On uvloop where it is there."""

import asyncio
from typing import Any

import django
import uvicorn
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings

from benchmarks.feed import announce, asked, listener
from benchmarks.frames import payload
from benchmarks.loops import fastest

GROUP = "run"
CAPACITY = 100_000
"""Messages that a channel may hold: none is dropped."""


class Pane(AsyncWebsocketConsumer):  # type: ignore[misc] # it has no types
    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()
        await self.send(text_data="ready")

    async def frame(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class Sender:
    """Sends what is asked for to the group, one after the other."""

    def __init__(self) -> None:
        self._number = 0
        self._asked = asyncio.Semaphore(0)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._asked.release()

    async def send(self) -> None:
        layer = get_channel_layer()
        while True:
            await self._asked.acquire()
            self._number += 1
            text = payload(self._number).decode()
            await layer.group_send(GROUP, {"type": "frame", "text": text})


async def main() -> None:
    backend = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": CAPACITY}}
    settings.configure(CHANNEL_LAYERS={"default": backend})
    django.setup()
    sender = Sender()
    sending = asyncio.create_task(sender.send())
    with listener() as bound:
        config = uvicorn.Config(
            Pane.as_asgi(), log_config=None, access_log=False, lifespan="off",
            ws="websockets-sansio", ws_per_message_deflate=False,
        )  # fmt: skip
        asked(sender.publish)
        announce(bound.getsockname()[1])
        await uvicorn.Server(config).serve(sockets=[bound])
    await sending


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fastest()) as runner:
        runner.run(main())
