"""`podium serve`: one process, its signals, its socket, and a stop that loses nothing."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import uvicorn
from starlette.types import ASGIApp

from protocol.errors import ProtocolError
from server import logs
from server.app import Podium, opened
from server.channel.ws_check import misfit
from server.channel.ws_protocol import PaneProtocol
from server.http.sign_in import local_token
from server.local import ServerFile
from server.logs import logger
from server.ports import StoreError
from server.settings import Settings

log = logger(__name__)

GRACE_SECONDS = 3
"""For open requests at a stop; the agents have their own deadline after it."""
MAX_MESSAGE = 1024 * 1024
"""Far above our own limit, so that a message above that still gets its answer."""
USAGE, FAILED = 2, 1


async def serve(settings: Settings, *, projects: Sequence[str], with_parent: bool) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Expected failures (a taken port, a refused project, a locked store) are one line on stderr.
    """
    logs.configure(level=settings.log_level, as_json=settings.log_json)
    try:
        settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = local_token(settings)
        listener = listen(settings)
        paths = [Path(path) for path in projects]
        with listener:
            async with opened(settings, token=token, projects=paths) as podium:
                await _serve(settings, podium, listener, token=token, with_parent=with_parent)
        return 0
    except ProtocolError as error:
        hint = f"\n  → {error.hint}" if error.hint else ""
        click.echo(f"podium: {error.message}{hint}", err=True)
        return USAGE
    except (OSError, StoreError) as error:
        click.echo(f"podium: {error}", err=True)
        return FAILED


async def _serve(
    settings: Settings, podium: Podium, listener: socket.socket, *, token: str, with_parent: bool
) -> None:
    server = Server(await configured(podium.app), podium)
    own = _address(settings, listener)
    url = settings.public_url.rstrip("/") or own
    place = ServerFile(
        url=own,
        page=url,
        token=token,
        pid=os.getpid(),
        containment=settings.containment,
    )
    with server.stopping_with_parent(enabled=with_parent):
        place.write(settings.directory)
        # The link signs a browser in; only a person at a terminal gets it, no log does.
        click.echo(f"podium: {url}/#token={token}" if sys.stdout.isatty() else f"podium: {url}")
        log.info("serving", url=url, data=str(settings.directory))
        gc.freeze()
        try:
            await server.serve(sockets=[listener])
        finally:
            ServerFile.remove(settings.directory)


async def configured(app: ASGIApp, *, grace_seconds: int = GRACE_SECONDS) -> uvicorn.Config:
    """uvicorn as podium runs it. Where our WebSocket protocol does not fit the uvicorn that is
    installed, its own is used: all works, for more CPU time, and stalled sockets stay open."""
    fault = await misfit()
    if fault is not None:
        log.warning("websocket_fallback", reason=fault, uvicorn=uvicorn.__version__)
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        # Whose word is taken on who asks is in the settings, and nowhere else.
        proxy_headers=False,
        lifespan="off",
        ws=PaneProtocol if fault is None else "websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=grace_seconds,
        server_header=False,
    )


class Server(uvicorn.Server):
    """uvicorn, with a stop of our own: say goodbye on the sockets before they are closed."""

    def __init__(self, config: uvicorn.Config, podium: Podium) -> None:
        super().__init__(config)
        self._podium = podium

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Begin the stop at a signal, and return from `serve` like any function.

        uvicorn's own way raises the signal again as soon as the sockets are closed, which would
        end the process before the agents are killed and the store is closed.
        """
        loop = asyncio.get_running_loop()
        names = (signal.SIGTERM, signal.SIGINT)
        for name in names:
            loop.add_signal_handler(name, self.handle_exit, name, None)
        try:
            yield
        finally:
            for name in names:
                loop.remove_signal_handler(name)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._podium.channel.drain()
        await super().shutdown(sockets)

    @contextmanager
    def stopping_with_parent(self, *, enabled: bool) -> Iterator[None]:
        """Stop when stdin ends: the process that started this server is gone."""
        if not enabled:
            yield
            return
        loop = asyncio.get_running_loop()

        def readable() -> None:
            if not os.read(0, 1024):
                loop.remove_reader(0)
                self.handle_exit(signal.SIGTERM, None)

        os.set_blocking(0, False)
        loop.add_reader(0, readable)
        try:
            yield
        finally:
            loop.remove_reader(0)


def listen(settings: Settings) -> socket.socket:
    """A bound socket; listening begins when everything is ready."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that say that they are TCP; without it a small write
    # behind another one waits up to 40 ms for the peer's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another --port, or 0 for a free one"
        ) from error
    return listener


def _address(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"
