"""The one way to a model endpoint: the key is put in here; of the agent only a body goes out."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import aclosing

import httpx

from server.agents.reasons import FailureReason
from server.agents.relay.body import is_plain, pieces_of
from server.agents.relay.endpoint_failures import (
    Answered,
    by_answer,
    no_chat,
    retry_after,
    unreachable,
)
from server.agents.relay.meter import Flaw, said_in
from server.ports import AgentFailure, Clock, ModelEndpoint

CONNECT_SECONDS = 10.0
WRITE_SECONDS = 30.0
"""Between two pieces of a request that the endpoint takes."""
TIMEOUT = httpx.Timeout(None, connect=CONNECT_SECONDS, write=WRITE_SECONDS)
ERROR_SECONDS, ERROR_BYTES = 5.0, 16 * 1024
"""For the body of an error: what comes later or beyond is not read."""
KEEP_ALIVE_SECONDS = 4.0
"""Below the five seconds after which most servers hang up."""
WHOLE_ANSWERS = ("application/json", "text/html")


class Trouble(Exception):
    """The endpoint gave no answer that can be passed on. `again`: the same request may be sent once
    more, because it was not taken."""

    def __init__(self, failure: AgentFailure, *, again: bool = False) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.again = again


def new_client(trust: ssl.SSLContext) -> httpx.AsyncClient:
    """A client that goes to the address it is given and nowhere else: no proxy or password file of
    the environment, no redirect. How long an answer may take is judged by the attempt's owner."""
    return httpx.AsyncClient(
        verify=trust,
        trust_env=False,
        follow_redirects=False,
        event_hooks={"response": [_put_location_aside]},
        timeout=TIMEOUT,
        # Passes bound how much is asked at once; a pool of its own would be a hidden queue.
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=16, keepalive_expiry=KEEP_ALIVE_SECONDS
        ),
    )


async def _put_location_aside(response: httpx.Response) -> None:
    """The client takes apart where a redirect points, also when it does not follow, and takes an
    address that is none for broken HTTP. It is only to be shown."""
    response.extensions["location"] = response.headers.pop("location", "")


async def ask(
    client: httpx.AsyncClient, endpoint: ModelEndpoint, body: bytes, *, clock: Clock
) -> httpx.Response:
    """Send a chat request; returns the open response, whose body is a stream of events to be read
    with `aiter_raw` and closed. Raises Trouble."""
    if not (endpoint.api_key.isascii() and endpoint.api_key.isprintable()):
        # httpx would say so too, with the key in its words.
        raise Trouble(by_answer(Answered(status=401, said=""), endpoint))
    url = f"{endpoint.base_url.rstrip('/')}/chat/completions"
    try:
        # Not the client's own builder: it merges in cookies, which no endpoint gets to set here.
        request = httpx.Request(
            "POST",
            url,
            headers=_headers(endpoint),
            content=body,
            extensions={"timeout": TIMEOUT.as_dict()},
        )
        response = await client.send(request, stream=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _without_answer(error, endpoint) from None
    try:
        await _check(response, endpoint, clock)
    except BaseException:
        await response.aclose()
        raise
    return response


def broken(error: httpx.HTTPError, *, events: int) -> Flaw:
    """What a connection that fails in the middle of an answer means."""
    if isinstance(error, httpx.RemoteProtocolError) and "peer closed" not in str(error):
        return Flaw(FailureReason.STREAM_MALFORMED, "it does not keep to HTTP")
    return Flaw(FailureReason.STREAM_CUT, f"the connection broke after {events} events")


def _headers(endpoint: ModelEndpoint) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        # Bytes are passed on as they come; nothing here ever inflates anything.
        "Accept-Encoding": "identity",
        "User-Agent": "podium",
    }
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    return headers


async def _check(response: httpx.Response, endpoint: ModelEndpoint, clock: Clock) -> None:
    if response.status_code != 200:
        raise await _refused(response, endpoint, clock)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not is_plain(response):
        seen = "it is compressed, which was not asked for"
    elif kind in WHOLE_ANSWERS:
        seen = f"it sends {kind}, not a stream of events"
    else:
        return
    raise Trouble(no_chat(seen, endpoint))


async def _refused(response: httpx.Response, endpoint: ModelEndpoint, clock: Clock) -> Trouble:
    answer = Answered(
        status=response.status_code,
        said=await _said(response),
        location=response.extensions["location"],
        retry_after=retry_after(response.headers.get("retry-after"), now=clock.now()),
    )
    failure = by_answer(answer, endpoint)
    return Trouble(failure, again=failure.retryable)


async def _said(response: httpx.Response) -> str:
    """The head of an error's body."""
    data = bytearray()
    try:
        async with asyncio.timeout(ERROR_SECONDS):
            async with aclosing(pieces_of(response)) as pieces:
                async for piece in pieces:
                    data += piece[: ERROR_BYTES - len(data)]
                    if len(data) >= ERROR_BYTES:
                        break
    except (httpx.HTTPError, TimeoutError):
        pass
    return said_in(bytes(data))


def _without_answer(error: Exception, endpoint: ModelEndpoint) -> Trouble:
    """Why there was no answer, in words that hold nothing of the request."""
    causes = list(_causes(error))
    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
        return Trouble(no_chat("it does not speak HTTP", endpoint))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            why = getattr(cause, "verify_message", "") or cause.reason or "TLS failed"
            reason = FailureReason.ENDPOINT_UNTRUSTED
            return Trouble(unreachable(reason, f"cannot be trusted: {why}", endpoint))
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            return _leads_nowhere("has a name that cannot be resolved", endpoint)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return _silent("accepts no connection", endpoint)
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.TimeoutException):
        return _silent("closed the connection without an answer", endpoint)
    return _leads_nowhere("is no usable address", endpoint)


def _silent(why: str, endpoint: ModelEndpoint) -> Trouble:
    return Trouble(unreachable(FailureReason.ENDPOINT_UNREACHABLE, why, endpoint), again=True)


def _leads_nowhere(why: str, endpoint: ModelEndpoint) -> Trouble:
    return Trouble(unreachable(FailureReason.BAD_ADDRESS, why, endpoint))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that caused it."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [it for it in (cause.__cause__, cause.__context__) if it is not None]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
