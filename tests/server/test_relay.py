"""The relay on real sockets: who may come in, what goes out, and that nothing is left behind."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from uvicorn.protocols.http.flow_control import FlowControl

from protocol.resources import SelfTest, Usage
from server.agents.containment.self_test import SelfTests
from server.agents.relay.passes import SURPRISES
from server.agents.relay.server import Relay
from server.demo.app import create_app
from server.demo.wire import Turn, call
from tests.fakes.model import (
    DONE,
    FakeModel,
    Gate,
    answers,
    calls,
    cuts_json,
    fixed,
    said,
    says,
    serving,
    streams,
    talks_for_ever,
)
from tests.fakes.raw_endpoint import STREAM, chunk, raw_serving
from tests.server.harness import plain_http
from tests.server.relays import KEY, HandClock, admission, question, relaying, tool

STOP = said({"content": "hm"}, finish="stop") + DONE
TESTED: dict[str, Any] = {
    "write": "failed_as_it_must",
    "network": "succeeded",
    "processes": "not_run",
}


async def test_an_answer_passes_byte_for_byte_and_is_counted(tmp_path: Path) -> None:
    turn = Turn("Some text, ünd more.", (call("read_file", {"file_path": "/x"}),))
    model = FakeModel(fixed(turn))
    async with serving(model.app) as url:
        async with plain_http() as http:
            direct = await http.post(f"{url}/chat/completions", json=question())
        async with relaying(tmp_path, url) as bench:
            answer = await bench.ask()
            given = bench.given
            assert (answer.status_code, answer.content) == (200, direct.content)
            assert answer.headers["content-type"] == "text/event-stream"
            assert "x-podium-demo" not in answer.headers, "no header of the endpoint passes"
            assert given.usage.requests == given.requests == 1
            assert given.usage.input_tokens > 0
            assert given.usage.output_tokens > 0
            assert (given.finish_reasons, given.failure) == (["tool_calls"], None)
            assert (given.answered, given.waiting) == (True, False)
            assert bench.notices == []
            await bench.ask()
            assert (given.requests, given.finish_reasons) == (2, ["tool_calls"] * 2)


async def test_cached_tokens_are_summed(tmp_path: Path) -> None:
    usage = {
        "prompt_tokens": 500,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    last = said({"content": "x"}, finish="stop", usage=usage)
    async with (
        serving(FakeModel(streams(last, DONE)).app) as url,
        relaying(tmp_path, url) as bench,
    ):
        await bench.ask()
        await bench.ask()
        assert bench.given.usage == Usage(
            input_tokens=1_000, output_tokens=40, cached_tokens=800, requests=2
        )


async def test_the_endpoint_gets_the_key_and_nothing_else_of_the_agent(tmp_path: Path) -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(STOP) + chunk(b""))
        await writer.drain()

    async with raw_serving(script) as endpoint, relaying(tmp_path, endpoint.url) as bench:
        headers = {
            **bench.headers(),
            "X-Forwarded-For": "agent-header",
            "Cookie": "agent-cookie",
            "User-Agent": "agent-name",
            "Accept-Encoding": "gzip",
        }
        answer = await bench.http.post("/chat/completions", json=question(), headers=headers)
        sent = endpoint.requests[0].decode()
        assert answer.status_code == 200
        assert f"Authorization: Bearer {KEY}" in sent
        assert "identity" in sent
        for word in (bench.given.token, "agent-", "gzip", "x-forwarded"):
            assert word not in sent.lower() + sent
        assert KEY not in answer.text + str(answer.headers) + repr(bench.given.admission)


@pytest.mark.parametrize("token", ["guess", "none"])
async def test_a_guessed_token_opens_nothing(tmp_path: Path, token: str) -> None:
    model = FakeModel(streams(STOP))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        answer = await bench.ask(token=token)
        near = await bench.ask(token=bench.given.token[:-1])
        both = await bench.http.post(
            "/chat/completions",
            json=question(),
            headers=[(name, value) for name, value in bench.headers().items()] * 2,
        )
        assert [answer.status_code, near.status_code, both.status_code] == [401] * 3
        assert answer.json()["error"]["code"] == "unknown_token"
        assert model.requests == []
        assert (await bench.ask()).status_code == 200, "the right one does"


async def test_a_closed_pass_opens_nothing(tmp_path: Path) -> None:
    model = FakeModel(streams(STOP))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        await bench.given.close()
        await bench.given.close()
        assert (await bench.ask()).status_code == 401
        assert model.requests == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"GET", b"/v1/models"),
        (b"GET", b"/v1/chat/completions"),
        (b"POST", b"/v1/chat/completions/"),
        (b"POST", b"/v1/chat/completions?model=x"),
        (b"POST", b"/v1/chat/../chat/completions"),
        (b"POST", b"/v1/chat/%63ompletions"),
        (b"POST", b"//v1/chat/completions"),
        (b"POST", b"/v1/embeddings"),
        (b"POST", b"http://elsewhere.example/v1/chat/completions/x"),
        (b"DELETE", b"/podium/self-test"),
        (b"POST", b"/"),
    ],
)
async def test_there_are_two_routes_and_no_way_around(
    tmp_path: Path, method: bytes, target: bytes
) -> None:
    model = FakeModel(streams(STOP))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        status = await raw_request(bench.relay, method, target, bench.given.token)
        assert status == 404
        assert model.requests == []
        assert len(bench.given.surprises) == 1
        assert method.decode() in bench.given.surprises[0]
        assert await raw_request(bench.relay, b"POST", b"/v1/chat/completions", "x") == 401


async def raw_request(relay: Relay, method: bytes, target: bytes, token: str) -> int:
    """The status of a request that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(relay.url).port)
    writer.write(
        b"%s %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: 2\r\n\r\n{}"
        % (method, target, token.encode())
    )
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


