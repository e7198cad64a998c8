"""Every way an endpoint can fail has its own name, and says so before the agent sees any of it."""

import asyncio
import gzip
import ssl
import subprocess
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from server.agents.relay import endpoint_failures as failures
from server.agents.relay.endpoint_failures import Answered, by_answer
from server.agents.relay.server import Relay
from server.demo.app import Behaviour
from server.demo.wire import Turn
from tests.fakes.model import (
    DONE,
    FakeModel,
    answers,
    cuts_connection,
    cuts_json,
    ends_early,
    garbles,
    refuses,
    said,
    serving,
    streams,
    talks_for_ever,
)
from tests.fakes.raw_endpoint import STREAM, Script, chunk, raw_serving
from tests.server.relays import KEY, HandClock, admission, endpoint, question, relaying

GOOD = said({"content": "hm"}, finish="stop") + DONE
LONG = "def value(number):\n    return number + 1\n" * 500
TURN = Turn("one two three four five six seven")
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


# --- one row for each ---------------------------------------------------------------------------

ROWS: list[tuple[Behaviour, str, str, bool]] = [
    (answers(401, KEY.encode()), "endpoint_refused_key", "`api_key`", False),
    (refuses(403), "endpoint_refused_key", "HTTP 403", False),
    (refuses(404, "model `x` not found"), "endpoint_not_found", "base_url", False),
    (answers(302, b"", location="http://else/"), "endpoint_redirects", "else", False),
    (answers(307, b"", location="http://[bad"), "endpoint_redirects", "another", False),
    (answers(307, b"", location="::::"), "endpoint_redirects", "another", False),
    (answers(301, b"", location="http://h:99999999/"), "endpoint_redirects", "h;", False),
    (refuses(400, "exceeds the available context size"), "context_exceeded", "32768", False),
    (refuses(413, "context length is 4096"), "context_exceeded", "fewer files", False),
    (refuses(413, "too big"), "api_error", "HTTP 413", False),
    (refuses(400, "x does not support tools"), "no_tool_calls", "--jinja", False),
    (refuses(400, "messages with role 'tool' must follow"), "api_error", "role", False),
    (refuses(422, "bad field"), "api_error", "bad field", False),
    (refuses(409, "conflict"), "endpoint_overloaded", "conflict", True),
    (refuses(429, "slow down"), "rate_limited", "fewer agents", True),
    (refuses(429, "insufficient_quota"), "quota_spent", "credit", False),
    (refuses(500, "out of memory"), "endpoint_overloaded", "out of memory", True),
    (refuses(503), "endpoint_overloaded", "HTTP 503", True),
    (refuses(408), "endpoint_overloaded", "HTTP 408", True),
    (answers(204, b""), "api_error", "HTTP 204", False),
    (answers(200, b"<html>sign in</html>", content_type="text/html"), "endpoint_no_chat",
     "text/html", False),
    (answers(200, b"{}", content_type="application/json"), "endpoint_no_chat", "stream", False),
    (answers(200, gzip.compress(GOOD * 100_000), content_encoding="gzip"), "endpoint_no_chat",
     "compressed", False),
    (garbles(), "stream_malformed", "JSON", True),
    (streams(b"data: " + b"x" * 10_000_000), "event_too_large", "1048576", False),
    (cuts_connection(TURN, after=2), "stream_cut", "after 2 events", True),
    (ends_early(TURN, after=2), "stream_cut", "after 2 events", True),
    (streams(b""), "stream_cut", "after 0 events", True),
    (streams(said({}, finish="stop"), DONE), "empty_answer", "neither", True),
    (talks_for_ever(), "answer_too_long", "another model", False),
    (cuts_json("structured_output", {"a": "b" * 99}), "answer_cut", "larger band", False),
    (streams(said({"content": "a"}), b'data: {"error":{"message":"lost"}}\n\n'), "endpoint_error",
     "lost", True),
    (streams(b'data: {"error":{"message":"context size exceeded"}}\n\n'), "context_exceeded",
     "context size", False),
    (streams(said({"content": "a"}, finish="stop", usage={"prompt_tokens": 300}) + DONE),
     "context_cut", "300 tokens", False),
]  # fmt: skip


