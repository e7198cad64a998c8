"""A podium in this process on a real port: only the agent is a fake, everything else is real."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from server.app import Podium, opened
from server.ports import Clock
from server.serve import configured, listen
from server.settings import EndpointSettings, Settings
from tests.fakes.agent import FakeAgent
from tests.repositories import committed
from tests.server.contracts import SocketContract, Watched, rest_contract, socket_contract

TOKEN = "a-token-of-the-test"
WAIT_SECONDS = 20.0
FILES = {"src/a.py": "def a():\n    return undefined_name_here\n", "src/b.py": "B = 1\n"}


def repository(folder: Path) -> Path:
    return committed(folder, FILES)


def plain_http(**options: Any) -> httpx.AsyncClient:
    """A client of a server of ours. There is no TLS; the certificates of the world, which each
    client reads anew, would take longer than most tests."""
    return httpx.AsyncClient(trust_env=False, verify=False, **options)


class House:
    """The server, a REST client that is signed in, and sockets."""

    def __init__(
        self,
        podium: Podium,
        agent: FakeAgent,
        url: str,
        http: httpx.AsyncClient,
        server: uvicorn.Server,
        watched: Watched,
        frames: SocketContract,
    ) -> None:
        self.podium = podium
        self.server = server
        self.agent = agent
        self.url = url
        self.http = http
        self.watched = watched
        self.frames = frames
        self.project_id = ""

    def body(self, **changes: Any) -> dict[str, Any]:
        """A good launch body."""
        good = {
            "project_id": self.project_id,
            "flow_name": "code-review",
            "band": "small",
            "input": {"question": "errors", "paths": ["src"], "extra": [1]},
        }
        return {**good, **changes}

    async def launch(self, **changes: Any) -> str:
        answer = await self.http.post("/api/runs", json=self.body(**changes))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["run_id"])

    @asynccontextmanager
    async def socket(self, **headers: str) -> AsyncIterator["Socket"]:
        given = headers or {"Authorization": f"Bearer {TOKEN}"}
        address = self.url.replace("http", "ws") + "/api/ws"
        async with connect(
            address,
            additional_headers=given,
            subprotocols=["podium.v1"],  # type: ignore[list-item]
            proxy=None,
            max_queue=None,  # else who leaves before having read all waits 10 s for the close
        ) as opened_socket:
            yield Socket(opened_socket, self.frames)

    async def end_of(self, run_id: str) -> list[dict[str, Any]]:
        """All frames of a run, once it has ended."""
        async with self.socket() as wire:
            await wire.send(type="subscribe", id="s", run_id=run_id)
            return [frame async for frame in wire.frames_of(run_id)]


class Socket:
    """Every frame that it receives is held against the server's own document."""

    def __init__(self, connection: ClientConnection, contract: SocketContract) -> None:
        self.connection = connection
        self._contract = contract

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            frame: dict[str, Any] = json.loads(await self.connection.recv())
        self._contract.check(frame)
        return frame

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """The next frame that has these fields."""
        while True:
            frame = await self.receive()
            if all(frame.get(name) == value for name, value in wanted.items()):
                return frame

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send, and wait for the one answer."""
        await self.send(**message)
        while True:
            frame = await self.receive()
            if frame.get("id") == message["id"]:
                return frame

    async def frames_of(self, run_id: str) -> AsyncIterator[dict[str, Any]]:
        while True:
            frame = await self.receive()
            if frame.get("run_id") == run_id and "at" in frame:
                yield frame
                if frame["type"] == "flow_run_finished":
                    return


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[Self]:  # type: ignore[override]
        yield self


@asynccontextmanager
async def house(
    place: Path,
    *,
    agent: FakeAgent | None = None,
    clock: Clock | None = None,
    projects: list[Path] | None = None,
    **changes: Any,
) -> AsyncIterator[House]:
    """Open podium on `place`; opening it again goes on with what is stored there. `projects` are
    those that it is started with, the usual one if None; `changes` are settings other than the
    usual ones."""
    data, project = place / "data", place / "project"
    if not project.exists():
        await asyncio.to_thread(repository, project)
    data.mkdir(exist_ok=True)
    endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m")
    usual: dict[str, Any] = {
        "data": str(data),
        "port": 0,
        "token": TOKEN,
        "endpoints": {"default": endpoint},
    }
    settings = Settings(**(usual | changes))
    fake = agent or FakeAgent()
    with listen(settings) as listener:
        async with opened(
            settings,
            token=TOKEN,
            projects=[project] if projects is None else projects,
            agent=fake,
            clock=clock,
        ) as podium:
            watched = Watched(podium.app)
            server = _Server(await configured(watched, settings.limits, grace_seconds=1))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with plain_http(base_url=url, headers=headers) as http:
                watched.contract = rest_contract((await http.get("/openapi.json")).content)
                frames = socket_contract((await http.get("/asyncapi.json")).content)
                home = House(podium, fake, url, http, server, watched, frames)
                home.project_id = (await http.get("/api/projects")).json()["projects"][0]["id"]
                try:
                    yield home
                finally:
                    server.should_exit = True
                    with suppress(asyncio.CancelledError):
                        await serving
                watched.require_none()
