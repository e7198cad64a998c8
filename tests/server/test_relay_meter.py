"""The meter reads a stream as the agent's client does, however it is cut into pieces."""

import json
import time
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.agents.reasons import FailureReason
from server.agents.relay.meter import EVENT_LIMIT, Flaw, Meter, Tokens, said_in
from tests.fakes.model import DONE, said

LIMIT = 10_000
WORDS = said({"role": "assistant", "content": "Hello, wörld"})
STOP = said({}, finish="stop")
CALL = said({"tool_calls": [{"index": 0, "function": {"name": "glob", "arguments": "{}"}}]})
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\n'
WHOLE = WORDS + STOP + USAGE + DONE


def read(*pieces: bytes, limit: int = LIMIT, must_deliver: bool = True) -> Meter:
    meter = Meter(answer_bytes=limit, must_deliver=must_deliver)
    for piece in pieces:
        meter.feed(piece)
    meter.end()
    return meter


def seen(meter: Meter) -> tuple[Any, ...]:
    return (
        meter.flaw, meter.done, meter.events, meter.finish_reason, meter.usage, meter.spoke,
        meter.thought,
    )  # fmt: skip


def test_a_whole_answer() -> None:
    meter = read(WHOLE)
    assert seen(meter) == (None, True, 3, "stop", Tokens(9, 3, 0), True, False)


@pytest.mark.parametrize(
    ("stream", "reason", "words"),
    [
        (WORDS + b'data: {"choices": [{"del\n\n', "stream_malformed", "JSON"),
        (WORDS + b"data: [1, 2]\n\n", "stream_malformed", "JSON"),
        (WORDS + b"data: " + b"[" * 100_000 + b"\n\n", "stream_malformed", "JSON"),
        (WORDS + b'data: {"choices":{"a":1}}\n\n', "stream_malformed", "JSON"),
        (WORDS + DONE, "stream_malformed", "no finish reason"),
        (WORDS, "stream_cut", "after 1 events"),
        (b"", "stream_cut", "after 0 events"),
        (WORDS + STOP.removesuffix(b"\n"), "stream_cut", "after 1 events"),
        (WORDS + b'data: {"error":{"message":"no memory"}}\n\n', "endpoint_error", "no memory"),
        (WORDS + b'data: {"object":"error","message":"busy"}\n\n', "endpoint_error", "busy"),
        (WORDS + b'event: error\ndata: {"message":"boo"}\n\n', "endpoint_error", "boo"),
        (WORDS + b'error: {"code":500,"message":"bad slot"}\n\n', "endpoint_error", "bad slot"),
        (WORDS + said({}, finish="length"), "answer_cut", "length"),
        (said({"content": "x"}, finish="LENGTH") + DONE, "answer_cut", "LENGTH"),
        (said({"content": " \n"}) + STOP + DONE, "empty_answer", "neither"),
        (said({"reasoning_content": "hm"}) + STOP + DONE, "empty_answer", "only thought"),
        (said({}, finish="tool_calls") + DONE, "empty_answer", "neither"),
        (said({"content": "x" * 200}) * 100, "answer_too_long", "did not end"),
        (b": still here\n\n" * 2_000, "answer_too_long", "did not end"),
    ],
)
def test_each_flaw_has_its_name(stream: bytes, reason: str, words: str) -> None:
    limit = 200_000 if len(stream) > 50_000 else LIMIT
    flaw = read(stream, limit=limit).flaw
    assert flaw is not None
    assert flaw.reason == reason
    assert words in flaw.seen


@pytest.mark.parametrize("stream", [WORDS + STOP, CALL + said({}, finish="tool_calls") + DONE])
def test_an_end_with_a_finish_reason_is_an_end(stream: bytes) -> None:
    assert read(stream).flaw is None


def test_an_answer_that_need_not_deliver_may_be_cut_or_empty() -> None:
    for stream in (said({}, finish="length") + DONE, STOP + DONE):
        assert read(stream, must_deliver=False).flaw is None
        assert read(stream).flaw is not None


def test_the_first_flaw_stays_and_nothing_is_read_after_it() -> None:
    meter = read(said({}, finish="length"), b"data: nonsense\n\n", WHOLE)
    assert meter.flaw == Flaw(FailureReason.ANSWER_CUT, "finish reason length")
    assert meter.usage is None


def test_comments_are_no_data_of_the_model() -> None:
    assert read(b": keep-alive\n\n:\n\nretry: 5\n\nid: 3\n\n" + WHOLE).events == 3