async def test_surprises_are_bounded_and_harmless(tmp_path: Path) -> None:
    async with relaying(tmp_path, "http://127.0.0.1:9/v1") as bench:
        for number in range(SURPRISES + 4):
            await bench.http.get(f"/x{number}{'y' * 200}", headers=bench.headers())
        assert len(bench.given.surprises) == SURPRISES
        assert all(len(text) <= 80 and text.isprintable() for text in bench.given.surprises)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (question(tools=[tool("write_file")]), 403, "unexpected_tools"),
        (question(model="another"), 403, "unexpected_request"),
        (question(max_tokens=5_000), 400, "unexpected_request"),
        (b"{", 400, "unexpected_request"),
        (b" " * (8 * 1024 * 1024 + 1), 413, "request_too_large"),
    ],
)
async def test_what_must_not_go_out_does_not(
    tmp_path: Path, body: object, status: int, reason: str
) -> None:
    model = FakeModel(streams(STOP))
    async with serving(model.app) as url:
        async with relaying(tmp_path, url) as bench:
            answer = await bench.ask(body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, reason)
            failure = await bench.failed()
            assert (failure.reason, failure.retryable) == (reason, False)
            assert model.requests == []
        wide = frozenset({"write_file", "read_file", "structured_output"})
        async with relaying(tmp_path, url, tools=wide) as bench:
            await bench.ask()
            assert len(model.requests) == 1, "the endpoint is there, and would have answered"


async def test_a_body_without_an_announced_size_has_the_same_limit(tmp_path: Path) -> None:
    async def body() -> Any:
        for _ in range(9):
            yield b" " * 1024 * 1024

    async with relaying(tmp_path, "http://127.0.0.1:9/v1") as bench:
        answer = await bench.http.post("/chat/completions", content=body(), headers=bench.headers())
        assert answer.status_code == 413


async def half_a_request(relay: Relay, token: str) -> tuple[asyncio.StreamReader, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(relay.url).port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
        b"content-length: 100\r\n\r\n{" % token.encode()
    )
    return reader, writer


async def test_a_body_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.agents.relay.exchange.BODY_SECONDS", 0.01)
    async with relaying(tmp_path, "http://127.0.0.1:9/v1") as bench:
        reader, writer = await half_a_request(bench.relay, bench.given.token)
        assert b" 408 " in await reader.readline()
        assert (await bench.failed()).reason == "unexpected_request"
        writer.close()


