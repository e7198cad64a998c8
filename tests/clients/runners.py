"""The clients under test, each with an application that does what it is told."""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import urljoin

from playwright.async_api import Page

from protocol.commands import Cancel, Cursor, Detail, Launch, Ping
from protocol.errors import ErrorCode, ProtocolError
from protocol.frames import FlowRunCaughtUp, FlowRunLagging, FlowRunReset, FlowRunSubscribed
from protocol.ids import RunId
from server import client
from server.client.states import Condition
from server.client.wire import WireClient
from tests.clients.stage import Failed, Unusable

CLIENT_JS = Path(client.__file__).parents[1] / "web" / "client.js"
RUNNER_JS = Path(__file__).parent / "runner.mjs"
LINE = 8 * 1024 * 1024


class PythonRunner:
    """WireClient, in this process. `package` is `server.client` or a variant of it."""

    def __init__(self, package: ModuleType = client) -> None:
        self._wire_of: type[WireClient] = import_module(".wire", package.__name__).WireClient
        self._states = import_module(".states", package.__name__)
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: dict[str, asyncio.Task[None]] = {}
        self._wire: WireClient | None = None

    async def event(self) -> dict[str, Any]:
        return await self._events.get()

    async def start(self, url: str, options: dict[str, Any]) -> None:
        given = {"backoff": {"base_ms": 1, "max_ms": 4}, **options}
        tickets, chance = given.pop("tickets", None), given.pop("random", 0.5)
        token = given.pop("token", None)
        pace = self._states.Pace(**given.pop("backoff"), **given)
        self._wire = self._wire_of(
            url,
            token=token,
            ticket=None if tickets is None else _provider(list(tickets)),
            pace=pace,
            on_state=self._state,
            chance=lambda: float(chance),
        )
        await self._wire.__aenter__()

    async def stop(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._wire is not None:
            await self._wire.__aexit__(None, None, None)

    async def act(self, action: dict[str, Any]) -> None:
        assert self._wire is not None
        match action:
            case {"do": "follow", "run": run}:
                self._following[run] = self._begin(self._follow(action))
            case {"do": "unfollow", "run": run}:
                self._following[run].cancel()
                await asyncio.wait([self._following[run]])
            case {"do": "index"}:
                self._begin(self._index())
            case {"do": "launch", "label": label, "body": body}:
                message = Launch(**{"id": "-", "key": "generated", **body})
                self._begin(self._answer(label, message))
            case {"do": "cancel", "label": label, "run": run}:
                self._begin(self._answer(label, Cancel(id="-", run_id=run)))
            case {"do": "ping", "label": label}:
                self._begin(self._answer(label, Ping(id="-")))
        await asyncio.sleep(0)  # the task that was begun has asked

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _follow(self, action: dict[str, Any]) -> None:
        assert self._wire is not None
        after = Cursor(**action["after"]) if "after" in action else None
        detail = Detail(action.get("detail", "full"))
        try:
            async for event in self._wire.follow(
                RunId(action["run"]), detail=detail, after=after, tail=action.get("tail")
            ):
                self._events.put_nowait({"heard": _heard(event)})
        except (ProtocolError, self._states.Unreachable) as error:
            self._events.put_nowait({"heard": ["error", _code(error)]})

    async def _index(self) -> None:
        assert self._wire is not None
        async for event in self._wire.follow_index():
            self._events.put_nowait({"row": event.row.run.id})

    async def _answer(self, label: str, message: Launch | Cancel | Ping) -> None:
        assert self._wire is not None
        said: dict[str, Any]
        try:
            ack = await self._wire.ask(message)
        except (ProtocolError, self._states.Unreachable) as error:
            said = {"error": _code(error), "hint": error.hint}
        else:
            said = {"run_id": ack.run_id, "created": ack.created}
        self._events.put_nowait({"answer": label, "said": said})

    def _state(self, condition: Condition) -> None:
        self._events.put_nowait({"state": condition._asdict()})


def _provider(given: list[Any]) -> Any:
    async def ticket() -> str:
        found: Any = given.pop(0) if given else {"code": "unauthenticated"}
        if isinstance(found, str):
            return found
        code, wait = ErrorCode(found["code"]), found.get("retry_after_ms")
        raise ProtocolError(code, "no ticket", retry_after_ms=wait)

    return ticket


def _heard(event: Any) -> list[Any]:
    match event:
        case FlowRunSubscribed():
            return ["truncate", event.after]
        case FlowRunReset():
            return ["reset", event.head]
        case FlowRunCaughtUp():
            return ["caught_up", event.seq]
        case FlowRunLagging():
            return ["lagging", event.behind]
        case _:
            return ["frame", event.seq]


def _code(error: Any) -> str:
    return str(error.code.value if isinstance(error.code, ErrorCode) else error.code)


class PageRunner:
    """client.js in a page, which the stage serves from its own origin."""

    PAGES: ClassVar = {
        "/": ("text/html", "<!doctype html><title>a page</title>"),
        "/client.js": ("text/javascript", CLIENT_JS.read_text("utf-8")),
        "/runner.mjs": ("text/javascript", RUNNER_JS.read_text("utf-8")),
    }
    START = """async () => {
        const { runner } = await import("/runner.mjs");
        const { PodiumClient } = await import("/client.js");
        window.act = runner(PodiumClient, (event) => window.tell(JSON.stringify(event)));
    }"""

    def __init__(self, view: Page) -> None:
        self._view = view
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def event(self) -> dict[str, Any]:
        return await self._events.get()

    async def start(self, url: str, options: dict[str, Any]) -> None:
        await self._view.expose_function(
            "tell", lambda event: self._events.put_nowait(json.loads(event))
        )
        await self._view.goto(urljoin(url, "/"))
        await self._view.evaluate(self.START)
        await self.act({"do": "start", "url": url, "options": options})

    async def act(self, action: dict[str, Any]) -> None:
        await self._view.evaluate("(action) => { window.act(action); }", action)

    async def stop(self) -> None:
        await self._view.close()


class ProcessRunner:
    """A client in a process of its own: JSON lines in, JSON lines out.

    Raises Failed when it ends before it has done what it was told, and Unusable when that is the
    first thing, or when it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._did: asyncio.Queue[bool] = asyncio.Queue()
        """True for each thing that was done, False at the end."""
        self._reading: asyncio.Task[None] | None = None

    async def event(self) -> dict[str, Any]:
        return await self._events.get()

    async def start(self, url: str, options: dict[str, Any]) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE,
            )
        except OSError as error:
            raise Unusable(f"{self._command[0]} cannot be started: {error.strerror}") from error
        self._reading = asyncio.create_task(self._read())
        try:
            await self.act({"do": "start", "url": url, "options": options})
        except Failed as error:
            raise Unusable(str(error)) from error

    async def act(self, action: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # it does not read any more: its end says so, too
            self._process.stdin.write(json.dumps(action).encode() + b"\n")
            await self._process.stdin.drain()
        if not await self._did.get():
            status = await self._process.wait()
            raise Failed(f"the application ended with status {status} before it did {action['do']}")

    async def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        assert self._reading is not None
        await self._reading

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = _event(line)
            if "did" in event:
                self._did.put_nowait(True)
            else:
                self._events.put_nowait(event)
        self._did.put_nowait(False)


def _event(line: bytes) -> dict[str, Any]:
    """What is no JSON object is handed on as it is: it is none of the events that there are."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"no event": line.decode(errors="replace")}