STREAMS = [
    WHOLE,
    WHOLE.replace(b"\n", b"\r\n"),
    WHOLE.replace(b"\n", b"\r"),
    b": a comment\r\n\r\n" + WORDS + b"\r" + STOP,
    b'data: {"choices":\ndata: []}\n\n' + WHOLE,
    b'data: {"choices":\r\ndata: []}\r\n\r\n' + WHOLE,
    WORDS + b"data: broken\r\n\r\n" + STOP,
    WORDS + said({}, finish="length") + DONE,
    WORDS * 200,
    WHOLE + b"data: after the end\n\n",
    b"data: " + b"x" * 300,
]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 12_000), max_size=30))
def test_however_it_is_cut_the_result_is_the_same(stream: bytes, places: list[int]) -> None:
    cuts = sorted({0, *(place % (len(stream) + 1) for place in places), len(stream)})
    pieces = [stream[one:other] for one, other in pairwise(cuts)]
    assert b"".join(pieces) == stream
    assert seen(read(*pieces)) == seen(read(stream))


@pytest.mark.parametrize("stream", STREAMS)
def test_byte_by_byte_is_the_same_too(stream: bytes) -> None:
    pieces = [stream[place : place + 1] for place in range(len(stream))]
    assert seen(read(*pieces)) == seen(read(stream))


@given(st.binary(max_size=400))
def test_no_bytes_raise(noise: bytes) -> None:
    read(noise)
    read(b"data: " + noise + b"\n\n")


def test_half_a_surrogate_pair_is_json() -> None:
    """As the agent's client, which is JavaScript, reads it; this parser's own C code does not."""
    event = b'data: {"choices":[{"delta":{"content":"\\ud83d"},"finish_reason":"stop"}]}\n\n'
    assert read(event).flaw is None


def test_a_line_of_ten_megabytes_is_neither_kept_nor_searched_again() -> None:
    piece = b"x" * 65_536
    tracemalloc.start()
    try:
        meter = Meter(answer_bytes=64 * 1024 * 1024)
        meter.feed(b"data: ")
        for _ in range(160):
            meter.feed(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert meter.flaw is not None
    assert meter.flaw.reason == "event_too_large"
    assert peak < 4 * EVENT_LIMIT


def test_an_event_of_many_lines_has_the_same_limit() -> None:
    meter = Meter(answer_bytes=64 * 1024 * 1024)
    for _ in range(EVENT_LIMIT // 1_000 + 10):
        meter.feed(b"data: " + b"x" * 1_000 + b"\n")
    assert meter.flaw is not None
    assert meter.flaw.reason == "event_too_large"


def test_a_long_line_that_comes_byte_by_byte_costs_what_a_whole_one_does() -> None:
    """CPU time against itself: were the line searched from its start again and again, the longer
    one would cost 64 times, not 8 times, as much."""

    def cost(size: int) -> float:
        meter = Meter(answer_bytes=10 * size)
        began = time.process_time()
        for _ in range(size):
            meter.feed(b"x")
        return time.process_time() - began

    assert cost(160_000) < 30 * max(cost(20_000), 0.001)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, Tokens(5, 2, 0)),
        (
            {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
            Tokens(5, 0, 4),
        ),
        ({"prompt_tokens": 5, "prompt_tokens_details": None}, Tokens(5, 0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": 2}, Tokens(0, 2, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": True}, None),
        ({"prompt_tokens": "5"}, None),
        ([], None),
        (None, None),
    ],
)  # fmt: skip
def test_only_counts_are_counted(usage: object, tokens: Tokens | None) -> None:
    assert read(said({"content": "x"}, finish="stop", usage=usage)).usage == tokens


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"no","code":1}}', "no"),
        (b'{"error":"no"}', "no"),
        (b'{"detail":"no"}', "no"),
        (b'[{"error":{"message":"no"}}]', "no"),
        (b'{"message":"no"}', "no"),
        (b"plain \xff words", "plain � words"),
        (b"", ""),
        (b'{"error":{"a":{"b":{"c":1}}}}', '{"error":{"a":{"b":{"c":1}}}}'),
    ],
)
def test_what_an_error_says(body: bytes, text: str) -> None:
    assert said_in(body) == text


def test_deep_nesting_is_no_crash() -> None:
    assert said_in(b"[" * 100_000).startswith("[[[")
    assert json.loads(said({"content": "x"}).removeprefix(b"data: "))
