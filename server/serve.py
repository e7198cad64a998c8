"""`podium serve`: one process, its signals, its socket, and a stop that loses nothing."""

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from protocol.errors import ProtocolError
from server import logs
from server.addresses import authority
from server.admission import local_token
from server.app import Podium, opened
from server.channel.ws_check import misfit
from server.channel.ws_protocol import PaneConfig, PaneProtocol
from server.commands.shared import FAILED, USAGE
from server.http.bounded import HEAD_BYTES, bounded
from server.limits import LimitSettings
from server.local import ServerFile, running_server
from server.logs import logger
from server.ports import StoreError
from server.settings import Settings, default_file
from server.stopping import Signals

log = logger(__name__)

GRACE_SECONDS = 3
"""For open requests at a stop; the agents have their own deadline after it."""
PING_SECONDS, PONG_SECONDS = 15.0, 8.0
"""Every socket is asked whether its peer is there, and closed when it does not say so in time: what
vanished without a word is found within 25 s."""
GOODBYE_SECONDS, LOOK_SECONDS = 1.0, 0.02
"""For the peers' answers to our close."""
MIN_UNHEARD_SECONDS = 10.0
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_EVERY_SECONDS = 15, 5
MAX_MESSAGE = 1024 * 1024
"""Far above our own limit, so that a message above that still gets its answer."""
COLLECT_AFTER = (10_000, 20, 10)
"""New objects, and collections of the younger ones; Python's own is (700, 10, 10). Nearly all that
the server throws away needs no collection, and what does is at most 2 million objects."""


async def serve(settings: Settings, *, projects: Sequence[str], with_parent: bool) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Expected failures (a taken port, a refused project, a locked store) are one line on stderr.
    """
    logs.configure(level=settings.log_level, as_json=settings.log_json)
    signals = Signals()
    try:
        await asyncio.to_thread(settings.directory.mkdir, 0o700, parents=True, exist_ok=True)
        token = await asyncio.to_thread(local_token, settings)
        listener = listen(settings)
        paths = _from_here(projects)
        with listener:
            async with opened(settings, token=token, projects=paths) as podium:
                # An earlier server was killed: what it says of itself is true of none any more.
                ServerFile.remove(settings.directory)
                server = Server(await configured(podium.app, settings.limits), podium)
                signals.listen(server.stop)
                with stopping_with_parent(signals, enabled=with_parent):
                    await _serve(settings, server, listener, token=token, of_command=with_parent)
        return 0
    except ProtocolError as error:
        hint = f"\n  → {error.hint}" if error.hint else ""
        click.echo(f"podium: {error.message}{hint}", err=True)
        return USAGE
    except (OSError, StoreError) as error:
        click.echo(f"podium: {error}", err=True)
        # A second start is the likeliest cause, and the first one may be all that was wanted.
        serving = await running_server(settings.directory)
        if serving is not None:
            click.echo(f"  → one serves it already: {serving.page or serving.url}", err=True)
        return FAILED
    finally:
        signals.release()


def _from_here(paths: Sequence[str]) -> list[Path]:
    """Of this command they may be relative; of a server they would mean nothing."""
    return [Path(path).absolute() for path in paths]


async def _serve(
    settings: Settings,
    server: "Server",
    listener: socket.socket,
    *,
    token: str,
    of_command: bool,
) -> None:
    own = _address(settings, listener)
    url = settings.public_url.rstrip("/") or own
    place = ServerFile(
        url=own,
        page=url,
        token=token,
        pid=os.getpid(),
        containment=settings.containment,
        of_command=of_command,
    )
    place.write(settings.directory)
    _announce(settings, url, token=token)
    log.info("serving", url=url, data=str(settings.directory))
    collect_rarely()
    try:
        await server.serve(sockets=[listener])
    finally:
        ServerFile.remove(settings.directory)


def _announce(settings: Settings, url: str, *, token: str) -> None:
    """Say where the page is, how to sign in there, and what keeps every run from starting."""
    if sys.stdout.isatty():
        # The link signs a browser in; only a person at a terminal gets it, no log does.
        click.echo(f"podium: {url}/#token={token}")
    else:
        kept = settings.source("token") if settings.token else settings.directory / "token"
        click.echo(f"podium: {url}\npodium: to sign in there, take the token from {kept}")
    if not settings.endpoints:
        says = f"podium: no model endpoint in {default_file()}, so no run can start"
        way_out = "stop this, `podium setup`, and start it again; or set OPENAI_BASE_URL"
        click.echo(f"{says}\n  → {way_out}", err=True)


def collect_rarely() -> None:
    """Leave what the start has made out of every collection, and collect less often: each look at
    everything stands in the way of all sockets, 0.6 s of 5,000."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def configured(
    app: ASGIApp, limits: LimitSettings | None = None, *, grace_seconds: int = GRACE_SECONDS
) -> uvicorn.Config:
    """uvicorn as podium runs it. Where our WebSocket protocol does not fit the uvicorn that is
    installed, its own is used: all works, for more CPU time, and a stalled socket stays until the
    kernel gives it up."""
    limits = limits or LimitSettings()
    fault = await misfit()
    if fault is not None:
        log.warning("websocket_fallback", reason=fault, uvicorn=uvicorn.__version__)
    config = PaneConfig(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http=bounded(),  # type: ignore[arg-type] # it is called, and nothing else
        h11_max_incomplete_event_size=2 * HEAD_BYTES,
        ws=PaneProtocol if fault is None else "websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
        # Else whoever asks from loopback could choose the address and the scheme that we see.
        proxy_headers=False,
        server_header=False,
    )
    config.max_fragments = limits.fragments
    return config