@pytest.mark.parametrize(("behaviour", "reason", "words", "retryable"), ROWS)
async def test_each_has_its_reason_and_its_way_out(
    tmp_path: Path, behaviour: Behaviour, reason: str, words: str, *, retryable: bool
) -> None:
    body = question(messages=[{"role": "user", "content": LONG}])
    async with (
        serving(FakeModel(behaviour).app) as url,
        relaying(tmp_path, url, answer_bytes=1_200_000) as bench,
    ):
        failure = await bench.fails(body)
        host = httpx.URL(url).netloc.decode()
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert words in failure.message
    assert host in failure.message
    assert KEY not in failure.message
    assert len(failure.message) < 800


async def test_what_is_wrong_never_reaches_the_agent(tmp_path: Path) -> None:
    wrong = said({"content": "the-wrong-part"}, finish="length")
    model = FakeModel(streams(said({"content": "the-good-part"}), wrong, DONE))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        got = b""
        async with bench.http.stream(
            "POST", "/chat/completions", json=question(), headers=bench.headers()
        ) as answer:
            pieces = answer.aiter_raw()
            got += await anext(pieces)
            await bench.failed()
            await bench.given.close()
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in pieces:
                    got += piece
        assert b"the-good-part" in got
        assert b"the-wrong-part" not in got


# --- below HTTP ---------------------------------------------------------------------------------


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n500 what?\r\n\r\n")
    await writer.drain()


async def endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-filler: " + b"y" * 8_000 + b"\r\n")
        await writer.drain()


async def junk_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunk(said({"content": "a"})) + b"zz\r\nno chunk\r\n")
    await writer.drain()


async def resets_in_mid_answer(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunk(said({"content": "a"})) + b"ff\r\nhalf a chunk")
    await writer.drain()
    writer.close()


async def endless_error(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 422 No\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(chunk(b"words " * 1_000))
        await writer.drain()


async def header_injection(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM.replace(b"event-stream", b"event-stream\rset-cookie: a=b"))
    writer.write(chunk(GOOD) + chunk(b""))
    await writer.drain()


@pytest.mark.parametrize(
    ("script", "reason", "words", "tries"),
    [
        (hangs_up, "endpoint_unreachable", "without an answer", 3),
        (no_http, "endpoint_no_chat", "does not speak HTTP", 1),
        (endless_headers, "endpoint_no_chat", "does not speak HTTP", 1),
        (junk_chunks, "stream_malformed", "does not keep to HTTP", 1),
        (resets_in_mid_answer, "stream_cut", "after 1 events", 1),
        (endless_error, "api_error", "words words", 1),
        (header_injection, "endpoint_no_chat", "does not speak HTTP", 1),
    ],
)
async def test_endpoints_that_do_not_keep_to_http(
    tmp_path: Path, script: Script, reason: str, words: str, tries: int
) -> None:
    async with raw_serving(script) as there, relaying(tmp_path, there.url) as bench:
        tracemalloc.start()
        try:
            failure = await bench.fails()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (failure.reason, words in failure.message) == (reason, True), failure
    assert len(there.requests) == tries
    assert peak < 8_000_000


async def test_a_finished_answer_may_be_cut_off_behind_its_end(tmp_path: Path) -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(said({"content": "a"}, finish="stop")))
        await writer.drain()
        writer.close()

    async with raw_serving(script) as there, relaying(tmp_path, there.url) as bench:
        assert (await bench.ask()).status_code == 200
        assert bench.given.failure is None
        assert bench.given.finish_reasons == ["stop"]


