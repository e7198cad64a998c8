"""The composition root: it alone joins the rooms with the stores, hubs and agents."""

import asyncio
import mimetypes
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from flows import registry
from flows.registry import Catalogue
from server import __version__
from server.addresses import path_of
from server.admission import require_settings_for_all, require_token_of_nobody
from server.agent import agent_of
from server.agents.copies.trees import PinnedTrees
from server.background import Work, working
from server.channel.commands import Commands
from server.channel.hub import MemoryHub
from server.channel.traffic import Traffic
from server.channel.websocket import Channel
from server.endpoints import models_of, roles_of
from server.http.allow_list import allow_list_of
from server.http.asking import signed_in
from server.http.contracts import contract_routes, documents
from server.http.entrance import Entrance
from server.http.health import Health
from server.http.log import LogRoutes
from server.http.page import Page, SafeHeaders
from server.http.peers import Peers
from server.http.public import BelowPath
from server.http.rest import Rest
from server.http.sessions import Sessions
from server.http.sign_in import SignIn
from server.http.sse import Events
from server.http.tickets import Tickets
from server.http.users import UserRoutes
from server.logs import logger
from server.memory import available_memory
from server.metrics import LoopLag, Metrics
from server.ports import AgentRunner, Clock, Store
from server.rates import Rates
from server.runs.housekeeping import keep_house
from server.runs.launch import Launcher
from server.runs.models import Models
from server.runs.rooms import Clocks, Rooms
from server.runs.runner import Runner
from server.runs.under_way import UnderWay
from server.runs.unseen import stop_unseen
from server.settings import Settings, SettingsError
from server.settings.guards_of_models import unknown_roles
from server.stopping import Gate
from server.stores.sqlite import SqliteStore
from server.trees import trees_of
from server.users.accounts import Accounts, Ground
from server.users.audit import Audit
from server.users.tokens import kept_secret
from server.users.visits import Visits
from server.world import RandomIds, SystemClock, boot_id

log = logger(__name__)


