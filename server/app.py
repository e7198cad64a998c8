"""The composition root: it alone joins the rooms with the stores, hubs and agents."""

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows import registry
from server import __version__
from server.addresses import path_of
from server.agent import agent_of
from server.agents.copies.trees import PinnedTrees
from server.channel.commands import Commands
from server.channel.hub import MemoryHub
from server.channel.websocket import Channel
from server.endpoints import models_of, roles_of
from server.guards import problems_of_several, unknown_roles
from server.http.answers import json
from server.http.entrance import Entrance
from server.http.log import LogRoutes
from server.http.peers import Peers
from server.http.public import BelowPath
from server.http.rest import Rest
from server.http.sessions import Sessions
from server.http.sign_in import SignIn, local_token, places_of
from server.http.sse import Events
from server.http.tickets import Tickets
from server.http.users import UserRoutes
from server.logs import logger
from server.memory import available_memory
from server.ports import AgentRunner, AgentUnavailable, Clock, Ids
from server.runs.housekeeping import keep_house
from server.runs.launch import Launcher
from server.runs.rooms import Clocks, Rooms
from server.runs.runner import Runner
from server.runs.unseen import stop_unseen
from server.settings import Settings, SettingsError
from server.stores.sqlite import SqliteStore
from server.users.accounts import Accounts, Ground
from server.users.audit import Audit
from server.users.directory import Directory
from server.users.tokens import kept_secret
from server.users.visits import Visits
from server.world import RandomIds, SystemClock, boot_id

log = logger(__name__)

WEB = Path(__file__).parent / "web"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


class Podium:
    """The running parts of one server. `opened()` gives one that is ready."""

    def __init__(
        self,
        app: Starlette,
        channel: Channel,
        events: Events,
        runner: Runner,
        sign_in: SignIn,
    ) -> None:
        self.app = app
        self.channel = channel
        self.events = events
        self.runner = runner
        self.sign_in = sign_in


@asynccontextmanager
async def opened(
    settings: Settings,
    *,
    token: str,
    projects: list[Path],
    agent: AgentRunner | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Podium]:
    """Open the store, go on with every unfinished run, and close in the reverse order.

    `agent` None is the pinned qwen, `clock` None the real one. Raises SettingsError when a role of
    the settings is none, ProtocolError when a project cannot be used, and StoreError when the store
    cannot.
    """
    clock = clock or SystemClock()
    ids: Ids = RandomIds()
    hub = MemoryHub()
    agent = agent or agent_of(settings, clock=clock)
    trees = await asyncio.to_thread(_trees, settings)
    catalogue = await asyncio.to_thread(registry.load)
    misnamed = unknown_roles(settings, roles_of(catalogue))
    if misnamed:
        raise SettingsError(misnamed)
    models = models_of(settings, agent, memory=await asyncio.to_thread(available_memory))
    boot = await asyncio.to_thread(boot_id)
    # Its tables are read from disk at first use, which would be in the middle of a request.
    await asyncio.to_thread(mimetypes.init)
    for problem in catalogue.problems:
        log.warning("flow_not_offered", file=problem.file, problem=problem.message)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            SqliteStore(settings.directory, clock=clock, committed=hub.publish, boot_id=boot)
        )
        trail = Audit(settings.directory, clock=clock)
        stack.push_async_callback(trail.stop)
        ground = Ground(store, store, settings, clock, trees.check)
        accounts = await Accounts.opened(ground, token)
        _require_settings_for_all(settings, accounts, agent)
        for path in projects:
            checked = await trees.check(path)
            await store.add_project(checked, checked.name or str(checked))
        rooms = Rooms(
            store=store,
            agent=agent,
            trees=trees,
            catalogue=catalogue,
            clock=clock,
            ids=ids,
            models=models,
            clocks=Clocks(settings.first_byte_seconds, settings.idle_seconds),
            gave_up=asyncio.Event(),
        )
        stack.push_async_callback(agent.stop)
        await agent.start()
        runner = Runner(rooms)
        stack.push_async_callback(runner.stop)
        await runner.start()
        accounts.withdrawn = partial(stop_unseen, store, runner)
        await accounts.withdrawn()
        secret = await asyncio.to_thread(kept_secret, settings.directory / "session.key")
        visits = Visits(accounts.directory, clock=clock)
        accounts.changed.append(visits.changed)
        keeping = [
            asyncio.create_task(keep_house(store, clock, frames_days=settings.frames_days)),
            asyncio.create_task(visits.watch()),
            asyncio.create_task(trail.run()),
        ]
        stack.push_async_callback(_cancelled, keeping)
        sign_in = SignIn(
            accounts,
            places_of(settings),
            peers=Peers(settings.trusted_proxies),
            sessions=Sessions(secret, clock=clock),
            visits=visits,
            audit=trail,
            clock=clock,
        )
        yield _assemble(settings, sign_in, rooms=rooms, hub=hub, runner=runner)


