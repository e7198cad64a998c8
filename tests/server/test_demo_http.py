"""The demo model over real HTTP: the shape of its answers, its label, and the hostile doubles."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from server.demo.app import create_app, scripted, serve
from server.demo.script import HELLO
from server.demo.wire import Turn, call, text_pieces
from tests.fakes.model import (
    FakeModel,
    Gate,
    calls,
    cuts_connection,
    cuts_json,
    ends_early,
    fixed,
    garbles,
    refuses,
    says,
    serving,
    silent,
    talks_for_ever,
)
from tests.server.harness import plain_http

Body = dict[str, Any]

PROBE = {
    "type": "function",
    "function": {
        "name": "podium_probe",
        "parameters": {"type": "object", "properties": {"marker": {"type": "string"}}},
    },
}


@asynccontextmanager
async def connected(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    # trust_env off: a proxy in the environment must not see loopback requests.
    async with (
        serving(app) as url,
        plain_http(base_url=url, timeout=10) as client,
    ):
        yield client


def chat(text: str = "Hello?", *, stream: bool = True, **more: object) -> Body:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    return {"model": "podium-demo", "messages": [message], "stream": stream, **more}


async def post(client: httpx.AsyncClient, body: Body) -> httpx.Response:
    return await client.post("/chat/completions", json=body)


def chunks(response: httpx.Response) -> list[Body]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [msgspec.json.decode(line) for line in lines]


async def test_every_response_carries_the_label() -> None:
    async with connected(create_app(pace=0)) as client:
        answers = [
            await client.get("/models"),
            await client.get("/nowhere"),
            await client.post("/chat/completions", content=b"{"),
            await post(client, chat()),
            await client.get(str(client.base_url.join("/healthz"))),
        ]
    assert [answer.headers["x-podium-demo"] for answer in answers] == ["scripted"] * 5
    assert [answer.status_code for answer in answers] == [200, 404, 400, 200, 200]
    assert answers[0].json()["data"][0]["id"] == "podium-demo"
    assert "not a chat request" in answers[2].json()["error"]["message"]


async def test_text_streams_in_pieces_no_two_equal_in_a_row() -> None:
    async with connected(create_app(pace=0)) as client:
        got = chunks(await post(client, chat()))
    deltas = [chunk["choices"][0]["delta"] for chunk in got]
    assert deltas[0] == {"role": "assistant", "content": ""}
    pieces = [delta["content"] for delta in deltas[1:-1]]
    assert "".join(pieces) == HELLO
    assert len(pieces) > 5
    assert got[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}


@given(st.lists(st.sampled_from(["", "a", "again", "twelve-chars", "a-dozen-and-more"])))
def test_pieces_are_the_text_and_never_equal_in_a_row(words: list[str]) -> None:
    text = " ".join(words)
    pieces = text_pieces(text)
    assert "".join(pieces) == text
    assert all(one != other for one, other in pairwise(pieces))


async def test_tool_arguments_come_in_several_pieces() -> None:
    body = chat(f"marker: {'m' * 80}", tools=[PROBE], stream_options={"include_usage": True})
    async with connected(create_app(pace=0)) as client:
        *got, last = chunks(await post(client, body))
    deltas = [c for chunk in got for c in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert deltas[0]["function"] == {"name": "podium_probe", "arguments": ""}
    assert deltas[0]["id"] == "call_0_0"
    assert len(deltas) > 3
    arguments = "".join(delta["function"]["arguments"] for delta in deltas)
    assert msgspec.json.decode(arguments) == {"marker": "m" * 80}
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > last["usage"]["completion_tokens"] > 0


async def test_an_answer_can_come_whole() -> None:
    async with connected(create_app(pace=0)) as client:
        plain = (await post(client, chat(stream=False))).json()
        probed = (await post(client, chat("marker: QX", stream=False, tools=[PROBE]))).json()
    assert plain["choices"][0]["message"] == {"role": "assistant", "content": HELLO}
    assert probed["choices"][0]["finish_reason"] == "tool_calls"
    made = probed["choices"][0]["message"]["tool_calls"][0]
    assert made["function"] == {"name": "podium_probe", "arguments": '{"marker":"QX"}'}


async def test_it_listens_on_loopback_only() -> None:
    with pytest.raises(ValueError, match="loopback only"):
        await serve("0.0.0.0")


async def test_the_fake_gives_each_request_its_behaviour_and_records_it() -> None:
    model = FakeModel(refuses(401), says("first"), calls("structured_output", {"end": "complete"}))
    async with connected(model.app) as client:
        answers = [await post(client, chat(f"number {n}", stream=False)) for n in range(4)]
    assert [answer.status_code for answer in answers] == [401, 200, 200, 200]
    assert [request.messages[0].text[-1] for request in model.requests] == ["0", "1", "2", "3"]
    finishes = [answer.json()["choices"][0]["finish_reason"] for answer in answers[1:]]
    assert finishes == ["stop", "tool_calls", "tool_calls"]


async def test_a_gate_holds_the_answer_until_it_is_opened() -> None:
    gate = Gate()
    model = FakeModel(gate.hold(scripted(pace=0)))
    async with connected(model.app) as client, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(post(client, chat()))
        await model.arrived()
        assert not asking.done()
        gate.open()
    assert asking.result().status_code == 200


async def test_silence_sends_not_one_byte() -> None:
    model = FakeModel(silent())
    async with connected(model.app) as client, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(post(client, chat()))
        await model.arrived()
        assert not asking.done()
        asking.cancel()


async def test_a_dropped_connection_breaks_the_body() -> None:
    model = FakeModel(cuts_connection(Turn("one two three four five six seven"), after=2))
    async with connected(model.app) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(client, chat())


async def test_an_early_end_has_no_finish_reason() -> None:
    model = FakeModel(ends_early(Turn("one two three four five six seven"), after=2))
    async with connected(model.app) as client:
        answer = await post(client, chat())
    assert answer.text.count("data: ") == 2
    assert '"finish_reason":null' in answer.text
    assert "[DONE]" not in answer.text


async def test_garbled_events_are_no_json() -> None:
    async with connected(FakeModel(garbles()).app) as client:
        second = (await post(client, chat())).text.split("\n\n")[1]
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(second.removeprefix("data: "))


async def test_cut_json_says_length() -> None:
    async with connected(FakeModel(cuts_json("structured_output", {"a": "b" * 99})).app) as client:
        got = chunks(await post(client, chat()))
    deltas = [c for chunk in got for c in chunk["choices"][0]["delta"].get("tool_calls", ())]
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode("".join(delta["function"]["arguments"] for delta in deltas))
    assert got[-1]["choices"][0]["finish_reason"] == "length"


async def test_endless_text_ends_with_its_reader() -> None:
    async with connected(FakeModel(talks_for_ever()).app) as client:
        async with client.stream("POST", "/chat/completions", json=chat()) as answer:
            lines = answer.aiter_lines()
            seen = [await anext(lines) for _ in range(20)]
        assert len(set(seen)) == 11  # ten different events and the blank lines between them
        assert (await client.get("/models")).status_code == 200


async def test_a_pause_lies_between_two_pieces() -> None:
    turn = Turn("never seen in full", (call("read_file", {"file_path": "/x"}),))
    async with (
        connected(FakeModel(fixed(turn, pace=3600)).app) as client,
        client.stream("POST", "/chat/completions", json=chat()) as answer,
    ):
        first = await anext(answer.aiter_lines())
    assert '"role":"assistant"' in first