@pytest.mark.parametrize("how", ["hangs up", "is closed"])
async def test_an_end_in_the_middle_of_a_body(tmp_path: Path, how: str) -> None:
    async with relaying(tmp_path, "http://127.0.0.1:9/v1") as bench:
        reader, writer = await half_a_request(bench.relay, bench.given.token)
        async with asyncio.timeout(10):
            while not bench.given._flights:
                await asyncio.sleep(0)
            if how == "hangs up":
                writer.close()
            else:
                await bench.given.close()
                assert b" 503 " in await reader.readline()
                writer.close()
            while bench.given._flights:
                await asyncio.sleep(0)
        assert bench.given.failure is None
        assert bench.given.requests == 0


async def test_the_budget_of_requests(tmp_path: Path) -> None:
    model = FakeModel(streams(STOP))
    async with serving(model.app) as url, relaying(tmp_path, url, requests=2) as bench:
        assert [(await bench.ask()).status_code for _ in range(3)] == [200, 200, 403]
        assert len(model.requests) == 2
        failure = await bench.failed()
        assert failure.reason == "budget_exhausted"
        assert "2 model calls" in failure.message


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "estimated"])
async def test_the_budget_of_tokens(tmp_path: Path, *, counted: bool) -> None:
    """An endpoint that does not count cannot make a budget void."""
    usage = {"usage": {"prompt_tokens": 90, "completion_tokens": 10}} if counted else {}
    last = said({"content": "x"}, finish="stop", **usage) + DONE
    async with serving(FakeModel(streams(last)).app) as url:
        async with relaying(tmp_path, url, total_tokens=50) as bench:
            assert [(await bench.ask()).status_code for _ in range(2)] == [200, 403]
            failure = await bench.failed()
            assert failure.reason == "budget_exhausted"
            assert "50 tokens" in failure.message
        async with relaying(tmp_path, url, total_tokens=100_000) as bench:
            assert [(await bench.ask()).status_code for _ in range(2)] == [200, 200]


async def test_two_passes_see_nothing_of_each_other(tmp_path: Path) -> None:
    model = FakeModel(streams(STOP), answers(401, b"{}"))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        other = bench.relay.admit(
            admission(url, tools=frozenset({"glob"})), lambda notice: pytest.fail(str(notice))
        )
        assert (await bench.ask()).status_code == 200
        assert (other.requests, other.usage.input_tokens, other.answered) == (0, 0, False)
        refused = await bench.ask(token=other.token)
        assert refused.status_code == 403, "the tools of one pass are not those of the other"
        assert bench.given.failure is None
        await other.close()
        assert (await bench.ask(token=other.token)).status_code == 401
        assert bench.given.closed is False
        assert (await bench.fails()).reason == "endpoint_refused_key"


async def test_a_third_request_at_once_is_turned_away(tmp_path: Path) -> None:
    gate = Gate()
    model = FakeModel(gate.hold(streams(STOP)))
    async with (
        serving(model.app) as url,
        relaying(tmp_path, url) as bench,
        asyncio.TaskGroup() as tasks,
    ):
        first, second = (tasks.create_task(bench.ask()) for _ in range(2))
        await model.arrived(2)
        assert (await bench.ask()).status_code == 429
        gate.open()
        assert [(await task).status_code for task in (first, second)] == [200, 200]
        assert bench.given.failure is None


