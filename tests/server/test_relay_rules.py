"""What an agent may ask: all that is known, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.agents.relay.meter import Tokens
from server.agents.relay.rules import (
    PATIENCE,
    Admission,
    Asked,
    Refusal,
    check,
    context_cut,
    estimated,
    must_deliver,
    pause,
)
from tests.server.relays import MODEL, admission, question, tool

ADMISSION = admission("http://127.0.0.1:9/v1")


def judge(body: object, given: Admission = ADMISSION) -> Asked | Refusal:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return check(raw, given)


def user(content: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def picture(url: str, **more: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def spelled(**fields: object) -> bytes:
    """The good request with fields set before its own, as text: keys may stand twice."""
    head = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    return b"{" + head.encode() + b", " + json.dumps(question()).encode()[1:]


GOOD: list[object] = [
    question(),
    question(tools=[tool("read_file")]),
    question(tools=[]),
    {name: value for name, value in question().items() if name != "tools"},
    question(max_tokens=1),
    question(temperature=0.2, tool_choice="auto", seed=1),
    question(messages=[{"role": "assistant", "content": None, "tool_calls": []}]),
    question(messages=user([{"type": "text", "text": "a"}, picture("data:image/png;base64,AA")])),
    json.dumps(question(messages=user("half a pair: \ud83d"))).encode(),
]


@pytest.mark.parametrize("body", GOOD)
def test_what_the_real_agent_asks_goes_on_as_it_came(body: object) -> None:
    asked = judge(body)
    assert isinstance(asked, Asked), asked
    assert asked.body == (body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (b"{", "unexpected_request", "JSON"),
        (b"[]", "unexpected_request", "no JSON object"),
        (b"\xff\xfe" + json.dumps(question()).encode("utf-16-le"), "unexpected_request", "JSON"),
        (b"[" * 200_000, "unexpected_request", "JSON"),
        (question(temperature=float("nan")), "unexpected_request", "JSON"),
        # Some servers take the first of two equal keys, some the last.
        (spelled(model="another"), "unexpected_request", "JSON"),
        (spelled(tools=[tool("write_file")]), "unexpected_request", "JSON"),
        (spelled(max_tokens=10**6), "unexpected_request", "JSON"),
        # Some take any spelling of a key.
        (spelled(Tools=[tool("write_file")]), "unexpected_request", "Tools"),
        (question(MODEL="another"), "unexpected_request", "MODEL"),
        # Other ways to say the same.
        (question(max_completion_tokens=10**6), "unexpected_request", "max_completion_tokens"),
        (question(functions=[{"name": "write_file"}]), "unexpected_request", "functions"),
        (question(n=50), "unexpected_request", "n"),
        (question(model="another"), "unexpected_request", "another model"),
        (question(model=None), "unexpected_request", "another model"),
        (question(stream=False), "unexpected_request", "stream"),
        (question(max_tokens=1_001), "unexpected_request", "1 to 1000"),
        (question(max_tokens=0), "unexpected_request", "1 to 1000"),
        (question(max_tokens=True), "unexpected_request", "1 to 1000"),
        (question(max_tokens="9"), "unexpected_request", "1 to 1000"),
        (question(max_tokens=None), "unexpected_request", "1 to 1000"),
        (question(tools=[tool("read_file"), tool("write_file")]), "unexpected_tools", "write_file"),
        (question(tools=[{**tool("read_file"), "Function": {}}]), "unexpected_request", "Function"),
        (question(tools=[{"type": "web_search"}]), "unexpected_request", "function"),
        (
            question(tools=[{"type": "x", "function": {"name": "read_file"}}]),
            "unexpected_tools", "no function",
        ),
        (question(tools=[{"type": "function", "function": {}}]), "unexpected_tools", "name"),
        (question(tools={"a": 1}), "unexpected_request", "list"),
        (question(messages="hello"), "unexpected_request", "list"),
        (question(messages=[1]), "unexpected_request", "object"),
        (question(messages=[{"role": "user", "Content": "x"}]), "unexpected_request", "Content"),
        # Endpoints fetch what a picture names.
        (question(messages=user([picture("http://else/x")])), "unexpected_request", "text"),
        (question(messages=user([picture("data:", URL="//e")])), "unexpected_request", "text"),
        (question(messages=user([{"type": "file", "file": {}}])), "unexpected_request", "text"),
        (
            question(messages=user([{"type": "text", "text": "a", "image_url": {}}])),
            "unexpected_request", "text",
        ),
    ],
)  # fmt: skip
def test_everything_else_is_refused(body: object, reason: str, words: str) -> None:
    refusal = judge(body)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, words in refusal.why) == (reason, True), refusal


def test_what_is_refused_is_what_another_admission_allows() -> None:
    """The guards themselves refuse, not some other defect of those requests."""
    wide = admission(
        "http://127.0.0.1:9/v1", tools=frozenset({"read_file", "write_file"}), answer_tokens=1_001
    )
    body = question(tools=[tool("read_file"), tool("write_file")], max_tokens=1_001)
    assert isinstance(judge(body), Refusal)
    assert isinstance(judge(body, wide), Asked)


_KEYS = st.sampled_from(["model", "messages", "role", "content", "tools", "type", "x"])
_SHAPES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda it: st.lists(it, max_size=3) | st.dictionaries(_KEYS, it, max_size=3),
    max_leaves=12,
)


@given(_SHAPES)
def test_no_shape_raises(body: object) -> None:
    assert isinstance(judge({**question(), "messages": body, "tools": body}), Asked | Refusal)
    assert isinstance(judge(body), Refusal)


def test_only_the_agents_own_summary_may_be_cut() -> None:
    with_tools, without = judge(question()), judge(question(tools=[]))
    assert isinstance(with_tools, Asked)
    assert isinstance(without, Asked)
    assert must_deliver(with_tools, ADMISSION)
    assert not must_deliver(without, ADMISSION)
    plain = admission("http://127.0.0.1:9/v1", tools=frozenset())
    assert must_deliver(without, plain), "a step without tools has no other answer"


def prompt(content: object) -> Asked:
    asked = judge(question(messages=user(content)))
    assert isinstance(asked, Asked)
    return asked


CODE = "def value(number):\n    return number + 1\n" * 500


@pytest.mark.parametrize(
    ("content", "tokens", "cut"),
    [
        (CODE, Tokens(len(CODE) // 4, 9, 0), False),
        (CODE, Tokens(len(CODE) // 11, 9, 0), False),
        (CODE, Tokens(len(CODE) // 16, 9, 0), True),
        (CODE, Tokens(len(CODE) // 16, 9, 700), False),
        (CODE, Tokens(255, 9, 0), False),
        (CODE, Tokens(0, 9, 0), False),
        ("x\n" + " " * 60_000, Tokens(300, 9, 0), False),
        ([picture("data:image/png;base64," + "A" * 90_000)], Tokens(300, 9, 0), False),
    ],
    ids="whole dense cut cached tiny uncounted blanks picture".split(),
)
def test_a_dropped_front_is_seen_without_false_alarms(
    content: object, tokens: Tokens, *, cut: bool
) -> None:
    assert context_cut(prompt(content), tokens) is cut


def test_what_is_not_counted_is_estimated() -> None:
    asked = prompt("x" * 4_000)
    assert estimated(asked, events=7).output == 7
    assert estimated(asked, events=7).input == len(asked.body) // 4


@pytest.mark.parametrize(
    ("repeats", "spent", "retry_after", "chance", "seconds"),
    [
        (0, 0.0, None, 1.0, 2.0),
        (1, 2.0, None, 1.0, 4.0),
        (1, 2.0, None, 0.0, 0.0),
        (2, 2.0, None, 0.0, None),
        (0, 0.0, 30.0, 0.5, 30.0),
        (0, 0.1, 30.0, 0.5, None),
        (1, PATIENCE, None, 1.0, None),
    ],
)
def test_patience(
    repeats: int, spent: float, retry_after: float | None, chance: float, seconds: float | None
) -> None:
    got = pause(repeats=repeats, spent=spent, retry_after=retry_after, chance=chance)
    assert got == seconds


def test_the_model_is_compared_whole() -> None:
    assert isinstance(judge(question(model=MODEL + " ")), Refusal)
