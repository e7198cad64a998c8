"""The naive pipeline from an agent's line to the panes: each line is parsed, committed by itself,
and encoded and sent anew for each pane. Starlette, uvicorn and aiosqlite, as in many an example.

`python -m benchmarks.servers.naive FOLDER`: each line of stdin is one of an agent.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiosqlite
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from benchmarks.feed import announce, heard, listener

TABLE = "CREATE TABLE frames (seq INTEGER PRIMARY KEY, data TEXT NOT NULL)"


class Pipeline:
    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db
        self._panes: list[WebSocket] = []
        self._seq = 0
        self._reader = asyncio.StreamReader(limit=1 << 20)

    async def endpoint(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("ready")
        self._panes.append(websocket)
        while (await websocket.receive())["type"] != "websocket.disconnect":
            pass
        self._panes.remove(websocket)

    def take(self, data: bytes) -> None:
        self._reader.feed_data(data)

    async def run(self) -> None:
        while line := await self._reader.readline():
            frame = self._frame(json.loads(line))
            words = "INSERT INTO frames VALUES (?, ?)"
            await self._db.execute(words, (frame["seq"], json.dumps(frame)))
            await self._db.commit()
            for pane in self._panes:
                await pane.send_json(frame)

    def _frame(self, event: dict[str, Any]) -> dict[str, Any]:
        self._seq += 1
        delta = event["event"]["delta"]
        return {
            "type": "flow_run_step_delta",
            "run_id": "5b0cfe0a-6a0e-4d0c-9b1d-0d9c5f3f7d11",
            "seq": self._seq,
            "at": "2026-01-31T12:00:00.000Z",
            "step_id": "review.security",
            "attempt": 1,
            "channel": "text",
            "offset": 0,
            "text": delta.get("text") or delta.get("thinking"),
        }


async def main() -> None:
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    async with aiosqlite.connect(folder / "frames.db") as db:
        await db.execute("PRAGMA journal_mode=WAL")
        await db.execute("PRAGMA synchronous=NORMAL")
        await db.execute(TABLE)
        pipeline = Pipeline(db)
        app = Starlette(routes=[WebSocketRoute("/", pipeline.endpoint)])
        with listener() as bound:
            config = uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off",
                ws="websockets-sansio", ws_per_message_deflate=False,
            )  # fmt: skip
            heard(pipeline.take)
            running = asyncio.create_task(pipeline.run())
            announce(bound.getsockname()[1])
            await uvicorn.Server(config).serve(sockets=[bound])
    await running


if __name__ == "__main__":
    asyncio.run(main())
