"""The rules of one connection: sign-in, order, rate, garbage, answers, room."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.commands import Detail, Hello, Ping
from protocol.connection import (
    ABUSE_SECONDS,
    HELLO_SECONDS,
    MAX_GARBAGE,
    Close,
    Connection,
    Effect,
    Following,
    Handle,
    Send,
    error_frame,
)
from protocol.errors import BadMessage, CloseCode, ErrorCode, ProtocolError
from protocol.frames import FlowRunError, Limits
from protocol.ids import RunId, Seq
from tests.protocol.samples import LIMITS, RUN_ID

PING = '{"type":"ping","id":"a"}'
FREE = Limits(
    message_bytes=1000, subscriptions=2, sockets=1, burst=10**6, per_second=1, heartbeat_seconds=15
)


def connected(limits: Limits = FREE, *, authenticated: bool = True) -> Connection:
    return Connection(limits, now=0.0, authenticated=authenticated)


def text(type: str, **fields: Any) -> str:
    return json.dumps({"type": type, "id": "a"} | fields)


def error_of(effects: list[Effect]) -> FlowRunError:
    """The error frame that is the first effect."""
    assert isinstance(effects[0], Send)
    assert isinstance(effects[0].frame, FlowRunError)
    return effects[0].frame


# --- sign-in --------------------------------------------------------------------------------------


def test_hello_is_optional_for_who_is_signed_in() -> None:
    assert connected().receive(PING, 0) == [Handle(Ping(id="a"))]


def test_hello_comes_first_or_not_at_all() -> None:
    connection = connected()
    assert connection.receive(text("hello"), 0) == [Handle(Hello(id="a"))]
    again = error_of(connection.receive(text("hello"), 0))
    assert (again.code, again.id, again.field) == (ErrorCode.BAD_MESSAGE, "a", "type")
    late = connected()
    late.receive(PING, 0)
    assert error_of(late.receive(text("hello"), 0)).code is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("message", [PING, text("hello"), text("hello", ticket="")])
def test_who_is_not_signed_in_may_only_say_hello_with_a_ticket(message: str) -> None:
    error = error_of(connected(authenticated=False).receive(message, 0))
    assert (error.code, error.id) == (ErrorCode.UNAUTHENTICATED, "a")


def test_a_ticket_opens_the_connection_once() -> None:
    connection = connected(authenticated=False)
    hello = text("hello", ticket="t")
    assert connection.receive(hello, 0) == [Handle(Hello(id="a", ticket="t"))]
    assert error_of(connection.receive(PING, 0)).code is ErrorCode.UNAUTHENTICATED
    assert connection.receive(hello, 0) == [Handle(Hello(id="a", ticket="t"))]
    connection.sign_in()
    assert connection.receive(PING, 0) == [Handle(Ping(id="a"))]
    assert error_of(connection.receive(hello, 0)).code is ErrorCode.BAD_MESSAGE


def test_the_time_for_hello_runs_out() -> None:
    connection = connected(authenticated=False)
    assert not connection.expired(HELLO_SECONDS - 0.1)
    assert connection.expired(HELLO_SECONDS)
    connection.sign_in()
    assert not connection.expired(10**6)
    assert not connected().expired(10**6)


# --- what is not understood -----------------------------------------------------------------------


def test_garbage_is_answered_and_at_last_closes_the_connection() -> None:
    connection = connected()
    for _ in range(MAX_GARBAGE - 1):
        effects = connection.receive("nonsense", 0)
        assert len(effects) == 1
        assert (error_of(effects).code, error_of(effects).id) == (ErrorCode.BAD_MESSAGE, "")
    assert connection.receive("nonsense", 0)[1:] == [Close(CloseCode.BAD_MESSAGE)]


@pytest.mark.parametrize("good", [PING, text("of_a_newer_client")])
def test_a_message_with_an_id_ends_a_row_of_garbage(good: str) -> None:
    connection = connected()
    for _ in range(3):
        for _ in range(MAX_GARBAGE - 1):
            assert len(connection.receive("nonsense", 0)) == 1
        connection.receive(good, 0)


def test_a_client_of_later_is_never_closed_for_what_it_asks() -> None:
    connection = connected()
    for _ in range(5 * MAX_GARBAGE):
        assert len(connection.receive(text("of_a_newer_client"), 0)) == 1


def test_binary_messages_are_not_taken() -> None:
    error = error_of(connected().receive(PING.encode(), 0))
    assert (error.code, error.id) == (ErrorCode.BAD_MESSAGE, "")


def test_a_message_that_is_too_large_is_answered_by_its_id() -> None:
    effects = connected().receive(text("ping", pad="x" * 1000), 0)
    assert len(effects) == 1
    assert (error_of(effects).code, error_of(effects).id) == (ErrorCode.TOO_LARGE, "a")


def test_only_huge_messages_close_the_connection() -> None:
    connection = connected()
    effects = [connection.receive("x" * 1001, 0) for _ in range(MAX_GARBAGE)]
    assert [len(each) for each in effects] == [1] * (MAX_GARBAGE - 1) + [2]
    assert effects[-1][1] == Close(CloseCode.TOO_LARGE)


# --- the rate -------------------------------------------------------------------------------------


def test_a_burst_is_taken_and_what_is_above_is_refused_with_the_time_to_wait() -> None:
    connection = connected(LIMITS)
    for _ in range(LIMITS.burst):
        assert isinstance(connection.receive(PING, 0)[0], Handle)
    error = error_of(connection.receive(PING, 0))
    assert (error.code, error.id) == (ErrorCode.RATE_LIMITED, "a")
    assert error.retry_after_ms == 50
    assert isinstance(connection.receive(PING, error.retry_after_ms / 1000)[0], Handle)


def test_the_rate_refills_up_to_the_burst() -> None:
    connection = connected(LIMITS)
    for _ in range(LIMITS.burst):
        connection.receive(PING, 0)
    handled = [connection.receive(PING, 1000)[0] for _ in range(LIMITS.burst + 1)]
    assert [isinstance(effect, Handle) for effect in handled] == [True] * LIMITS.burst + [False]


def test_only_ten_seconds_of_abuse_close_the_connection() -> None:
    connection, now = connected(LIMITS), 0.0
    started = closed = None
    while closed is None:
        effects = connection.receive(PING, now)
        if started is None and isinstance(effects[0], Send):
            started = now
        closed = now if Close(CloseCode.RATE_LIMITED) in effects else None
        now += 0.01
    assert started is not None
    assert closed - started == pytest.approx(ABUSE_SECONDS, abs=0.1)


def test_a_client_that_pauses_is_not_closed() -> None:
    connection, now = connected(LIMITS), 0.0
    for _ in range(20):
        for _ in range(LIMITS.burst + 10):
            assert not any(isinstance(effect, Close) for effect in connection.receive(PING, now))
        now += 2.0


def test_a_client_at_the_rate_is_never_refused() -> None:
    connection = connected(LIMITS)
    for number in range(10_000):
        assert isinstance(connection.receive(PING, number / LIMITS.per_second)[0], Handle)


# --- answers --------------------------------------------------------------------------------------


def test_an_id_in_use_is_refused_until_it_is_answered() -> None:
    connection = connected()
    connection.begin(Ping(id="a"))
    with pytest.raises(BadMessage) as caught:
        connection.begin(Ping(id="a"))
    assert (caught.value.id, caught.value.field) == ("a", "id")
    connection.begin(Ping(id="b"))
    connection.done(Ping(id="a"))
    connection.begin(Ping(id="a"))


def test_only_so_many_messages_wait_for_answers() -> None:
    connection = connected()
    for number in range(FREE.waiting):
        connection.begin(Ping(id=str(number)))
    with pytest.raises(ProtocolError) as caught:
        connection.begin(Ping(id="more"))
    assert caught.value.code is ErrorCode.BUSY
    assert caught.value.retry_after_ms
    connection.done(Ping(id="0"))
    connection.begin(Ping(id="more"))


def test_an_error_frame_says_all_that_the_error_knows() -> None:
    error = ProtocolError(ErrorCode.BUSY, "m", field="f", hint="h", retry_after_ms=5)
    assert error_frame("a", error) == FlowRunError(
        id="a", code=ErrorCode.BUSY, message="m", field="f", hint="h", retry_after_ms=5
    )


MESSAGES = st.one_of(
    st.sampled_from([PING, text("hello"), text("hello", ticket="t"), text("nope"), "x" * 1001]),
    st.text(),
    st.binary(),
)


@given(st.lists(st.tuples(MESSAGES, st.floats(0, 2))), st.booleans())
def test_every_message_has_exactly_one_outcome(
    messages: list[tuple[str | bytes, float]], authenticated: bool
) -> None:
    connection, now = connected(LIMITS, authenticated=authenticated), 0.0
    for message, pause in messages:
        now += pause
        first, *rest = connection.receive(message, now)
        assert isinstance(first, Handle) or isinstance(error_of([first]), FlowRunError)
        assert all(isinstance(effect, Close) for effect in rest)
        if isinstance(first, Handle) and not authenticated:
            assert isinstance(first.command, Hello)


# --- room -----------------------------------------------------------------------------------------


def test_a_connection_follows_only_so_many_runs() -> None:
    connection = connected()
    following = Following(sent=Seq(0), head=Seq(0), shown_head=Seq(0), detail=Detail.FULL)
    for run_id in (RUN_ID, RunId("other")):
        connection.check_room(run_id)
        connection.following[run_id] = following
    connection.check_room(RUN_ID)
    with pytest.raises(ProtocolError) as caught:
        connection.check_room(RunId("third"))
    assert (caught.value.code, caught.value.field) == (ErrorCode.BUSY, "run_id")