async def test_the_signs_of_life_are_the_models(tmp_path: Path) -> None:
    step = [asyncio.Event() for _ in range(3)]

    async def script(writer: asyncio.StreamWriter) -> None:
        pieces = (b": keep-alive\n\n", said({"content": "x"}), STOP)
        writer.write(STREAM)
        for piece, event in zip(pieces, step, strict=False):
            await event.wait()
            writer.write(chunk(piece))
        writer.write(chunk(b""))
        await writer.drain()

    async with raw_serving(script) as endpoint, relaying(tmp_path, endpoint.url) as bench:
        given, clock = bench.given, bench.clock
        assert (given.last_sign, given.waiting) == (clock.monotonic(), False)
        began = clock.monotonic()
        step[0].set()
        async with bench.http.stream(
            "POST", "/chat/completions", json=question(), headers=bench.headers()
        ) as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b": keep-alive\n\n"
            clock.advance(40)
            assert (given.last_sign, given.answered, given.waiting) == (began, False, True)
            assert given.asked_at == began
            step[1].set()
            await anext(pieces)
            assert (given.last_sign, given.answered) == (began + 40, True)
            step[2].set()
            assert b"".join([piece async for piece in pieces]) == STOP
        assert given.waiting is False


# --- ends -----------------------------------------------------------------------------------------


async def test_closing_a_pass_while_bytes_flow_leaves_nothing(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with serving(FakeModel(talks_for_ever()).app) as url, relaying(tmp_path, url) as bench:
        async with bench.http.stream(
            "POST", "/chat/completions", json=question(), headers=bench.headers()
        ) as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            with capture_logs() as logs:
                await bench.given.close()
            assert logs == []
            assert bench.given.waiting is False
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in pieces:
                    pass
        assert bench.given.usage.requests == 1
        assert bench.given.finish_reasons == ["none"]
        await bench.relay.stop()
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]  # tasks of coroutines only
        assert names <= {"Server.serve", "RequestResponseCycle.run_asgi"}, "the fake model's own"


async def test_an_agent_that_hangs_up_is_let_go(tmp_path: Path) -> None:
    """The endpoint's connection is cut with the agent's: nobody pays for an answer to nobody."""

    async def script(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with raw_serving(script) as endpoint, relaying(tmp_path, endpoint.url) as bench:
        asking = asyncio.create_task(bench.ask())
        async with asyncio.timeout(10):
            while not endpoint.requests:
                await asyncio.sleep(0)
            assert bench.given.waiting
            asking.cancel()
            await endpoint.ended.acquire()
        assert bench.given.failure is None
        assert bench.given.waiting is False


async def test_a_stop_with_stuck_agents_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        while True:
            writer.write(chunk(said({"content": "x" * 50_000})))
            await writer.drain()

    async with (
        raw_serving(script) as endpoint,
        relaying(tmp_path, endpoint.url, answer_bytes=10**9) as bench,
    ):
        paused = told_of_pauses(monkeypatch)
        writer = await ask_and_never_read(bench.relay, bench.given.token)
        async with asyncio.timeout(10):
            await paused.wait()
            await bench.relay.stop()
            while bench.relay._state.connections:
                await asyncio.sleep(0)
        writer.close()
        assert bench.given.closed
        assert not (tmp_path / "relay" / "relay.sock").exists()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", httpx.URL(bench.relay.url).port)


async def ask_and_never_read(relay: Relay, token: str) -> asyncio.StreamWriter:
    body = httpx.Request("POST", "http://x", json=question()).content
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(relay.url).port, limit=1_024)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
        b"content-length: %d\r\n\r\n%s" % (token.encode(), len(body), body)
    )
    return writer


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_slow_agent_slows_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Without the wait for the agent (the control) all of the answer piles up in the relay."""
    piece, pieces = said({"content": "x" * 60_000}), 400
    sent_all, paused = asyncio.Event(), told_of_pauses(monkeypatch)

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for _ in range(pieces):
            writer.write(chunk(piece))
            await writer.drain()
        sent_all.set()
        await asyncio.Event().wait()

    if not guarded:
        monkeypatch.setattr(FlowControl, "drain", never_waits)
    async with (
        raw_serving(script) as endpoint,
        relaying(tmp_path, endpoint.url, answer_bytes=10**9) as bench,
    ):
        writer = await ask_and_never_read(bench.relay, bench.given.token)
        async with asyncio.timeout(20):
            await (paused if guarded else sent_all).wait()
            kept = [it.transport.get_write_buffer_size() for it in bench.relay._state.connections]
            most = max(kept)
        assert (most < 4 * len(piece)) is guarded
        assert sent_all.is_set() is not guarded
        writer.close()
        await bench.given.close()


def told_of_pauses(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a connection to an agent has as much to send as it may hold."""
    paused, pause = asyncio.Event(), FlowControl.pause_writing

    def pause_and_tell(flow: FlowControl) -> None:
        pause(flow)
        paused.set()

    monkeypatch.setattr(FlowControl, "pause_writing", pause_and_tell)
    return paused