async def test_nobody_there(tmp_path: Path) -> None:
    async with relaying(tmp_path, "http://127.0.0.1:9/v1") as bench:
        failure = await bench.fails()
        assert (failure.reason, failure.retryable) == ("endpoint_unreachable", True)
        assert "127.0.0.1:9 accepts no connection (start the model server, or" in failure.message
        assert [notice.code for notice in bench.notices] == ["endpoint_unreachable"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://no-such-host.invalid/v1", "cannot be resolved"),
        ("ftp://127.0.0.1:9/v1", "no usable address"),
        ("http://127.0.0.1:x/v1", "no usable address"),
    ],
)
async def test_addresses_that_lead_nowhere(tmp_path: Path, url: str, words: str) -> None:
    async with relaying(tmp_path, url) as bench:
        failure = await bench.fails()
        assert (failure.reason, failure.retryable) == ("bad_address", False)
        assert words in failure.message


async def test_a_key_that_is_no_header_is_named_and_not_shown(tmp_path: Path) -> None:
    bad = "sk-secret\r\nX-Evil: 1"
    model = FakeModel(streams(GOOD))
    async with serving(model.app) as url:
        async with relaying(tmp_path, url, endpoint=endpoint(url, key=bad)) as bench:
            failure = await bench.fails()
        assert failure.reason == "endpoint_refused_key"
        assert "sk-secret" not in failure.message
        assert model.requests == []


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody vouches for, with its key."""
    place = tmp_path_factory.mktemp("tls") / "server.pem"
    key = place.with_name("key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(place)],
        check=True, capture_output=True,
    )  # fmt: skip
    place.write_text(place.read_text() + key.read_text())
    return place


async def good(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunk(GOOD) + chunk(b""))
    await writer.drain()


async def test_a_certificate_must_be_vouched_for(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    async with raw_serving(good, tls=server) as there:
        async with relaying(tmp_path, there.url) as bench:
            failure = await bench.fails()
            assert (failure.reason, failure.retryable) == ("endpoint_untrusted", False)
            assert "cannot be trusted: self" in failure.message
            assert there.requests == [], "not a byte of the prompt, not the key"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with (
            Relay(tmp_path / "trusting", clock=HandClock()) as relay,
            httpx.AsyncClient(trust_env=False) as http,
        ):
            given = relay.admit(admission(there.url), lambda _: None)
            headers = {"Authorization": f"Bearer {given.token}"}
            answer = await http.post(
                f"{relay.url}/chat/completions", json=question(), headers=headers
            )
            assert (answer.status_code, len(there.requests)) == (200, 1), "the same server"


async def test_a_server_without_tls(tmp_path: Path) -> None:
    async with (
        serving(FakeModel(streams(GOOD)).app) as url,
        relaying(tmp_path, url.replace("http:", "https:")) as bench,
    ):
        failure = await bench.fails()
    assert failure.reason == "endpoint_untrusted"
    assert "http:// where there is no TLS" in failure.message


# --- ways round ---------------------------------------------------------------------------------


async def test_a_redirect_takes_no_prompt_elsewhere(tmp_path: Path) -> None:
    elsewhere = FakeModel(streams(GOOD))
    async with serving(elsewhere.app) as second:
        model = FakeModel(answers(307, b"", location=f"{second}/chat/completions"))
        async with serving(model.app) as url, relaying(tmp_path, url) as bench:
            assert (await bench.fails()).reason == "endpoint_redirects"
            assert elsewhere.requests == []
            async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as naive:
                await naive.post(f"{url}/chat/completions", json=question())
            assert len(elsewhere.requests) == 1, "who follows sends it there"


async def test_a_proxy_of_the_environment_sees_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_serving(good) as proxy, serving(FakeModel(streams(GOOD)).app) as url:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.delenv("no_proxy", raising=False)
        async with relaying(tmp_path, url) as bench:
            assert (await bench.ask()).status_code == 200
        assert proxy.requests == []
        async with httpx.AsyncClient() as naive:
            await naive.post(f"{url}/chat/completions", json=question())
        assert len(proxy.requests) == 1, "who listens to the environment goes there"


# --- repeats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503])
async def test_a_busy_endpoint_is_asked_again_and_told_of_once(tmp_path: Path, status: int) -> None:
    model = FakeModel(refuses(status, "busy"), refuses(status, "busy"), streams(GOOD))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        answer = await bench.ask()
        assert (answer.status_code, answer.content) == (200, GOOD)
        assert (len(model.requests), bench.given.requests) == (3, 1)
        assert bench.given.failure is None
        (notice,) = bench.notices
        assert notice.code in ("rate_limited", "endpoint_overloaded")
        assert notice.data["host"] in notice.message
        assert "busy" in notice.message
        assert "asks again in 0 s" in notice.message


async def test_another_cause_is_told_too(tmp_path: Path) -> None:
    model = FakeModel(refuses(429), refuses(503), streams(GOOD), refuses(429), streams(GOOD))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        assert [(await bench.ask()).status_code for _ in range(2)] == [200, 200]
        codes = [notice.code for notice in bench.notices]
        assert codes == ["rate_limited", "endpoint_overloaded"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 302])
async def test_what_cannot_help_is_not_repeated(tmp_path: Path, status: int) -> None:
    model = FakeModel(refuses(status), streams(GOOD))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        await bench.fails()
        assert (len(model.requests), bench.notices) == (1, [])


async def test_a_stream_that_broke_is_not_asked_for_again(tmp_path: Path) -> None:
    model = FakeModel(cuts_connection(TURN, after=2), streams(GOOD))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        assert (await bench.fails()).reason == "stream_cut"
        assert (len(model.requests), bench.notices) == (1, [])


async def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    model = FakeModel(answers(429, b"{}", retry_after="7"), streams(GOOD))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        asking = asyncio.create_task(bench.ask())
        assert await bench.clock.sleeper() == 7.0
        assert bench.given.waiting is False, "nothing is at the endpoint now"
        assert bench.notices[0].data["seconds"] == 7.0
        assert len(model.requests) == 1
        bench.clock.advance(7)
        assert (await asking).status_code == 200


@pytest.mark.parametrize("header", ["31", "Sat, 31 Jan 2026 12:05:00 GMT"])
async def test_a_longer_wait_is_the_owners(tmp_path: Path, header: str) -> None:
    model = FakeModel(answers(503, b"{}", retry_after=header), streams(GOOD))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        failure = await bench.fails()
        assert failure.retry_after == {"31": 31.0}.get(header, 300.0)
        assert (len(model.requests), bench.notices) == (1, [])


async def test_a_pass_closed_in_a_pause_asks_no_more(tmp_path: Path) -> None:
    model = FakeModel(answers(429, b"{}", retry_after="7"), streams(GOOD))
    async with serving(model.app) as url, relaying(tmp_path, url) as bench:
        asking = asyncio.create_task(bench.ask())
        await bench.clock.sleeper()
        await bench.given.close()
        assert (await asking).status_code == 503
        bench.clock.advance(7)
        assert len(model.requests) == 1
        assert bench.given.failure is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        (" 0 ", 0.0),
        ("Sat, 31 Jan 2026 12:00:09 GMT", 9.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0.0),
        ("Sat, 31 Jan 2026 12:00:09 -0000", 9.0),
        ("99999999999999999999", 86_400.0),
        ("Sun, 31 Jan 9999 12:00:00 GMT", 86_400.0),
        ("-1", None),
        ("soon", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert failures.retry_after(header, now=NOW) == seconds


def test_foreign_words_are_one_plain_line_without_the_key() -> None:
    said_ = f"bad\x1b[31m\r\n{KEY} \u202e" + "x" * 5_000
    message = by_answer(Answered(status=422, said=said_), endpoint("http://h:1/v1")).message
    assert message.isprintable()
    assert KEY not in message
    assert len(message) < 500