def _require_settings_for_all(settings: Settings, accounts: Accounts, agent: AgentRunner) -> None:
    """Several users need what a single one does without; raises SettingsError."""

    def several(directory: Directory) -> None:
        if directory.others and settings.containment == "auto":
            agent.require_containment()

    others = accounts.directory.others
    if others:
        some = ", ".join([*others[:5], "…"] if others[5:] else others)
        problems = problems_of_several(settings, f"podium has several users ({some})")
        if problems:
            raise SettingsError(problems)
    several(accounts.directory)
    accounts.changed.append(several)


@asynccontextmanager
async def opened_accounts(settings: Settings) -> AsyncIterator[tuple[Accounts, Audit]]:
    """The accounts of DIR and its audit log, while no server runs on it. Raises StoreError when one
    does."""
    clock = SystemClock()
    await asyncio.to_thread(settings.directory.mkdir, 0o700, parents=True, exist_ok=True)
    boot = await asyncio.to_thread(boot_id)
    trees = await asyncio.to_thread(_pinned_trees, settings)
    token = await asyncio.to_thread(local_token, settings)
    store = SqliteStore(
        settings.directory, clock=clock, committed=lambda entries: None, boot_id=boot
    )
    async with store:
        ground = Ground(store, store, settings, clock, trees.check)
        trail = Audit(settings.directory, clock=clock)
        try:
            yield await Accounts.opened(ground, token), trail
        finally:
            await trail.stop()


def _assemble(
    settings: Settings, sign_in: SignIn, *, rooms: Rooms, hub: MemoryHub, runner: Runner
) -> Podium:
    launcher = Launcher(rooms, begin=runner.begin)
    commands = Commands(
        store=rooms.store, launcher=launcher, runner=runner, catalogue=rooms.catalogue
    )
    tickets = Tickets(rooms.clock, sign_in.stands)
    events = Events(store=rooms.store, hub=hub, clock=rooms.clock, sign_in=sign_in)
    channel = Channel(
        store=rooms.store,
        hub=hub,
        commands=commands,
        sign_in=sign_in,
        clock=rooms.clock,
        build=__version__,
        tickets=tickets,
        beside=[events.drain],
        stall_seconds=settings.stall_seconds,
    )
    rest = Rest(
        store=rooms.store,
        launcher=launcher,
        runner=runner,
        trees=rooms.trees,
        catalogue=rooms.catalogue,
        sign_in=sign_in,
    )
    routes = [
        *rest.routes(),
        *Entrance(sign_in=sign_in, tickets=tickets).routes(),
        *UserRoutes(sign_in=sign_in).routes(),
        *events.routes(),
        *LogRoutes(store=rooms.store, sign_in=sign_in).routes(),
        WebSocketRoute("/api/ws", channel.endpoint),
        Route("/healthz", _healthz),
        Route("/readyz", _readyz(rooms, channel)),
        Mount("/", StaticFiles(directory=WEB, html=True, check_dir=False)),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(BelowPath, path=path_of(settings.public_url))
    app.add_middleware(SafeHeaders)
    return Podium(app, channel, events, runner, sign_in)


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class SafeHeaders:
    """Pure ASGI middleware: every answer forbids foreign content, framing and sniffing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT_POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


async def _healthz(request: Request) -> Response:
    return json({"status": "ok", "build": __version__})


def _readyz(rooms: Rooms, channel: Channel):  # type: ignore[no-untyped-def]
    async def readyz(request: Request) -> Response:
        """200 when requests are taken. Whether an agent can start is told beside it: a server
        without one still shows its runs and says what is missing."""
        if channel.draining:
            return json({"status": "draining"}, 503)
        return json({"status": "ready", "agent": await _agent_state(rooms)})

    return readyz


async def _agent_state(rooms: Rooms) -> dict[str, object]:
    try:
        version = await rooms.agent.check()
    except AgentUnavailable as error:
        return {"available": False, "reason": error.reason, "hint": error.hint}
    if rooms.models.none:
        return {"available": False, "reason": "no_endpoint", "hint": "run `podium setup`"}
    return {"available": True, "version": version}


def _trees(settings: Settings) -> PinnedTrees:
    """The cache of pinned copies, without what a crash has left in it."""
    trees = _pinned_trees(settings)
    trees.clean()
    return trees


def _pinned_trees(settings: Settings) -> PinnedTrees:
    return PinnedTrees(
        settings.directory.resolve(),
        limit=settings.trees_mib * 1024 * 1024,
        roots=[Path(root).expanduser().resolve() for root in settings.project_roots],
    )
