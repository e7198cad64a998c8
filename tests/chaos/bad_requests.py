"""REST requests that no honest client sends, each with the status that it must get."""

from collections.abc import Iterator
from random import Random

from tests.chaos.bad_handshakes import Made
from tests.chaos.strikers import CUT, Case
from tests.server.harness import TOKEN

NOBODY = "00000000-0000-4000-8000-000000000000"
MIB = 1024 * 1024
BODIES: list[tuple[str, bytes]] = [
    ("/api/runs", b""), ("/api/runs", b"null"), ("/api/runs", b"{"),
    ("/api/runs", b'{"band":"\xff"}'),
    ("/api/runs", b"[" * 500_000), ("/api/plans", b'{"a":' * 100_000), ("/api/plans", b"[]"),
    ("/api/runs", b'{"band":' + b"9" * 100_000 + b"}"), ("/api/runs", b'{"band":1e999999}'),
    ("/api/session", b'{"token":7}'), ("/api/session", b'{"a":' * 100_000),
    (f"/api/runs/{NOBODY[:-1]}/cancel", b"{}"), ("/api/runs/%00/finish", b""),
]  # fmt: skip
"""Each is answered 400."""
HALVES = [
    ("/api/projects", b'{"path":"/a\\ud800"}', "http 422"),
    ("/api/session", b'{"token":"\\ud800"}', "http 401"),
]
"""Half a surrogate pair is read as U+FFFD, as everywhere: such a thing is not there."""


def request(
    host: str, first: str, *lines: str, body: bytes = b"", length: int | None = None
) -> bytes:
    """One of a user; `length` is what it says that its body has."""
    said = len(body) if length is None else length
    head = [
        f"{first} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {TOKEN}",
        *([f"Content-Length: {said}"] if said else []), *lines,
    ]  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def _bad_body(host: str, random: Random) -> Made:
    path, body = random.choice(BODIES)
    return request(host, f"POST {path}", body=body), {"http 400"}


def _half_a_pair(host: str, random: Random) -> Made:
    path, body, answer = random.choice(HALVES)
    return request(host, f"POST {path}", body=body), {answer}


def _large_body(host: str, random: Random) -> Made:
    body = b" " * random.choice((MIB + 1, 3 * MIB))
    return request(host, "POST /api/runs", body=body), {"http 413"}


def _declared_large(host: str, random: Random) -> Made:
    length = random.choice((MIB + 1, 2**40))
    return request(host, "POST /api/plans", body=b"{", length=length), {"http 413"}


def _chunks_without_end(host: str, random: Random) -> Made:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    return request(
        host, "POST /api/runs", "Transfer-Encoding: chunked", body=chunk * 80, length=0
    ), {"http 413"}  # fmt: skip


def _bad_chunk(host: str, random: Random) -> Made:
    size = random.choice((b"zz", b"-1", b"f" * 20, b"0x4"))
    return request(
        host, "POST /api/runs", "Transfer-Encoding: chunked", body=size + b"\r\n", length=0
    ), {"http 400"}  # fmt: skip


def _bad_length(host: str, random: Random) -> Made:
    length = random.choice(("-1", "1, 2", "x", "9" * 40))
    return request(host, "POST /api/runs", f"Content-Length: {length}"), {"http 400"}


def _body_that_is_cut(host: str, random: Random) -> Made:
    """The client ends its side within the body."""
    path = random.choice(("/api/runs", "/api/session", "/api/plans", "/api/projects"))
    return request(host, f"POST {path}", body=b'{"a":', length=100), {CUT}


def _wrong_type(host: str, random: Random) -> Made:
    kind = random.choice(("text/plain", "\xff", "application/x-www-form-urlencoded"))
    return request(host, "POST /api/runs", f"Content-Type: {kind}", body=b"{}"), {"http 415"}


def _wrong_method(host: str, random: Random) -> Made:
    method = random.choice(("PUT", "PATCH", "TRACE", "OPTIONS", "PROPFIND"))
    path = random.choice(("/api/runs", "/api/session", "/pane.js", "/healthz", "/"))
    return request(host, f"{method} {path}"), {"http 405"}


def _no_method(host: str, random: Random) -> Made:
    return request(host, random.choice(("BREW /", "get /", "G\x00T /", " /"))), {"http 400"}


def _large_headers(host: str, random: Random) -> Made:
    lines = ["X: " + "x" * 100] * 3_000
    return request(host, "GET /", *lines)[:-2], {"http 431"}


def _bad_query(host: str, random: Random) -> Made:
    query = random.choice(("before=%ff", "project_id=%00", "before=", f"before={'1' * 5_000}"))
    return request(host, f"GET /api/runs?{query}"), {"http 400"}


def _no_run(host: str, random: Random) -> Made:
    rest = random.choice(("", "/events", "/frames?after=1:9", "/recording?live=1", "/report.md"))
    lines = random.choice(("Last-Event-ID: 1:2", "Accept-Encoding: gzip;q=,;=", "Range: bytes=9-1"))
    return request(host, f"GET /api/runs/{NOBODY}{rest}", lines), {"http 404"}


def _unknown_path(host: str, random: Random) -> Made:
    path = random.choice((
        "/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/%00", "/%zz", "/%ed%a0%80",
        "/" + "a" * 5_000, "/" + "a/" * 2_000, "/api", "/api/", "/api/run", "/.git/config",
    ))  # fmt: skip
    return request(host, f"GET {path}"), {"http 404"}


def _bad_range(host: str, random: Random) -> Made:
    """Of a file of the page: ranges that make no sense, and a thousand that do."""
    ranges, statuses = random.choice((
        ("bytes=99999999999-", {"http 416"}), ("bytes=5-1", {"http 400"}),
        ("bytes=" + ",".join(["0-0"] * 1_000), {"http 200", "http 206"}),
    ))  # fmt: skip
    return request(host, "GET /pane.js", f"Range: {ranges}"), statuses


REQUESTS = [
    _bad_body, _half_a_pair, _large_body, _declared_large, _chunks_without_end, _bad_chunk,
    _bad_length, _body_that_is_cut, _wrong_type, _wrong_method, _no_method, _large_headers,
    _bad_query, _no_run, _unknown_path, _bad_range,
]  # fmt: skip


def request_sessions(host: str, count: int, *, seed: int) -> Iterator[Case]:
    """A connection for each request, of every kind in turn."""
    random = Random(seed)
    for number in range(count):
        make = REQUESTS[number % len(REQUESTS)]
        first, expects = make(host, random)
        yield Case(make.__name__, first, b"", frozenset(expects), ends=make is _body_that_is_cut)


def unknown_paths(host: str, count: int) -> bytes:
    """One behind the other, on one connection."""
    return b"".join(request(host, f"GET /nothing/{number}") for number in range(count))
