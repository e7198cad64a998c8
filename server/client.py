"""A client of the wire, as the command line uses it: REST for questions, the socket for runs."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from protocol.codec import UnknownFrame, decode_frame
from protocol.commands import Command, Cursor, Launch, Subscribe
from protocol.errors import CLOSE_RULES, CloseCode, ErrorCode, ProtocolError
from protocol.frames import (
    FlowRunAck,
    FlowRunError,
    FlowRunFinished,
    FlowRunReset,
    FlowRunSubscribed,
    Frame,
    StoredFrame,
)
from protocol.ids import RunId

SUBPROTOCOL = "podium.v1"
ANSWER_SECONDS = 300.0
"""A launch may wait for the probe of a slow endpoint."""
BACK_OFF_CAP = 10.0


class Unreachable(Exception):
    """No podium answers at that address, or it refuses the token."""


class Client:
    """One signed-in user of one server. Use it as an async context manager."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=self._headers, timeout=ANSWER_SECONDS, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

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
        """Launch a run; raises ProtocolError. The same key makes the same run, so a connection
        lost in between is no reason to ask twice."""
        while True:
            try:
                async with self._connected() as socket:
                    ack = await _answer(socket, message)
                    assert ack.run_id is not None
                    return ack.run_id
            except ConnectionClosed:
                continue

    async def follow(
        self, run_id: RunId, *, lost: Callable[[], None] | None = None
    ) -> AsyncIterator[StoredFrame]:
        """Every frame of a run from its first to its last, in order and once, across lost
        connections: `lost` hears of each once. Raises ProtocolError when the run cannot be seen."""
        gen, last, tries = 1, 0, 0
        while True:
            try:
                async with self._connected() as socket:
                    cursor = Cursor(gen=gen, seq=last)
                    await _send(socket, Subscribe(id="follow", run_id=run_id, after=cursor))
                    async for data in socket:
                        tries = 0
                        frame = decode_frame(data)
                        match frame:
                            case FlowRunError(id="follow"):
                                raise _refusal(frame)
                            case FlowRunSubscribed(run_id=name) if name == run_id:
                                gen, last = frame.gen, frame.after
                            case FlowRunReset(run_id=name) if name == run_id:
                                gen, last = frame.gen, frame.head
                            case UnknownFrame(run_id=name, seq=seq) if (name, seq) == (
                                run_id,
                                last + 1,
                            ):
                                last += 1
                            case Frame(run_id=name) if name == run_id and frame.seq == last + 1:
                                last = frame.seq
                                yield frame
                                if isinstance(frame, FlowRunFinished):
                                    return
            except ConnectionClosed as error:
                _check_may_return(error)
            except OSError:
                pass
            if tries == 0 and lost is not None:
                lost()
            tries += 1
            await asyncio.sleep(random.uniform(0, min(BACK_OFF_CAP, 0.25 * 2**tries)))  # noqa: S311

    def _connected(self) -> connect:
        parts = urlsplit(self.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        address = urlunsplit((scheme, parts.netloc, parts.path + "/api/ws", "", ""))
        return connect(
            address,
            additional_headers=self._headers,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
            compression=None,
            max_size=None,
            proxy=None,
        )

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
            raise Unreachable(f"no podium answers at {self.url}: {error}") from error
        if response.is_error:
            raise _http_refusal(response)
        return response


async def _send(socket: ClientConnection, message: Command) -> None:
    await socket.send(msgspec.json.encode(message).decode())


async def _answer(socket: ClientConnection, message: Launch) -> FlowRunAck:
    await _send(socket, message)
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            frame = decode_frame(await socket.recv())
            if isinstance(frame, FlowRunError) and frame.id == message.id:
                raise _refusal(frame)
            if isinstance(frame, FlowRunAck) and frame.id == message.id:
                return frame


def _refusal(frame: FlowRunError) -> ProtocolError:
    return ProtocolError(
        frame.code,
        frame.message,
        field=frame.field,
        hint=frame.hint,
        retry_after_ms=frame.retry_after_ms,
    )


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


def _check_may_return(error: ConnectionClosed) -> None:
    """Raise Unreachable when the close code tells a client not to come back."""
    code = error.rcvd.code if error.rcvd else CloseCode.ABNORMAL
    known = code in set(CloseCode)
    if known and not CLOSE_RULES[CloseCode(code)].reconnect:
        raise Unreachable(f"the server closed the socket: {CLOSE_RULES[CloseCode(code)].reason}")
