"""The relay: the one way from an agent to a model.

Each attempt gets a pass with a token of its own. The relay checks every request before a byte of it
goes out, puts the endpoint's key in, passes the answer on as it comes, and keeps count. The agent
never sees the key; its owner sees at once what the agent's output would hide.
"""

import asyncio
import hashlib
import random
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
import uvicorn
from uvicorn.server import ServerState

from server.agents.relay.chat import Chat
from server.agents.relay.connection import Connection
from server.agents.relay.desk import Desk
from server.agents.relay.passes import Notice, Pass
from server.agents.relay.rules import Admission
from server.agents.relay.sockets import SOCKET_NAME, open_file, open_port
from server.agents.relay.upstream import new_client
from server.certificates import authorities
from server.guarded_http import GuardedConnection
from server.ports import Clock, ModelEndpoint

KEEP_ALIVE_SECONDS = 75
"""Longer than the agent's client keeps a connection, which then never finds one closed."""
STOP_SECONDS = 2.0


class Relay:
    """Serves in the running loop, on a port of loopback and on a socket file. An async context
    manager; `start` returns when it listens."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`directory` gets the socket file. `chance` draws from 0 to 1, for pauses."""
        self._directory = directory
        self._clock = clock
        self._chance = chance
        self._trust: ssl.SSLContext | None = None
        self._passes: dict[bytes, Pass] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._state = ServerState()
        self._connections: dict[GuardedConnection, None] = {}
        self.url = ""
        """`http://127.0.0.1:PORT/v1`, for agents that share the network; empty before the start."""
        self.socket: Path | None = None
        """The socket file, for agents without a network; None where there are none."""

    async def start(self) -> None:
        """Listen. Raises OSError; then nothing is left open."""
        try:
            await asyncio.to_thread(self._open)
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close every pass, cut every connection, and free both doors. Takes 4 s at most, where
        requests do not let go; may be called again."""
        for server in self._servers:
            server.close()
        await asyncio.gather(*(given.close() for given in list(self._passes.values())))
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            _, left = await asyncio.wait(set(self._state.tasks), timeout=STOP_SECONDS)
            for task in left:
                task.cancel()
        for client in self._clients.values():
            await client.aclose()
        self._servers.clear()
        self._clients.clear()
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def admit(self, admission: Admission, tell: Callable[[Notice], None]) -> Pass:
        """A pass for one attempt. `tell` is called in the loop, at most once for each cause, and
        must not block."""
        made = Pass(admission, tell, clock=self._clock, forget=self._forget)
        self._passes[_digest(made.token)] = made
        return made

    def _find(self, token: str) -> Pass | None:
        # The table is searched by a digest, so that its timing tells nothing of a token.
        found = self._passes.get(_digest(token))
        return found if found is not None and found.knows(token) else None

    def _forget(self, given: Pass) -> None:
        self._passes.pop(_digest(given.token), None)

    def _client(self, endpoint: ModelEndpoint) -> httpx.AsyncClient:
        assert self._trust is not None
        client = self._clients.get(endpoint.base_url)
        if client is None:
            client = self._clients[endpoint.base_url] = new_client(self._trust)
        return client

    def _open(self) -> None:
        self._trust = authorities()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        port = open_port()
        self._listeners.append(port)
        self.url = f"http://127.0.0.1:{port.getsockname()[1]}/v1"
        file = open_file(self._directory)
        if file is not None:
            self._listeners.append(file)
            self.socket = self._directory / SOCKET_NAME

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)

    async def _listen(self) -> None:
        """uvicorn's HTTP without uvicorn's server: that would take the signals and set up logs."""
        chat = Chat(client=self._client, clock=self._clock, chance=self._chance)
        config = uvicorn.Config(
            Desk(self._find, chat),
            log_config=None,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        await asyncio.to_thread(config.load)
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            made = await loop.create_server(lambda: self._protocol(config), sock=listener)
            self._servers.append(made)

    def _protocol(self, config: uvicorn.Config) -> asyncio.Protocol:
        return Connection(config, self._state, others=self._connections)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