async def never_waits(_: FlowControl) -> None:
    return


async def test_an_endpoint_that_never_hangs_up_does_not_hold_the_answer(tmp_path: Path) -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(STOP))
        await writer.drain()
        await asyncio.Event().wait()

    async with raw_serving(script) as endpoint, relaying(tmp_path, endpoint.url) as bench:
        answers_ = [await bench.ask() for _ in range(5)]
        assert [answer.status_code for answer in answers_] == [200] * 5, "they are not in flight"
        assert bench.given.waiting is False
        await bench.given.close()


@pytest.mark.parametrize("body", [None, b"{"], ids=["good", "bad"])
async def test_after_a_failure_nothing_goes_out_and_nobody_waits_for_ever(
    tmp_path: Path, body: object
) -> None:
    model = FakeModel(answers(401, b"{}"), says("too late"))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        first = asyncio.create_task(bench.ask())
        await bench.failed()
        second = asyncio.create_task(bench.ask(body))
        await bench.clock.sleeper(2)
        assert not first.done()
        assert not second.done()
        bench.clock.advance(10)
        for answer in (await first, await second):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "attempt_over")
        assert len(model.requests) == 1


async def test_a_fault_of_the_relay_itself_ends_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("the-prompt-of-the-agent")

    monkeypatch.setattr("server.agents.relay.chat.check", breaks)
    async with relaying(tmp_path, "http://127.0.0.1:9/v1") as bench:
        with capture_logs() as logs:
            assert (await bench.ask()).status_code == 503
        failure = await bench.failed()
        assert (failure.reason, failure.retryable) == ("relay_error", True)
        assert [entry["event"] for entry in logs] == ["relay_broken", "relay_failure"]
        assert "the-prompt" not in str(logs)


async def test_logs_hold_ids_only(tmp_path: Path) -> None:
    async with (
        serving(FakeModel(answers(400, b"secret-words " + KEY.encode())).app) as url,
        relaying(tmp_path, url) as bench,
    ):
        with capture_logs() as logs:
            await bench.http.get("/secret-path", headers=bench.headers())
            await bench.ask(token="secret-token")
            await bench.fails(question(messages=[{"role": "user", "content": "secret-prompt"}]))
        assert [entry["event"] for entry in logs] == ["relay_surprise", "relay_failure"]
        assert {"run_id", "step_id", "attempt"} <= logs[0].keys()
        for word in ("secret", KEY, bench.given.token):
            assert word not in str(logs)


# --- self-tests -----------------------------------------------------------------------------------


async def self_test(bench: Any, body: object) -> int:
    root = bench.relay.url.removesuffix("/v1")
    answer = await bench.http.post(f"{root}/podium/self-test", json=body, headers=bench.headers())
    return int(answer.status_code)


async def test_self_tests_are_taken_once_before_the_first_request(tmp_path: Path) -> None:
    async with (
        serving(FakeModel(streams(STOP)).app) as url,
        relaying(tmp_path, url) as bench,
    ):
        assert await self_test(bench, {"write": "failed_as_it_must"}) == 400
        assert await self_test(bench, {**TESTED, "write": "fine"}) == 400
        assert await self_test(bench, {**TESTED, "more": 1}) == 400
        assert await self_test(bench, {**TESTED, "write": "x" * 5_000}) == 413
        assert bench.given.self_tests is None
        assert await self_test(bench, TESTED) == 200
        expected = SelfTests(
            write=SelfTest.FAILED_AS_IT_MUST, network=SelfTest.SUCCEEDED, processes=SelfTest.NOT_RUN
        )
        assert bench.given.self_tests == expected
        assert await self_test(bench, {**TESTED, "network": "failed_as_it_must"}) == 409
        assert bench.given.self_tests == expected
        late = bench.relay.admit(admission(url), lambda _: None)
        await bench.ask(token=late.token)
        answer = await bench.http.post(
            bench.relay.url.removesuffix("/v1") + "/podium/self-test",
            json=TESTED,
            headers=bench.headers(late.token),
        )
        assert answer.status_code == 409, "by now the model may have had a word"
        assert late.self_tests is None
        assert bench.given.failure is None


