"""Handshakes that open no socket, and strange ones that do, each with what it must get."""

from collections.abc import Callable, Iterator
from random import Random

from tests.chaos.strikers import ALIVE, BUSY, CUT, STILL_THERE, Case
from tests.server.harness import TOKEN

Made = tuple[bytes, set[str]]
"""What is sent, and what is right."""
OPENED = {ALIVE}
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="


def opening(host: str, *lines: str, first: str = "GET /api/ws HTTP/1.1", **changed: str) -> bytes:
    """A handshake; `changed` headers are other than the good ones, and empty ones are left out."""
    headers = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": KEY,
        "Sec_WebSocket_Protocol": "podium.v1",
        "Authorization": f"Bearer {TOKEN}",
    } | changed  # fmt: skip
    named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([first, *named, *lines, "", ""]).encode("latin-1")


def _wrong_version(host: str, random: Random) -> Made:
    version = random.choice(("12", "0", "", "13x", "99999999999999999999"))
    return opening(host, Sec_WebSocket_Version=version), {"http 400"}


def _wrong_key(host: str, random: Random) -> Made:
    key = random.choice(("", "short", "=" * 24, "A" * 500, "AAAAAAAAAAAAAAAAAAAAAA"))
    return opening(host, Sec_WebSocket_Key=key), {"http 400"}


def _two_keys(host: str, random: Random) -> Made:
    return opening(host, f"Sec-WebSocket-Key: {KEY}"), {"http 400"}


def _no_subprotocol(host: str, random: Random) -> Made:
    offered = random.choice(("", "chat", "podium.v2", "PODIUM.V1", "podium.v1x"))
    return opening(host, Sec_WebSocket_Protocol=offered), {"4406"}


def _many_subprotocols(host: str, random: Random) -> Made:
    others = ", ".join(f"p{number}" for number in range(500))
    return opening(host, Sec_WebSocket_Protocol=f"{others}, podium.v1"), OPENED


def _wrong_method(host: str, random: Random) -> Made:
    method = random.choice(("POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"))
    return opening(host, first=f"{method} /api/ws HTTP/1.1"), {"http 405"}


def _wrong_path(host: str, random: Random) -> Made:
    path = random.choice(("/", "/api/runs", "/api/ws/", "/api/ws%00", "/%ff", "//api/ws", "/ws"))
    return opening(host, first=f"GET {path} HTTP/1.1"), {"http 403"}


def _no_upgrade(host: str, random: Random) -> Made:
    changed = random.choice(({"Upgrade": ""}, {"Connection": "close"}, {"Upgrade": "h2c"}))
    return opening(host, **changed), {"http 426"}


def _wrong_host(host: str, random: Random) -> Made:
    name = random.choice(("evil.example", "[::1", "a:b:c", "127.0.0.1.evil.example", "-", "\xff"))
    return opening(name), {"http 403"}


def _wrong_origin(host: str, random: Random) -> Made:
    origin = random.choice(
        ("https://evil.example", "null", f"http://{host}.evil", "file://", "\xff")
    )
    return opening(host, f"Origin: {origin}"), {"http 403"}


def _wrong_token(host: str, random: Random) -> Made:
    token = random.choice(("Bearer x", "Bearer", "Basic YTpi", "Bearer \xff\xfe", f"bearer{TOKEN}"))
    return opening(host, Authorization=token), {"http 401", BUSY}


def _wrong_cookie(host: str, random: Random) -> Made:
    value = random.choice(("9999999999.00", "\xff.\xff", ".", "9" * 4_000 + ".a", '";;=', ""))
    lines = (f"Origin: http://{host}", f"Cookie: podium_session={value}")
    # A cookie is the browser's, not the page's: who has a ticket may come in beside a bad one.
    return opening(host, *lines, Authorization=""), {*OPENED, BUSY}


def _many_headers(host: str, random: Random) -> Made:
    count = random.randrange(130, 600)
    return opening(host, *(f"X-{number}: x" for number in range(count))), {"http 431"}


def _large_header(host: str, random: Random) -> Made:
    return opening(host, "X-Large: " + "x" * random.randrange(9_000, 30_000)), {"http 431"}


def _large_path(host: str, random: Random) -> Made:
    path = "/api/ws?" + "x" * random.randrange(9_000, 30_000)
    return opening(host, first=f"GET {path} HTTP/1.1"), {"http 414"}


def _endless_headers(host: str, random: Random) -> Made:
    """Never whole, however long one reads."""
    return opening(host)[:-2] + b"X: yyyyyyyy\r\n" * 20_000, {"http 431"}


def _no_http(host: str, random: Random) -> Made:
    return random.choice((
        b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + random.randbytes(200),  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO evil.example\r\n\r\n",
        b"\x00" * 100,
        random.randbytes(3) + b"\xff\xfe\r\n\r\n",
        opening(host, first="GET /api/ws HTTP/9.9"),
        opening(host, first="GET  HTTP/1.1"),
        opening(host).replace(b"\r\n", b"\n"),
    )), {"http 400"}  # fmt: skip


def _two_readings(host: str, random: Random) -> Made:
    """What two parsers would take for two different requests."""
    lines = random.choice((
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Content-Length: 4", "Content-Length: 5"),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("X: a\r\n b",),
        ("X: a\0b",),
        ("X: a\rb",),
        (": a",),
    ))  # fmt: skip
    return opening(host, *lines) + b"GET /api/runs HTTP/1.1\r\n\r\n", {"http 400"}


def _half_a_handshake(host: str, random: Random) -> Made:
    """And the end of the connection."""
    whole = opening(host)
    return whole[: random.randrange(1, len(whole) - 1)], {CUT}


def _one_after_another(host: str, random: Random) -> Made:
    """Requests right behind a handshake are no frames, and none of them is answered."""
    return opening(host) + b"GET /api/runs HTTP/1.1\r\n\r\n" * 20, OPENED


def _strange_but_right(host: str, random: Random) -> Made:
    lines = random.choice((
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99",
        "Sec-WebSocket-Extensions: ;;,,=",
        "X-Latin: \xff\xfe",
        "Cookie: ;;=;\xff=\xfe",
    ))  # fmt: skip
    return opening(host, lines, Connection="keep-alive, UPGRADE", Upgrade="WebSocket"), OPENED


HANDSHAKES: list[Callable[[str, Random], Made]] = [
    _wrong_version, _wrong_key, _two_keys, _no_subprotocol, _many_subprotocols, _wrong_method,
    _wrong_path, _no_upgrade, _wrong_host, _wrong_origin, _wrong_token, _wrong_cookie,
    _many_headers, _large_header, _large_path, _endless_headers, _no_http, _two_readings,
    _half_a_handshake, _one_after_another, _strange_but_right,
]  # fmt: skip


def handshake_sessions(host: str, count: int, *, seed: int) -> Iterator[Case]:
    """Handshakes of every kind in turn."""
    random = Random(seed)
    for number in range(count):
        make = HANDSHAKES[number % len(HANDSHAKES)]
        first, expects = make(host, random)
        ends = make is _half_a_handshake
        payload = b"" if ends else STILL_THERE
        yield Case(make.__name__, first, payload, frozenset(expects), ends=ends)
