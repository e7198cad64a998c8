"""One request of an agent and its answer, over ASGI: bounded, timed, and ended exactly once."""

import asyncio
from http import HTTPStatus

import msgspec
from starlette.types import Receive, Scope, Send

from server.agents.reasons import FailureReason
from server.agents.relay.passes import Flight, Pass
from server.agents.relay.rules import Refusal

BODY_SECONDS = 30.0
LAST_SECONDS = 1.0
"""For a last word to an agent that may not be reading any more."""


class Gone(Exception):
    """The agent hung up."""


class Exchange:
    """Reads the request and writes the answer. Writing waits for a slow agent, so what comes from
    the endpoint is read no faster than the agent takes it."""

    def __init__(
        self, found: Pass, flight: Flight, *, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.found = found
        self.flight = flight
        self.scope = scope
        self._receive = receive
        self._send = send
        self._started = False

    async def body(self, limit: int) -> bytes | Refusal:
        """The whole request body. Raises Gone."""
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part, more = message.get("body", b""), message.get("more_body", False)
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        return _too_large(limit)
        except TimeoutError:
            if self.flight.aborted:
                raise
            why = f"the agent did not send its request within {BODY_SECONDS:.0f} s"
            return Refusal(408, FailureReason.UNEXPECTED_REQUEST, why)
        return b"".join(parts)

    async def watch(self) -> None:
        """After the body: end everything when the agent hangs up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.flight.answered:
            self.flight.abort()

    async def refuse(self, refusal: Refusal) -> None:
        await answer_json(self._send, refusal.status, refused(refusal), last=True)
        self._started = self.flight.answered = True

    async def reply(self, body: bytes) -> None:
        await answer_json(self._send, 200, body)
        self._started = self.flight.answered = True

    async def pass_on(self, data: bytes) -> None:
        """The next bytes of a stream of events, exactly as they came."""
        if not self._started:
            self._started = True
            # Our own header, never the endpoint's: nothing it says can become one.
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.flight.answered = True

    async def give_up(self) -> None:
        """End a request without its answer: 503 where nothing was sent yet, else a connection that
        is visibly cut (the server closes it when the application returns)."""
        if self._started:
            return
        refusal = Refusal(503, "attempt_over", "podium ends this attempt")
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self.refuse(refusal)
        except TimeoutError:
            return


def refused(refusal: Refusal) -> bytes:
    """A refusal in the shape that the agent's client reads."""
    error = {"message": refusal.why, "type": refusal.reason, "code": refusal.reason}
    return msgspec.json.encode({"error": error})


async def answer_json(send: Send, status: int, body: bytes, *, last: bool = False) -> None:
    """`last`: the connection ends with it, and whatever was sent behind the request."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(b"connection", b"close")] if last else []
    await send({"type": "http.response.start", "status": HTTPStatus(status), "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _too_large(limit: int) -> Refusal:
    why = f"the request has more than {limit} bytes"
    return Refusal(413, FailureReason.REQUEST_TOO_LARGE, why)