# --- the doors ------------------------------------------------------------------------------------


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder whose socket has a longer path than a socket's address can hold."""
    folder = tmp_path / ("deep" * 30) / "relay"
    assert len(str(folder)) > 120
    yield folder
    assert not (folder / "relay.sock").exists()


async def test_the_socket_file_is_its_owners_and_may_lie_deep(deep: Path) -> None:
    async with (
        serving(FakeModel(streams(STOP)).app) as url,
        Relay(deep, clock=HandClock()) as relay,
    ):
        assert relay.socket == deep / "relay.sock"
        assert stat.S_IMODE(relay.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(deep.stat().st_mode) == 0o700
        given = relay.admit(admission(url), lambda _: None)
        folder = os.open(deep, os.O_PATH)
        transport = httpx.AsyncHTTPTransport(uds=f"/proc/self/fd/{folder}/relay.sock")
        async with httpx.AsyncClient(transport=transport) as http:
            answer = await http.post(
                "http://relay/v1/chat/completions",
                json=question(),
                headers={"Authorization": f"Bearer {given.token}"},
            )
        os.close(folder)
        assert (answer.status_code, answer.content) == (200, STOP)


async def test_what_a_crash_left_is_replaced(deep: Path) -> None:
    deep.mkdir(parents=True)
    (deep / "relay.sock").write_text("left behind")
    async with Relay(deep, clock=HandClock()) as relay:
        assert relay.socket is not None
        assert stat.S_ISSOCK(relay.socket.stat().st_mode)


async def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    relay = Relay(tmp_path / "file", clock=HandClock())
    with pytest.raises(OSError):
        await relay.start()
    assert relay.url == ""


async def test_the_port_is_loopbacks(tmp_path: Path) -> None:
    async with Relay(tmp_path / "r", clock=HandClock()) as relay:
        families = [it.family for it in relay._listeners]
        assert families == [socket.AF_INET, socket.AF_UNIX]
        assert relay._listeners[0].getsockname()[0] == "127.0.0.1"


async def test_small_writes_leave_at_once(tmp_path: Path) -> None:
    async with (
        serving(FakeModel(streams(STOP)).app) as url,
        relaying(tmp_path, url) as bench,
    ):
        await bench.ask()
        (connection,) = bench.relay._state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_a_second_endpoint_gets_its_own_key(tmp_path: Path) -> None:
    one, other = FakeModel(streams(STOP)), FakeModel(calls("read_file", {}))
    async with (
        serving(create_app(behaviour=one._answer)) as url,
        serving(other.app) as second,
        relaying(tmp_path, url) as bench,
    ):
        more = bench.relay.admit(admission(second), lambda _: None)
        await bench.ask()
        await bench.ask(token=more.token)
        assert (len(one.requests), len(other.requests)) == (1, 1)
        assert more.finish_reasons == ["tool_calls"]


async def test_a_cut_result_is_not_passed_on_but_a_cut_summary_is(tmp_path: Path) -> None:
    cut = cuts_json("structured_output", {"a": "b" * 99})
    async with serving(FakeModel(cut).app) as url, relaying(tmp_path, url) as bench:
        summary = await bench.ask(question(tools=[]))
        assert '"finish_reason":"length"' in summary.text
        assert bench.given.failure is None
        asking = asyncio.create_task(bench.ask())
        assert (await bench.failed()).reason == "answer_cut"
        await bench.given.close()
        with pytest.raises(httpx.RemoteProtocolError):
            await asking
        assert bench.given.finish_reasons == ["length", "length"]
