"""Plays a scenario: a real WebSocket server on loopback that follows the script, and a client."""

import asyncio
import json
import socket as sockets
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.clients.script import (
    Accept,
    Answer,
    App,
    Close,
    Cut,
    Deny,
    Expect,
    Given,
    Hears,
    Leave,
    Left,
    Mark,
    Move,
    Same,
    Say,
    Scenario,
    Turn,
    TurnAll,
    ping,
)

SUBPROTOCOL = "podium.v1"
PREFIX = "/podium"
"""As behind a proxy that serves other things beside it."""
PATIENCE = 20.0
GONE = None
EARLY_MS = 2.0
"""A timer of Node may ring so much too early."""
SYNC = "the end"


class Failed(AssertionError):
    """The client did not do what the scenario is about."""


class Unusable(Failed):
    """The application around the client does not do what it is told, whatever the scenario."""


class Runner(Protocol):
    """A client under test, with an application around it that can be told what to do."""

    async def start(self, url: str, options: dict[str, Any]) -> None:
        """Make the client and connect it."""

    async def act(self, action: dict[str, Any]) -> None:
        """Do one thing; return once the client was told."""

    async def event(self) -> dict[str, Any]:
        """The next thing that the application heard."""

    async def stop(self) -> None: ...


class Heard:
    """What the application has heard, by what it concerns."""

    def __init__(self) -> None:
        self.run: list[list[Any]] = []
        self.states: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.rows: list[str] = []
        self._changed = asyncio.Condition()

    async def listen(self, runner: Runner, scenario: Scenario) -> None:
        """Raises Failed as soon as it hears what it should not."""
        while True:
            event = await runner.event()
            async with self._changed:
                self._take(event)
                self.check(scenario)
                self._changed.notify_all()

    def _take(self, event: dict[str, Any]) -> None:
        match event:
            case {"heard": heard}:
                self.run.append(heard)
            case {"state": state}:
                self.states.append(state)
            case {"answer": label, "said": said}:
                assert label not in self.answers, "answered twice"
                self.answers[label] = said
            case {"row": row}:
                self.rows.append(row)
            case _:
                raise Unusable(f"the application said {event}, which is no event")

    @property
    def times_live(self) -> int:
        return sum(state["state"] == "live" for state in self.states)

    async def until(self, wanted: "Any") -> None:
        async with self._changed:
            await self._changed.wait_for(wanted)

    def check(self, scenario: Scenario) -> bool:
        """Whether all that was wanted was heard; raises Failed when it cannot be any more."""
        _check("heard", self.run, scenario.heard)
        _check("rows", self.rows, scenario.rows)
        if scenario.states is not None:
            trimmed = [
                {name: state.get(name) for name in wanted}
                for state, wanted in zip(self.states, scenario.states, strict=False)
            ]
            extra = self.states[len(scenario.states) :]
            _check("states", trimmed + extra, scenario.states)
        whole = (
            len(self.run) == len(scenario.heard)
            and len(self.rows) == len(scenario.rows)
            and self.answers.keys() >= scenario.answers.keys()
            and (scenario.states is None or len(self.states) == len(scenario.states))
        )
        for label, wanted in scenario.answers.items():
            said = self.answers.get(label)
            if said is not None and not wanted.items() <= said.items():
                raise Failed(f"the answer to {label} is {said}, not {wanted}")
        return whole


def _check(what: str, found: Sequence[Any], wanted: Sequence[Any]) -> None:
    if list(found) != list(wanted[: len(found)]):
        raise Failed(f"{what}: {found}, not {wanted}")


class Attempt:
    """One connection as it comes in, before it is accepted."""

    def __init__(self) -> None:
        self.decision: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.protocol = True
        self.came = time.monotonic()
        self.opened: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()
        self.messages: asyncio.Queue[tuple[str | None, float]] = asyncio.Queue()
        """Each with when it came; GONE is the end."""


