"""`/healthz` and `/readyz`: open to everybody, for whoever watches the process."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.rest import AgentState, Alive, Draining, Ready
from server.http.answers import json
from server.ports import AgentUnavailable
from server.runs.rooms import Rooms
from server.stopping import Gate


class Health:
    def __init__(self, rooms: Rooms, gate: Gate, *, build: str) -> None:
        self._rooms = rooms
        self._gate = gate
        self._build = build

    def routes(self) -> list[Route]:
        return [Route("/healthz", self.healthz), Route("/readyz", self.readyz)]

    async def healthz(self, request: Request) -> Response:
        return json(Alive(build=self._build))

    async def readyz(self, request: Request) -> Response:
        """200 when requests are taken. Whether an agent can start is told beside it: a server
        without one still shows its runs and says what is missing."""
        if self._gate.closed:
            return json(Draining(), 503)
        return json(Ready(agent=await self._agent()))

    async def _agent(self) -> AgentState:
        try:
            version = await self._rooms.agent.check()
        except AgentUnavailable as error:
            return AgentState(available=False, reason=error.reason, hint=error.hint)
        if self._rooms.models.none:
            return AgentState(available=False, reason="no_endpoint", hint="run `podium setup`")
        return AgentState(available=True, version=version)
