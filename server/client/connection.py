"""One connection: how it is made, how it begins, and what its end says."""

import ssl
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from protocol.codec import decode_frame, encode
from protocol.commands import Hello
from protocol.errors import CLOSE_RULES, CloseCode, ErrorCode, ProtocolError
from protocol.frames import FlowRunAck, FlowRunError, FlowRunHello
from server.client.outgoing import refusal
from server.client.states import Condition, State

SUBPROTOCOL = "podium.v1"
STAY_AWAY = {1007, 1009} | {int(code) for code, rule in CLOSE_RULES.items() if not rule.reconnect}
MAX_FRAME = 16 * 1024 * 1024
CLOSE_SECONDS = 1.0
GREETING = "hello"

_OF_STATUS = {401: CloseCode.UNAUTHENTICATED, 403: CloseCode.FORBIDDEN}
_OF_ERROR = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN: CloseCode.FORBIDDEN,
}


class Dropped(Exception):
    """We give up a connection of which nothing good can come."""


ENDS = (InvalidStatus, ProtocolError, ConnectionClosed, OSError, InvalidHandshake, Dropped)
"""How a connection ends; a TimeoutError is an OSError."""


async def dial(
    url: str, *, token: str | None, origin: bool, trust: ssl.SSLContext | None
) -> ClientConnection:
    """A socket that speaks our protocol. `origin`: say one, as a ticket is taken from an allowed
    Origin only. `trust` is for https:// alone. Raises one of ENDS."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if origin:
        headers["Origin"] = f"{parts.scheme}://{parts.netloc}"
    socket = await connect(
        urlunsplit((scheme, parts.netloc, parts.path + "/api/ws", "", "")),
        additional_headers=headers,
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
        compression=None,
        max_size=MAX_FRAME,
        ssl=trust if scheme == "wss" else None,
        open_timeout=None,
        ping_interval=None,
        close_timeout=CLOSE_SECONDS,
        proxy=None,
    )
    if socket.subprotocol != SUBPROTOCOL:
        socket.transport.abort()
        raise Dropped(f"what answers does not speak {SUBPROTOCOL}")
    return socket


async def greet(socket: ClientConnection, ticket: str | None) -> FlowRunHello:
    """Say hello, with the ticket if there is one, and wait for the server's, and for what it says
    of the ticket: nothing is asked before. Raises one of ENDS, ProtocolError when the ticket, or
    nobody at all, is refused."""
    with suppress(ConnectionClosed):  # what the server said before its end is still heard
        await socket.send(encode(Hello(id=GREETING, ticket=ticket, client="podium")).decode())
    hello: FlowRunHello | None = None
    admitted = ticket is None  # a hello alone may be that of another credential
    while hello is None or not admitted:
        data = await socket.recv()
        frame = decode_frame(data) if isinstance(data, str) else None
        if isinstance(frame, FlowRunError) and frame.id == GREETING:
            raise refusal(frame)
        if isinstance(frame, FlowRunAck) and frame.id == GREETING:
            admitted = True
        if isinstance(frame, FlowRunHello):
            hello = frame
    return hello


def told(error: Exception) -> Condition:
    """What the other side, or the provider of tickets, says with the end of a connection."""
    code, reason = int(CloseCode.ABNORMAL), str(error) or "no answer"
    match error:
        case InvalidStatus():
            code = _OF_STATUS.get(error.response.status_code, code)
        case ConnectionClosed(rcvd=rcvd) if rcvd is not None:
            code, reason = rcvd.code, rcvd.reason
        case ProtocolError():
            code = _OF_ERROR.get(error.code, code)
    return Condition(State.RECONNECTING, int(code), reason)