class Server(uvicorn.Server):
    """uvicorn, with a stop of our own: its clients are told before their sockets are closed."""

    def __init__(self, config: uvicorn.Config, podium: Podium) -> None:
        super().__init__(config)
        self._podium = podium

    def stop(self) -> None:
        """Take no client and no work from this moment on, and begin to end."""
        self._podium.gate.close()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Return from `serve` like any function: stopping.py listens to the signals.

        uvicorn's own way raises the signal again as soon as the sockets are closed, which would
        end the process before the agents are killed and the store is closed.
        """
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._podium.drain()
        await self._goodbyes()
        # uvicorn cancels what is left at the end of its time, with an error for each in the log.
        cut = asyncio.get_running_loop().call_later(GRACE_SECONDS - 1, self._cut)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()

    async def _goodbyes(self) -> None:
        """Wait until the peers have answered the close: to end a connection on which they still
        write is to reset it, and they may never read why."""
        deadline = asyncio.get_running_loop().time() + GOODBYE_SECONDS
        while any(_closing(it) for it in self.server_state.connections):
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _closing(connection: object) -> bool:
    return isinstance(connection, WebSocketsSansIOProtocol) and connection.close_timer is not None


@contextmanager
def stopping_with_parent(signals: Signals, *, enabled: bool) -> Iterator[None]:
    """Stop when stdin ends: the process that started this server is gone."""
    if not enabled:
        yield
        return
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            signals.ask("the parent has ended")

    os.set_blocking(0, False)
    loop.add_reader(0, readable)
    try:
        yield
    finally:
        loop.remove_reader(0)


def listen(settings: Settings) -> socket.socket:
    """A bound socket; listening begins when everything is ready. What it accepts inherits its
    options."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that say that they are TCP; without it a small write
    # behind another one waits up to 40 ms for the peer's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _find_the_dead(listener, settings.stall_seconds)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another --port, or 0 for a free one"
        ) from error
    return listener


def _find_the_dead(listener: socket.socket, stall_seconds: float) -> None:
    """Let the kernel give up a peer that acknowledges nothing, or lets nothing in, for so long as a
    client may stall. Event streams and plain requests have no ping of their own."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        unheard = max(MIN_UNHEARD_SECONDS, stall_seconds)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unheard * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_SECONDS)


def _address(settings: Settings, listener: socket.socket) -> str:
    return f"http://{authority(settings.host, listener.getsockname()[1])}"
