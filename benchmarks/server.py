"""A podium in this process whose agent is the stand-in writer; all the rest is the real thing."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import uvicorn

from protocol.commands import Launch
from protocol.ids import ProjectId, RunId
from protocol.plan import Endpoint
from server.agents.installation import Installation
from server.agents.qwen_runner import Guards, QwenRunner
from server.app import opened
from server.client import Client
from server.ports import ModelEndpoint, Probe
from server.serve import configured, listen
from server.settings import EndpointSettings, Settings
from server.world import SystemClock

TOKEN = "bench"


class Bench(NamedTuple):
    url: str
    token: str


class Writer(QwenRunner):
    """The real runner on the stand-in; there is no endpoint to probe."""

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        public = Endpoint(name=endpoint.name, host="none", model=endpoint.model)
        return Probe(public=public, slots=1, context_tokens=None)


@asynccontextmanager
async def stand_in(
    data: Path, project: Path, *, model: str, slots: int = 1
) -> AsyncIterator[Bench]:
    """`model` says what the writer writes, `slots` how many write at once."""
    data.mkdir()
    endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1", model=model, slots=slots)
    settings = Settings(data=str(data), port=0, endpoints={"default": endpoint})
    script = Path(__file__).with_name("writer.py")
    installed = Installation(Path(sys.executable), script, "0.24.4")
    # The stand-in is no Node: what the containment holds is measured by itself.
    guards = Guards(contained=False)
    agent = Writer(data, clock=SystemClock(), guards=guards, installed=installed)
    async with serving(settings, project, agent) as bench:
        yield bench


@asynccontextmanager
async def serving(settings: Settings, project: Path, agent: QwenRunner) -> AsyncIterator[Bench]:
    with listen(settings) as listener:
        async with opened(settings, token=TOKEN, projects=[project], agent=agent) as podium:
            server = uvicorn.Server(await configured(podium.app))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                yield Bench(url, TOKEN)
            finally:
                server.should_exit = True
                await serving


async def launched(client: Client, command: str) -> RunId:
    """The id of a new run on the only project."""
    projects = (await client.get("/api/projects"))["projects"]
    project_id = ProjectId(projects[0]["id"])
    return await client.launch(Launch(id="1", key="bench", project_id=project_id, command=command))