class Podium:
    """The running parts of one server. `opened()` gives one that is ready."""

    def __init__(
        self,
        app: Starlette,
        *,
        channel: Channel,
        events: Events,
        runner: Runner,
        under_way: UnderWay,
        gate: Gate,
        sign_in: SignIn,
    ) -> None:
        self.app = app
        self.channel = channel
        self.events = events
        self.runner = runner
        self.under_way = under_way
        self.gate = gate
        self.sign_in = sign_in

    async def drain(self) -> None:
        """Say goodbye to every client; the first part of a stop. The gate is closed by then at the
        latest."""
        self.gate.close()
        # First, so that whoever waits for a launch has its answer before its socket is closed.
        await self.under_way.stop()
        await asyncio.gather(self.channel.drain(), self.events.drain())


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

    `agent` None is the pinned qwen, `clock` None the real one. Raises SettingsError when the
    settings name a role that is none or do not suit the users, ProtocolError when a project cannot
    be used, and StoreError when the store cannot.
    """
    clock = clock or SystemClock()
    hub = MemoryHub()
    agent = agent or agent_of(settings, clock=clock)
    found = await _found(settings, agent)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            SqliteStore(settings.directory, clock=clock, committed=hub.publish, boot_id=found.boot)
        )
        # Not before: while another server holds the store, half a copy is its work.
        await asyncio.to_thread(found.trees.clean)
        trail = Audit(settings.directory, clock=clock)
        stack.push_async_callback(trail.stop)
        ground = Ground(store, store, settings, clock, found.trees.check)
        accounts = await Accounts.opened(ground, token)
        require_token_of_nobody(settings, accounts.directory)
        require_settings_for_all(settings, accounts, agent)
        for path in projects:
            checked = await found.trees.check(path)
            await store.add_project(checked, checked.name or str(checked))
        rooms = _rooms(settings, found, store=store, agent=agent, clock=clock)
        stack.push_async_callback(agent.stop)
        await agent.start()
        runner = Runner(rooms)
        stack.push_async_callback(runner.stop)
        await runner.start()
        accounts.withdrawn = partial(stop_unseen, store, runner)
        await accounts.withdrawn()
        sign_in = await _sign_in(settings, accounts, trail=trail, clock=clock)
        keeping: dict[str, Work] = {
            "housekeeping": partial(keep_house, store, clock, frames_days=settings.frames_days),
            "visits": sign_in.visits.watch,
            "audit": trail.run,
        }
        await stack.enter_async_context(working(clock, keeping))
        lag = LoopLag()
        podium = _assemble(
            settings,
            sign_in,
            rooms=rooms,
            hub=hub,
            runner=runner,
            contracts=found.contracts,
            writes=lambda: store.waiting,
            lag=lag,
        )
        beating = {"heartbeats": podium.channel.beat, "loop lag": lag.watch}
        await stack.enter_async_context(working(clock, beating))
        stack.push_async_callback(podium.under_way.stop)
        yield podium


class Found(NamedTuple):
    """What a start finds before it opens the store."""

    trees: PinnedTrees
    catalogue: Catalogue
    models: Models
    contracts: Mapping[str, bytes]
    boot: str


async def _found(settings: Settings, agent: AgentRunner) -> Found:
    """Raises SettingsError when a role of the settings is none."""
    trees = await asyncio.to_thread(trees_of, settings)
    catalogue = await asyncio.to_thread(registry.load)
    if misnamed := unknown_roles(settings, roles_of(catalogue)):
        raise SettingsError(misnamed)
    for problem in catalogue.problems:
        log.warning("flow_not_offered", file=problem.file, problem=problem.message)
    # Its tables are read from disk at first use, which would be in the middle of a request.
    await asyncio.to_thread(mimetypes.init)
    return Found(
        trees,
        catalogue,
        models_of(settings, agent, memory=await asyncio.to_thread(available_memory)),
        await asyncio.to_thread(documents, settings),
        await asyncio.to_thread(boot_id),
    )


def _rooms(
    settings: Settings, found: Found, *, store: Store, agent: AgentRunner, clock: Clock
) -> Rooms:
    return Rooms(
        store=store,
        agent=agent,
        trees=found.trees,
        catalogue=found.catalogue,
        clock=clock,
        ids=RandomIds(),
        models=found.models,
        clocks=Clocks(settings.first_byte_seconds, settings.idle_seconds),
        gave_up=asyncio.Event(),
        ended=Counter(),
    )


async def _sign_in(settings: Settings, accounts: Accounts, *, trail: Audit, clock: Clock) -> SignIn:
    secret = await asyncio.to_thread(kept_secret, settings.directory / "session.key")
    visits = Visits(accounts.directory, clock=clock)
    accounts.changed.append(visits.changed)
    return SignIn(
        accounts,
        allow_list_of(settings),
        public_url=settings.public_url,
        user_header=settings.proxy_user_header,
        peers=Peers(settings.trusted_proxies),
        sessions=Sessions(secret, clock=clock),
        visits=visits,
        audit=trail,
        clock=clock,
    )


def _assemble(
    settings: Settings,
    sign_in: SignIn,
    *,
    rooms: Rooms,
    hub: MemoryHub,
    runner: Runner,
    contracts: Mapping[str, bytes],
    writes: Callable[[], int],
    lag: LoopLag,
) -> Podium:
    """Whatever answers clients, in the order in which one part needs another, and all routes."""
    gate = Gate()
    limits = settings.limits
    under_way = UnderWay(limits, clock=rooms.clock, gate=gate, live=runner.live)
    launcher = Launcher(rooms, begin=runner.begin, under_way=under_way)
    commands = Commands(
        store=rooms.store, launcher=launcher, runner=runner, catalogue=rooms.catalogue
    )
    tickets = Tickets(rooms.clock, sign_in.stands, most=limits.tickets_per_user)
    events = Events(
        store=rooms.store,
        hub=hub,
        clock=rooms.clock,
        sign_in=sign_in,
        gate=gate,
        limits=limits,
        stall_seconds=settings.stall_seconds,
    )
    traffic = Traffic()
    channel = Channel(
        store=rooms.store,
        hub=hub,
        commands=commands,
        sign_in=sign_in,
        clock=rooms.clock,
        build=__version__,
        tickets=tickets,
        gate=gate,
        limits=limits,
        traffic=traffic,
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
    rates = Rates(
        "requests",
        burst=limits.request_burst,
        per_second=limits.requests_per_second,
        clock=rooms.clock,
    )
    metrics = Metrics(
        channel=channel,
        events=events,
        traffic=traffic,
        runner=runner,
        under_way=under_way,
        rates=rates,
        ended=rooms.ended,
        writes=writes,
        lag=lag,
    )
    path = path_of(settings.public_url)
    routes = [
        *rest.routes(),
        *Entrance(sign_in=sign_in, tickets=tickets).routes(),
        *UserRoutes(sign_in=sign_in).routes(),
        *events.routes(),
        *LogRoutes(
            store=rooms.store, sign_in=sign_in, stall_seconds=settings.stall_seconds
        ).routes(),
        WebSocketRoute("/api/ws", channel.endpoint),
        Route("/api/ws", channel.no_upgrade),
        Route("/metrics", signed_in(sign_in, metrics.answer)),
        *Health(rooms, gate, build=__version__).routes(),
        *contract_routes(contracts),
        Mount("/", Page(path)),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(BelowPath, path=path)
    app.add_middleware(SafeHeaders)
    app.state.rates = rates
    return Podium(
        app,
        channel=channel,
        events=events,
        runner=runner,
        under_way=under_way,
        gate=gate,
        sign_in=sign_in,
    )
