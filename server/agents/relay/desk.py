"""The relay's front desk: who may come in, and by which of two routes.

It is a bare ASGI application, with nothing between it and the connection: the first byte of an
answer must not wait, and a path is compared whole, never taken apart.
"""

from collections.abc import Callable

import msgspec
from starlette.types import Receive, Scope, Send

from server.agents.containment.self_test import SelfTests
from server.agents.reasons import FailureReason, failure
from server.agents.relay.chat import Chat
from server.agents.relay.exchange import Exchange, Gone, answer_json, refused
from server.agents.relay.passes import Pass
from server.agents.relay.rules import Refusal

CHAT_ROUTE, SELF_TEST_ROUTE = b"/v1/chat/completions", b"/podium/self-test"
SELF_TEST_LIMIT = 4096


class Desk:
    """The application. `find` gives the open pass of a token."""

    def __init__(self, find: Callable[[str], Pass | None], chat: Chat) -> None:
        self._find = find
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(_token(scope))
        if found is None:
            return await _refuse(send, 401, "unknown_token", "this token opens nothing")
        with found.flight() as flight:
            if flight is None:
                return await _refuse(send, 429, "too_many_requests", "one request at a time")
            await self._guarded(Exchange(found, flight, scope=scope, receive=receive, send=send))

    async def _guarded(self, exchange: Exchange) -> None:
        """Serve until it is done, or aborted: the pass is closed, or the agent is gone."""
        try:
            async with exchange.flight:
                await self._route(exchange)
        except Gone:
            return
        except Exception as error:
            if not exchange.flight.aborted:
                _broke(exchange, error)
        if not exchange.flight.answered:
            await exchange.give_up()

    async def _route(self, exchange: Exchange) -> None:
        scope = exchange.scope
        # The bytes that came, not what they decode to: nothing can be spelled in two ways.
        match scope["method"], scope["raw_path"], scope["query_string"]:
            case "POST", path, b"" if path == CHAT_ROUTE:
                await self._chat.serve(exchange)
            case "POST", path, b"" if path == SELF_TEST_ROUTE:
                await _self_test(exchange)
            case method, path, _:
                exchange.found.surprise(f"{method} {path.decode('latin-1')}")
                await exchange.refuse(Refusal(404, "unknown_route", "the relay has no such route"))


def _broke(exchange: Exchange, error: Exception) -> None:
    """A fault of our own: the attempt ends at once. The error's text may hold a request."""
    exchange.found.log("relay_broken", error=type(error).__name__)
    message = "podium's relay failed: `relay_broken` in its log"
    exchange.found.fail(failure(FailureReason.RELAY_ERROR, message))


async def _self_test(exchange: Exchange) -> None:
    """Take the results once, before the first request: after it the model may have had a word."""
    found = exchange.found
    body = await exchange.body(SELF_TEST_LIMIT)
    if isinstance(body, Refusal):
        return await exchange.refuse(body)
    if found.self_tests is not None or found.requests:
        found.surprise("a second or late self-test")
        return await exchange.refuse(Refusal(409, "self_test_taken", "it is too late for that"))
    try:
        found.self_tests = msgspec.json.decode(body, type=SelfTests)
    except (msgspec.DecodeError, RecursionError):
        return await exchange.refuse(Refusal(400, "bad_self_test", "this is no self-test"))
    await exchange.reply(b"{}")


async def _refuse(send: Send, status: int, reason: str, why: str) -> None:
    await answer_json(send, status, refused(Refusal(status, reason, why)), last=True)


def _token(scope: Scope) -> str:
    """The bearer token; empty without exactly one."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return token.decode("latin-1") if scheme.lower() == b"bearer" else ""
