"""A model endpoint for tests: the demo's wire with hostile, broken or held behaviours.

A behaviour answers one chat request. `FakeModel(first, second, …)` gives each request the next one
and repeats the last.
"""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count, islice

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse

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
        async with serving_on(app, listener):
            yield base_url(listener)


@asynccontextmanager
async def serving_on(app: Starlette, *listeners: socket.socket) -> AsyncIterator[None]:
    """Serve `app` on sockets that listen already."""
    server = _Server(
        uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    )
    task = asyncio.create_task(server.serve(sockets=list(listeners)))
    try:
        yield
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await task


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to pytest."""
        yield


# --- models and servers as they are met -----------------------------------------------------------


def refuses_with(status: int, body: object, **headers: str) -> Behaviour:
    """An HTTP error with a body of its own shape."""
    return answers(status, msgspec.json.encode(body), content_type="application/json", **headers)


def error_body(message: str, kind: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None, **more}}


def too_long(server: str) -> Behaviour:
    """A prompt that does not fit, in the words of `llama.cpp`, `vllm`, `vllm-old` or `ollama`."""
    vllm = (
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
        " (4000 in the messages, 1000 in the completion). Please reduce the length of the messages"
        " or completion."
    )
    llama = (
        "request (10373 tokens) exceeds the available context size (8192 tokens), try increasing it"
    )
    bodies = {
        "llama.cpp": error_body(
            llama, "exceed_context_size_error", code=400, n_prompt_tokens=10_373, n_ctx=8_192
        ),
        "vllm": error_body(vllm, "BadRequestError", code=400),
        "vllm-old": {"object": "error", "message": vllm, "type": "BadRequestError", "code": 400},
        "ollama": error_body("the input length exceeds the context length", "api_error"),
    }
    return refuses_with(400, bodies[server])


def no_tools(server: str) -> Behaviour:
    """A server, or a model of it, that takes no tools: `vllm`, `vllm-old` or `ollama`."""
    vllm = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    bodies = {
        "vllm": error_body(vllm, "BadRequestError", code=400),
        "vllm-old": {"object": "error", "message": vllm, "type": "BadRequestError", "code": 400},
        "ollama": error_body("registry.ollama.ai/library/x does not support tools", "api_error"),
    }
    return refuses_with(400, bodies[server])


def rate_limits(retry_after: str) -> Behaviour:
    """HTTP 429 with this Retry-After: seconds, a date, or nonsense."""
    body = error_body("slow down", "rate_limit_error")
    return refuses_with(429, body, retry_after=retry_after)


def redirects(location: str, status: int = 307) -> Behaviour:
    return answers(status, b"", location=location)


def falls_silent(turn: Turn, *, after: int) -> Behaviour:
    """Streams `after` events and then nothing, with the connection open."""

    async def answer(request: ChatRequest) -> Response:
        return StreamingResponse(_then_wait(islice(wire.events(request, turn), after)))

    return answer


def only_comments(pace: float = 0.01) -> Behaviour:
    """Keep-alive comments without end, and never an event: no sign of a model."""

    async def answer(_request: ChatRequest) -> Response:
        return stream((b": keep-alive\n\n" for _ in count()), pace=pace)

    return answer


def says_in_one_piece(size: int) -> Behaviour:
    """One event with a text of that many bytes, and a proper end."""

    async def answer(request: ChatRequest) -> Response:
        pieces = [
            wire.chunk(request, {"content": "x" * size}),
            wire.chunk(request, {}, finish="stop"),
        ]
        return stream([*map(wire.event, pieces), DONE], pace=0)

    return answer


def stops_at_limit(text: str) -> Behaviour:
    """Text that the token limit ends: finish reason `length`."""

    async def answer(request: ChatRequest) -> Response:
        pieces = [wire.chunk(request, {"content": text}), wire.chunk(request, {}, finish="length")]
        return stream([*map(wire.event, pieces), DONE], pace=0)

    return answer


def drops_front(turn: Turn, *, tokens: int) -> Behaviour:
    """A good answer whose usage shows that only so many tokens of the prompt were read."""

    async def answer(request: ChatRequest) -> Response:
        events = [
            wire.event({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 9}})
            if b'"usage"' in event else event
            for event in wire.events(request, turn)
        ]  # fmt: skip
        return stream(events, pace=0)

    return answer


def fails_inside(turn: Turn, *, after: int, message: str) -> Behaviour:
    """Streams `after` events and then an error object, as an event of its own."""

    async def answer(request: ChatRequest) -> Response:
        good = islice(wire.events(request, turn), after)
        return stream([*good, wire.event(error_body(message, "server_error"))], pace=0)

    return answer


def compresses(turn: Turn) -> Behaviour:
    """A good answer in gzip, which nobody asked for."""

    async def answer(request: ChatRequest) -> Response:
        packed = gzip.compress(b"".join(wire.events(request, turn)))
        headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
        return Response(packed, headers=headers)

    return answer


def writes_with_everything(tree: str) -> list[Behaviour]:
    """A call of each tool that could change a file, run a command or reach out, one by one."""
    target, command = f"{tree}/written.py", f"touch {tree}/touched"
    given: dict[str, object] = {
        "write_file": {"file_path": target, "content": "x"},
        "edit": {"file_path": f"{tree}/a.py", "old_string": "1", "new_string": "2"},
        "notebook_edit": {"notebook_path": f"{tree}/a.ipynb", "new_source": "x"},
        "run_shell_command": {"command": command, "is_background": False},
        "monitor": {"command": command},
        "enter_worktree": {"name": "evil"},
        "exit_worktree": {"action": "remove"},
        "exit_plan_mode": {"plan": "write"},
        "tool_call": {"name": "write_file", "arguments": {"file_path": target, "content": "x"}},
        "save_memory": {"fact": "x"},
        "skill": {"skill": "review"},
        "agent": {"description": "x", "prompt": command, "subagent_type": "general-purpose"},
        "web_fetch": {"url": "http://127.0.0.1:1/", "prompt": "x"},
        "cron_create": {"cron": "* * * * *", "prompt": command},
        "loop_wakeup": {"delaySeconds": 60, "prompt": command},
        "todo_write": {"todos": [{"id": "1", "content": "x", "status": "pending"}]},
        "record_artifact": {"path": target},
        "send_message": {"to": "x", "message": "x"},
    }
    return [calls(name, arguments) for name, arguments in given.items()]


def never_meets_the_schema() -> Behaviour:
    """A result against its schema each time, each time another one: no loop to detect."""

    async def answer(request: ChatRequest) -> Response:
        wrong = call("structured_output", {"word": 10 + request.turn})
        return respond(request, Turn("Calling structured_output.", (wrong,)), pace=0)

    return answer


def wanders() -> Behaviour:
    """A search each time, each time another one: it never comes to an end."""

    async def answer(request: ChatRequest) -> Response:
        search = call("grep_search", {"pattern": f"word{request.turn}"})
        return respond(request, Turn(f"Looking, {request.turn}.", (search,)), pace=0)

    return answer


async def _then_wait(events: Iterator[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event
    await asyncio.Event().wait()


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
