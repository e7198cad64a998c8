"""Everything that a server in a process of its own shows of a run, held against its documents."""

import asyncio
import json

import httpx
from websockets.asyncio.client import connect

from server.local import ServerFile
from tests.server.contracts import RestContract, SocketContract

WAIT_SECONDS = 20.0
OF_RUN = ("", "/report.json", "/report.md", "/frames", "/events", "/recording")
BESIDE = ("/api/runs", "/api/flows", "/api/projects", "/healthz", "/readyz")


async def as_documented(place: ServerFile, run_id: str) -> set[str]:
    """Read an ended run in every way there is; returns the types of its frames. Raises Fault for
    the first thing that the documents do not say."""
    headers = {"Authorization": f"Bearer {place.token}"}
    async with httpx.AsyncClient(base_url=place.url, headers=headers, trust_env=False) as http:
        contract = RestContract((await http.get("/openapi.json")).content)
        for path in (*(f"/api/runs/{run_id}{end}" for end in OF_RUN), *BESIDE):
            answer = await http.get(path)
            assert answer.status_code == 200, path
            media = answer.headers["content-type"].partition(";")[0]
            contract.check("GET", path, answer.status_code, media, answer.content)
        socket_contract = SocketContract((await http.get("/asyncapi.json")).content)
    return await _frames_as_documented(place, run_id, socket_contract)


async def _frames_as_documented(
    place: ServerFile, run_id: str, contract: SocketContract
) -> set[str]:
    seen: set[str] = set()
    headers = {"Authorization": f"Bearer {place.token}"}
    async with (
        asyncio.timeout(WAIT_SECONDS),
        connect(
            place.url.replace("http", "ws") + "/api/ws",
            additional_headers=headers,
            subprotocols=["podium.v1"],  # type: ignore[list-item]
            proxy=None,
        ) as socket,
    ):
        await socket.send(json.dumps({"type": "subscribe", "id": "1", "run_id": run_id}))
        while "flow_run_caught_up" not in seen:
            frame = json.loads(await socket.recv())
            contract.check(frame)
            seen.add(frame["type"])
    return seen
