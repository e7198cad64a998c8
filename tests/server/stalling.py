"""When a peer that reads nothing has really stalled: until its kernel and ours are full, a socket
that cannot be written to for a moment can be written to again."""

import asyncio

from server.channel.outbox import FramedOutbox
from server.channel.websocket import Session
from server.channel.ws_protocol import PaneProtocol
from tests.server.harness import House

LOOKS, LOOK_SECONDS = 15, 0.02


def wire_of(session: Session) -> PaneProtocol:
    assert isinstance(session._outbox, FramedOutbox)
    return session._outbox._wire


async def stuck(home: House) -> Session:
    """The session that has not got rid of a byte for a while, as soon as there is one."""
    looks, before = 0, -1
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for session in list(home.podium.channel._sessions):
            wire = wire_of(session)
            if wire.buffered and not wire.writable.is_set():
                looks = looks + 1 if wire.buffered == before else 0
                before = wire.buffered
                if looks >= LOOKS:
                    return session
