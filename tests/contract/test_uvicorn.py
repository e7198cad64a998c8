"""What ws_protocol.py leans on in uvicorn and websockets, none of it documented.

A new minor version of uvicorn begins here: each name is looked for, and the check of the start
(ws_check.py) must see each of them being otherwise.
"""

import asyncio
import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.protocol import Protocol
from websockets.server import ServerProtocol

from server.channel import ws_protocol
from server.channel.ws_check import misfit
from server.channel.ws_protocol import CountingServer, PaneProtocol

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


async def application(scope: Scope, receive: Receive, send: Send) -> None: ...


@pytest.fixture
async def theirs() -> WebSocketsSansIOProtocol:
    config = uvicorn.Config(application, log_config=None, lifespan="off")
    config.load()
    return WebSocketsSansIOProtocol(config, ServerState(), {})


def test_the_minor_version_is_the_pinned_one() -> None:
    pinned = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    assert [it for it in pinned if it.startswith("uvicorn")] == ["uvicorn~=0.54.0"]
    assert uvicorn.__version__.split(".")[:2] == ["0", "54"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("conn", ServerProtocol),
        ("queue", asyncio.Queue),
        ("writable", asyncio.Event),
        ("frames", list),
        ("curr_msg_data_type", str),
        ("read_paused", bool),
        ("close_sent", bool),
        ("disconnected", bool),
        ("close_timer", type(None)),
        ("close_timeout", float),
        ("loop", asyncio.AbstractEventLoop),
        ("tasks", set),
    ],
)
async def test_a_connection_has_the_attribute(
    theirs: WebSocketsSansIOProtocol, name: str, kind: type
) -> None:
    assert isinstance(getattr(theirs, name), kind)


def test_every_method_that_is_replaced_is_there_and_called_alike() -> None:
    own = {
        name
        for name, value in vars(PaneProtocol).items()
        if inspect.isfunction(value) and name in vars(WebSocketsSansIOProtocol)
    }
    assert own == {
        "__init__", "data_received", "handle_connect", "handle_ping", "send_receive_event_to_app",
        "handle_parser_exception", "keepalive_timeout", "shutdown", "send", "on_task_complete",
        "send_keepalive_ping",
    }  # fmt: skip
    for name in own - {"__init__"}:
        taken = list(inspect.signature(getattr(PaneProtocol, name)).parameters)
        assert taken == list(inspect.signature(getattr(WebSocketsSansIOProtocol, name)).parameters)
    assert list(inspect.signature(CountingServer.recv_frame).parameters) == ["self", "frame"]
    assert CountingServer.recv_frame is not Protocol.recv_frame


async def test_what_is_installed_fits() -> None:
    assert await misfit() is None


def broken(*_: Any) -> Any:
    raise AttributeError("it has another name now")


def nothing(*_: Any) -> Any: ...


def never(*_: Any) -> bool:
    return False


@pytest.mark.parametrize(
    ("owner", "name", "otherwise", "said"),
    [
        (WebSocketsSansIOProtocol, "handle_connect", nothing, "TimeoutError: "),
        (PaneProtocol, "handle_connect", WebSocketsSansIOProtocol.handle_connect, "no extension"),
        (WebSocketsSansIOProtocol, "pause_writing", nothing, "a full socket takes frames"),
        (WebSocketsSansIOProtocol, "resume_writing", nothing, "TimeoutError: "),
        (PaneProtocol, "handle_ping", WebSocketsSansIOProtocol.handle_ping, "answered otherwise"),
        (PaneProtocol, "abort", nothing, "does not reach the transport"),
        (WebSocketsSansIOProtocol, "data_received", broken, "AttributeError: it has another name"),
        (CountingServer, "recv_frame", Protocol.recv_frame, "no refusal with 4413"),
        (PaneProtocol, "_free_in", nothing, "a refusal does not linger"),
        (CountingServer, "max_fragments", 63, "in many fragments is refused"),
        (ws_protocol, "too_many", never, "no refusal with 4413"),
    ],
)
async def test_the_check_sees_what_is_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    otherwise: Callable[..., Any] | int,
    said: str,
) -> None:
    monkeypatch.setattr("server.channel.ws_check.CHECK_SECONDS", 0.5)
    monkeypatch.setattr(owner, name, otherwise)
    assert said in (await misfit() or "nothing")
