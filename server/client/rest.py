"""REST with the server's own errors, and the runs of one signed-in user over the socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from protocol.commands import Launch
from protocol.errors import ErrorCode, ProtocolError
from protocol.frames import (
    FlowRunCaughtUp,
    FlowRunLagging,
    FlowRunReset,
    FlowRunSubscribed,
    StoredFrame,
)
from protocol.ids import RunId
from server.certificates import authorities, way_out
from server.client.states import Condition, Unreachable
from server.client.wire import WireClient

ANSWER_SECONDS = 300.0
"""A plan may wait for the probe of a slow endpoint."""

RunEvent = StoredFrame | FlowRunSubscribed | FlowRunReset


class Client:
    """One signed-in user of one server. Use it as an async context manager."""

    def __init__(
        self, url: str, token: str, *, on_state: Callable[[Condition], None] | None = None
    ) -> None:
        """`on_state` hears how the socket is, which is opened when it is first needed."""
        self.url = url.rstrip("/")
        self._token = token
        self._on_state = on_state
        self._open = AsyncExitStack()
        self._socket: WireClient | None = None

    async def __aenter__(self) -> Self:
        self._trust = await asyncio.to_thread(authorities, self.url)
        http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=ANSWER_SECONDS,
            trust_env=False,
            verify=self._trust,
        )
        self._http = await self._open.enter_async_context(http)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the socket and the rest, now; once more does nothing."""
        await self._open.aclose()

    async def wire(self) -> WireClient:
        """The socket, which comes back by itself."""
        if self._socket is None:
            wire = WireClient(
                self.url, token=self._token, trust=self._trust, on_state=self._on_state
            )
            self._socket = await self._open.enter_async_context(wire)
        return self._socket

    async def get(self, path: str) -> Any:
        return await self._ask("GET", path)

    async def post(self, path: str, body: object = None) -> Any:
        return await self._ask("POST", path, content=msgspec.json.encode(body or {}))

    async def delete(self, path: str) -> Any:
        return await self._ask("DELETE", path)

    async def text(self, path: str) -> str:
        return (await self._send("GET", path)).text

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """The parts of a file. Raises Unreachable when it stops before its end."""
        try:
            async with self._http.stream("GET", path) as response:
                if response.is_error:
                    await response.aread()
                    raise _http_refusal(response)
                async for part in response.aiter_bytes():
                    yield part
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url} did not send all of it: {error}") from error

    async def launch(self, message: Launch) -> RunId:
        """Launch a run, exactly one however often the connection is lost. Raises ProtocolError and
        Unreachable."""
        ack = await (await self.wire()).ask(message)
        assert ack.run_id is not None
        return ack.run_id

    async def follow(self, run_id: RunId) -> AsyncIterator[RunEvent]:
        """Every frame of a run from its first to its last, in order and once, across lost
        connections and restarts of the server.

        Among them, where it happens: a FlowRunSubscribed, when the server has lost what came after
        its `after`, which comes anew; and a FlowRunReset, when frames have expired. Raises
        ProtocolError when the run cannot be seen, and Unreachable when the client is sent away.
        """
        async with aclosing((await self.wire()).follow(run_id)) as events:
            async for event in events:
                if not isinstance(event, FlowRunCaughtUp | FlowRunLagging):
                    yield event

    async def _ask(self, method: str, path: str, *, content: bytes | None = None) -> Any:
        response = await self._send(method, path, content=content)
        return msgspec.json.decode(response.content)

    async def _send(
        self, method: str, path: str, *, content: bytes | None = None
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            response = await self._http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise Unreachable(
                f"no podium answers at {self.url}: {error}", hint=way_out(error)
            ) from error
        if response.is_error:
            raise _http_refusal(response)
        return response


def _http_refusal(response: httpx.Response) -> ProtocolError:
    """The server's own error, however it is shaped."""
    body: dict[str, Any] = {}
    with suppress(msgspec.DecodeError):
        found = msgspec.json.decode(response.content)
        body = found if isinstance(found, dict) else {}
    name = str(body.get("error", ""))
    codes = {code.value: code for code in ErrorCode}
    by_status = {401: ErrorCode.UNAUTHENTICATED, 403: ErrorCode.FORBIDDEN, 404: ErrorCode.NOT_FOUND}
    return ProtocolError(
        codes.get(name) or by_status.get(response.status_code, ErrorCode.BAD_ARGUMENTS),
        str(body.get("message") or name or f"HTTP {response.status_code}"),
        field=body.get("field"),
        hint=body.get("hint"),
    )