class Stage:
    """The server, and the moves."""

    def __init__(
        self,
        runner: Runner,
        *,
        pages: Mapping[str, tuple[str, str]] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """`pages` are served to plain requests, by path: content type and text."""
        self.url = ""
        self._runner = runner
        self._pages = pages or {}
        self._patience = patience
        self._attempts: asyncio.Queue[Attempt] = asyncio.Queue()
        self._all: HTTPStatus | None = None
        self._hellos = 0
        """Those that make the client live."""
        self._greeted = False
        """Whether this connection was said one."""
        self._by_connection: dict[int, Attempt] = {}
        self._now: Attempt | None = None
        self._last: dict[str, Any] = {}
        self._turned = HTTPStatus.NOT_FOUND
        self._mark = self._came = time.monotonic()
        self.heard = Heard()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with serve(
            self._serve,
            "127.0.0.1",
            0,
            process_request=self._request,
            select_subprotocol=self._protocol,
            compression=None,
            max_size=None,
            ping_interval=None,
            close_timeout=0.2,
            open_timeout=None,
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"http://127.0.0.1:{port}{PREFIX}"
            try:
                yield
            finally:
                self._all = HTTPStatus.SERVICE_UNAVAILABLE
                for attempt in self._by_connection.values():
                    if not attempt.decision.done():
                        attempt.decision.set_result(503)

    async def play(self, scenario: Scenario) -> None:
        """Raises Failed when the client does not do what it should."""
        tasks = [
            asyncio.create_task(self._moves(scenario)),
            asyncio.create_task(self.heard.listen(self._runner, scenario)),
        ]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise Failed("it took too long")
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self._nothing_left()

    async def _moves(self, scenario: Scenario) -> None:
        first, *others = scenario.moves
        if isinstance(first, TurnAll):
            await self.move(first)
            scenario = scenario._replace(moves=tuple(others))
        await self._runner.start(self.url, scenario.options)
        for move in scenario.moves:
            await self.move(move)
        if scenario.live:
            for move in (ping(SYNC), Expect({"type": "ping"}), Answer({}), Hears(SYNC)):
                await self.move(move)
        await self.heard.until(lambda: self.heard.check(scenario))

    def _nothing_left(self) -> None:
        while self._now is not None and not self._now.messages.empty():
            message, _ = self._now.messages.get_nowait()
            if message is not GONE and not _is_bare(message):
                raise Failed(f"the client said more: {message}")
        if not self._attempts.empty():
            raise Failed("the client came back")

    async def move(self, move: Move) -> None:
        match move:
            case Accept(protocol, not_before_ms):
                await self._accept(protocol=protocol)
                self._check_time(not_before_ms)
            case Turn(status):
                self._turned = HTTPStatus(status)
                (await self._attempts.get()).decision.set_result(status)
            case TurnAll(status):
                self._turned = self._all = HTTPStatus(status)
            case Leave():
                await self._attempts.get()
            case Say(data):
                await self._send(data)
            case Expect(fields, not_before_ms):
                self._last = await self._message(bare=fields.get("type") == "hello")
                found = {name: self._last.get(name) for name in fields}
                if found != fields:
                    raise Failed(f"the client said {self._last}, not {fields}")
                self._check_time(not_before_ms)
            case Same(not_before_ms):
                before = {**self._last, "id": ""}
                self._last = await self._message()
                if {**self._last, "id": ""} != before:
                    raise Failed(f"the client said {self._last}, not {before}")
                self._check_time(not_before_ms)
            case Answer(fields):
                await self._answer("flow_run_ack", **fields)
            case Deny(code, wait):
                later = {} if wait is None else {"retry_after_ms": wait}
                await self._answer("flow_run_error", code=code, message="no", **later)
                self._unwelcome()
            case _:
                await self._end_or_act(move)

    async def _end_or_act(self, move: Move) -> None:
        match move:
            case Close(code):
                await (await self._connection()).close(code)
            case Cut():
                _reset(await self._connection())
            case Left():
                message = await self._next()
                if message is not GONE:
                    raise Failed(f"the client said {message} instead of leaving")
            case Mark():
                self._mark = time.monotonic()
            case App(do, fields):
                if do == "ping":
                    await self.heard.until(lambda: self.heard.times_live >= self._hellos)
                await self._runner.act({"do": do, **fields})
            case Hears(label):
                await self.heard.until(lambda: label in self.heard.answers)
            case Given(seq):
                await self.heard.until(lambda: ["frame", seq] in self.heard.run)

    def _check_time(self, not_before_ms: float) -> None:
        passed = (self._came - self._mark) * 1000
        if passed < not_before_ms - EARLY_MS:
            raise Failed(f"the client came after {passed:.1f} ms, not {not_before_ms}")

    # --- one connection -------------------------------------------------------------------------

    async def _accept(self, *, protocol: bool) -> None:
        self._now = await self._attempts.get()
        self._greeted = False
        self._came = self._now.came
        self._now.protocol = protocol
        self._now.decision.set_result(101)
        await self._now.opened

    async def _connection(self) -> ServerConnection:
        assert self._now is not None
        return await self._now.opened

    async def _send(self, data: str | bytes) -> None:
        if isinstance(data, str) and '"flow_run_hello"' in data:
            self._hellos += 1
            self._greeted = True
        try:
            await (await self._connection()).send(data)
        except ConnectionClosed:
            raise Failed("the client left") from None

    async def _answer(self, type: str, **fields: Any) -> None:
        await self._send(json.dumps({"type": type, "id": self._last["id"], **fields}))

    def _unwelcome(self) -> None:
        """A hello that came before its ticket was refused makes nobody live."""
        if self._last["type"] == "hello" and self._greeted:
            self._hellos -= 1

    async def _next(self, *, bare: bool = False) -> str | None:
        """A client may say a `hello` without a ticket or not: only a `bare` one asks for it."""
        assert self._now is not None
        while True:
            message, self._came = await self._now.messages.get()
            if bare or message is GONE or not _is_bare(message):
                return message

    async def _message(self, *, bare: bool = False) -> dict[str, Any]:
        message = await self._next(bare=bare)
        if message is GONE:
            raise Failed("the client left")
        said: dict[str, Any] = json.loads(message)
        return said

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return self._page(request.path)
        if request.path != f"{PREFIX}/api/ws":
            return _plain(HTTPStatus.NOT_FOUND)
        if self._all is not None:
            return _plain(self._all)
        attempt = Attempt()
        self._by_connection[id(connection)] = attempt
        self._attempts.put_nowait(attempt)
        status = await attempt.decision
        return None if status == 101 else _plain(HTTPStatus(status))

    def _page(self, path: str) -> Response:
        if path in self._pages:
            kind, text = self._pages[path]
            return _plain(HTTPStatus.OK, text, kind)
        return _plain(self._turned if path.startswith(f"{PREFIX}/api/") else HTTPStatus.NOT_FOUND)

    def _protocol(self, connection: ServerConnection, offered: Sequence[Any]) -> Any:
        if SUBPROTOCOL not in offered:
            raise AssertionError(f"the client offers {offered}")
        return SUBPROTOCOL if self._by_connection[id(connection)].protocol else None

    async def _serve(self, connection: ServerConnection) -> None:
        attempt = self._by_connection[id(connection)]
        attempt.opened.set_result(connection)
        try:
            async for message in connection:
                assert isinstance(message, str)
                attempt.messages.put_nowait((message, time.monotonic()))
        except ConnectionClosed:
            pass
        finally:
            attempt.messages.put_nowait((GONE, time.monotonic()))


async def plays(
    runner: Runner,
    scenario: Scenario,
    *,
    patience: float = PATIENCE,
    pages: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Raises Failed when the client does not do what it should."""
    stage = Stage(runner, patience=patience, pages=pages)
    async with stage.open():
        try:
            await stage.play(scenario)
        finally:
            await runner.stop()


def _is_bare(message: str) -> bool:
    said = json.loads(message)
    return said.get("type") == "hello" and said.get("ticket") is None


def _plain(status: HTTPStatus, text: str = "", kind: str = "text/plain") -> Response:
    body = text.encode()
    headers = Headers(
        [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    )
    return Response(status.value, status.phrase, headers, body)


def _reset(connection: ServerConnection) -> None:
    raw = connection.transport.get_extra_info("socket")
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()
