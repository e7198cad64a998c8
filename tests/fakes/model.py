"""A model endpoint for tests: the demo's wire with hostile, broken or held behaviours.

A behaviour answers one chat request. `FakeModel(first, second, …)` gives each request the next one
and repeats the last.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count, islice

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response

from server.demo import wire
from server.demo.app import Behaviour, base_url, create_app, refusal, respond, scripted, stream
from server.demo.wire import ChatRequest, Turn, call


class FakeModel:
    """A model with a behaviour for each request. It records the requests in order."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self._behaviours = behaviours or (scripted(pace=0),)
        self._arrival = asyncio.Condition()
        self.requests: list[ChatRequest] = []
        self.app = create_app(behaviour=self._answer)

    async def _answer(self, request: ChatRequest) -> Response:
        async with self._arrival:
            self.requests.append(request)
            self._arrival.notify_all()
        place = min(len(self.requests), len(self._behaviours)) - 1
        return await self._behaviours[place](request)

    async def arrived(self, number: int = 1) -> ChatRequest:
        """Wait for the request of that number, counted from 1."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]


class Gate:
    """Holds answers until the test opens it."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()

    def open(self) -> None:
        self._opened.set()

    def hold(self, behaviour: Behaviour) -> Behaviour:
        """`behaviour`, not before the gate is open: no byte goes out while it is closed."""

        async def answer(request: ChatRequest) -> Response:
            await self._opened.wait()
            return await behaviour(request)

        return answer


def fixed(turn: Turn, *, pace: float = 0) -> Behaviour:
    """Always the same turn."""

    async def answer(request: ChatRequest) -> Response:
        return respond(request, turn, pace=pace)

    return answer


def says(text: str) -> Behaviour:
    """Plain text where a tool call was wanted."""
    return fixed(Turn(text))


def calls(name: str, arguments: object) -> Behaviour:
    """One tool call; for a result, `structured_output` with a valid or an invalid object."""
    return fixed(Turn(f"Calling {name}.", (call(name, arguments),)))


def refuses(status: int, message: str = "refused by the fake model") -> Behaviour:
    """An HTTP error in OpenAI's shape, every time."""

    async def answer(_request: ChatRequest) -> Response:
        return refusal(status, message)

    return answer


def silent() -> Behaviour:
    """Not one byte, not even a header, until the client or the server gives up."""
    return Gate().hold(says("never sent"))


def cuts_connection(turn: Turn, *, after: int) -> Behaviour:
    """Streams `after` events and then drops the connection in the middle of the body."""

    async def answer(request: ChatRequest) -> Response:
        return stream(_then_drop(islice(wire.events(request, turn), after)), pace=0)

    return answer


def ends_early(turn: Turn, *, after: int) -> Behaviour:
    """Streams `after` events and ends the body properly, without finish reason and `[DONE]`."""

    async def answer(request: ChatRequest) -> Response:
        return stream(islice(wire.events(request, turn), after), pace=0)

    return answer


def garbles() -> Behaviour:
    """A stream whose second event is no JSON."""

    async def answer(request: ChatRequest) -> Response:
        first = wire.event(wire.chunk(request, {"role": "assistant", "content": "So"}))
        return stream([first, b'data: {"choices": [{"delta": {"con\n\n'], pace=0)

    return answer


def talks_for_ever(*, pace: float = 0) -> Behaviour:
    """Text deltas, all different, without end."""

    async def answer(request: ChatRequest) -> Response:
        words = (wire.event(wire.chunk(request, {"content": f"word {n} "})) for n in count())
        return stream(words, pace=pace)

    return answer


def cuts_json(name: str, arguments: object) -> Behaviour:
    """A tool call whose JSON stops half-way, with finish reason `length`, as at a token limit."""

    async def answer(request: ChatRequest) -> Response:
        whole = call(name, arguments)
        half = wire.Call(name, whole.arguments[: len(whole.arguments) // 2])
        events = list(wire.events(request, Turn("", (half,))))
        finish = wire.event(wire.chunk(request, {}, finish="tool_calls"))
        events[events.index(finish)] = wire.event(wire.chunk(request, {}, finish="length"))
        return stream(events, pace=0)

    return answer


class DroppedError(Exception):
    """Raised inside a body so that the server drops the connection."""


def _then_drop(events: Iterator[bytes]) -> Iterator[bytes]:
    yield from events
    raise DroppedError


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """Serve `app` on a free loopback port inside this loop; gives the base URL, ending in `/v1`.

    At the end open connections are dropped at once.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield base_url(listener)
        finally:
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await task


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to pytest."""
        yield


# --- endpoints as the relay meets them ------------------------------------------------------------


def answers(status: int, body: bytes, **headers: str) -> Behaviour:
    """An HTTP answer as it is given; `_` in a header's name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_request: ChatRequest) -> Response:
        return Response(body, status, headers=named)

    return answer


def streams(*pieces: bytes) -> Behaviour:
    """A stream of events with these bytes, each piece sent by itself, and its proper end."""

    async def answer(_request: ChatRequest) -> Response:
        return stream(pieces, pace=0)

    return answer


def said(delta: dict[str, object], *, finish: str | None = None, **more: object) -> bytes:
    """One event of a chat answer; `more` stands beside its choice, as `usage` does."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return wire.event({"choices": [choice], **more})


DONE = b"data: [DONE]\n\n"
