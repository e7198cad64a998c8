"""The demo model's HTTP face: the model's routes on loopback, every response labelled.

The answer to a chat request is a `Behaviour`: `scripted` for the demo, others for tests.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.addresses import authority
from server.demo import wire
from server.demo.script import next_turn
from server.demo.wire import ChatRequest, Turn

LABEL_HEADER = "x-podium-demo"
LABEL = "scripted"
PACE = 0.015
"""Seconds between two streamed pieces, so that a pane looks alive."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Behaviour = Callable[[ChatRequest], Awaitable[Response]]


def create_app(*, pace: float = PACE, behaviour: Behaviour | None = None) -> Starlette:
    """The application. `behaviour` answers chat requests; by default the script does, at `pace`."""
    answer = behaviour or scripted(pace=pace)

    async def chat(request: Request) -> Response:
        try:
            asked = wire.decode(await request.body())
        except msgspec.DecodeError as error:
            return refusal(400, f"not a chat request: {error}")
        return await answer(asked)

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", _models),
        Route("/healthz", _healthz),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Labelled)])


def scripted(*, pace: float = PACE) -> Behaviour:
    """The demo's behaviour: the script's turn for every request."""

    async def answer(request: ChatRequest) -> Response:
        return respond(request, next_turn(request), pace=pace)

    return answer


def respond(request: ChatRequest, turn: Turn, *, pace: float) -> Response:
    """`turn` as the request wants it: streamed at `pace`, or whole."""
    if request.stream:
        return stream(wire.events(request, turn), pace=pace)
    return json_response(wire.completion(request, turn))


def stream(events: Iterable[bytes], *, pace: float) -> Response:
    """Server-sent events, with `pace` seconds after each."""

    async def body() -> AsyncIterator[bytes]:
        for event in events:
            yield event
            await asyncio.sleep(pace)

    return StreamingResponse(body(), media_type="text/event-stream")


def refusal(status: int, message: str) -> Response:
    """An error in the shape that OpenAI clients read."""
    error = {"message": message, "type": "invalid_request_error", "code": None}
    return json_response({"error": error}, status=status)


def json_response(payload: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(payload), status, media_type="application/json")


async def _models(_request: Request) -> Response:
    model = {
        "id": wire.MODEL,
        "object": "model",
        "created": 0,
        "owned_by": "podium",
        "max_model_len": wire.CONTEXT_TOKENS,
    }
    return json_response({"object": "list", "data": [model]})


async def _healthz(_request: Request) -> Response:
    return json_response({"status": "ok", "model": wire.MODEL})


class _Labelled:
    """Puts the label on every response, refusals and unknown routes included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[LABEL_HEADER] = LABEL
            await send(message)

        await self._app(scope, receive, labelled)


async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    pace: float = PACE,
    stop: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Serve until a signal, or until `stop` returns. Port 0 takes a free one.

    Prints one line with the address when it listens. Raises `ValueError` for a host that is not
    loopback, `OSError` when the port is taken.
    """
    if host not in LOOPBACK:
        raise ValueError(f"the demo model listens on loopback only, not on {host}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        await _serve_on(listener, create_app(pace=pace), stop)


async def _serve_on(
    listener: socket.socket, app: Starlette, stop: Callable[[], Awaitable[object]] | None
) -> None:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    # The socket listens already: a connection made from now on waits until the server takes it.
    print(f"podium demo model: {base_url(listener)} (scripted, not a review)", flush=True)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_stop_when(stop, server)) if stop else None
        await server.serve(sockets=[listener])
        if watching:
            watching.cancel()


def base_url(listener: socket.socket) -> str:
    """The address that clients are given for a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{authority(host, port)}/v1"


async def _stop_when(stop: Callable[[], Awaitable[object]], server: uvicorn.Server) -> None:
    await stop()
    server.should_exit = True
