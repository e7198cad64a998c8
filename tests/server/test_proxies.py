"""A reverse proxy that says who asks is believed when it is listed, by its TCP connection alone."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection

from server.http.peers import Peers
from server.settings import load
from tests.server.harness import TOKEN, House
from tests.server.people import Person, admit, asked, closed_with, host_of, shared_house, upgrade
from tests.server.test_settings import LOCAL, problems, written

USER = "X-Forwarded-User"
HERE = ["127.0.0.1/32"]
ELSEWHERE = ["192.0.2.7"]


@pytest.fixture
async def home(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    trusted = getattr(request, "param", HERE)
    async with shared_house(tmp_path, trusted_proxies=trusted, proxy_user_header=USER) as opened:
        yield opened


@pytest.fixture
async def ann(home: House, tmp_path: Path) -> Person:
    return await admit(home, "ann@example.org", tmp_path / "project")


async def status(home: House, path: str, *headers: tuple[str, str], method: str = "GET") -> int:
    given = [("Host", host_of(home)), *headers]
    given += upgrade() if path == "/api/ws" else []
    return (await asked(home, method, path, given)).status


@pytest.mark.usefixtures("ann")
async def test_who_the_listed_proxy_names_is_signed_in(home: House) -> None:
    named = (USER, "ann@example.org")
    answer = await asked(home, "GET", "/api/session", [("Host", host_of(home)), named])
    assert b'"user_id":"ann@example.org"' in answer.body
    assert b'"way":"proxy"' in answer.body
    own = ("Origin", home.url)
    assert await status(home, "/api/ws", named, own) == 101
    async with home.socket(**dict([named, own])) as wire:
        assert (await wire.receive())["user_id"] == "ann@example.org"
    # A browser sends what the proxy makes of it by itself, like a cookie: the same checks.
    assert await status(home, "/api/ws", named) == 403
    assert await status(home, "/api/ws-ticket", named, method="POST") == 403
    assert await status(home, "/api/ws-ticket", named, own, method="POST") == 201
    evil = ("Origin", "https://evil.example")
    assert await status(home, "/api/ws", named, evil) == 403
    assert await status(home, "/api/runs", named, evil) == 403
    rebound = [("Host", "evil.example"), named]
    assert (await asked(home, "GET", "/api/runs", rebound)).status == 403


@pytest.mark.usefixtures("ann")
async def test_whom_no_proxy_may_name(home: House) -> None:
    await admit(home, "chat", service=True)
    await admit(home, "gone")
    await home.http.delete("/api/users/gone")
    for name in ("local", "chat", "gone", "nobody", "ANN@EXAMPLE.ORG", "ann@example.org,local"):
        assert await status(home, "/api/runs", (USER, name)) == 403, name
    twice = [(USER, "ann@example.org"), (USER, "ann@example.org")]
    assert await status(home, "/api/runs", *twice) == 403
    assert await status(home, "/api/runs", (USER, " ")) == 401, "an empty name is none"
    # What the proxy says comes before what the browser has.
    ann, operator = (USER, "ann@example.org"), ("Authorization", f"Bearer {TOKEN}")
    answer = await asked(home, "GET", "/api/session", [("Host", host_of(home)), ann, operator])
    assert b'"user_id":"ann@example.org"' in answer.body


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize("home", [ELSEWHERE], indirect=True)
async def test_nobody_else_is_believed(home: House) -> None:
    """Nor does a header that claims to come from the proxy make it so."""
    named = (USER, "ann@example.org")
    for claim in ([], [("X-Forwarded-For", "192.0.2.7")], [("X-Real-IP", "192.0.2.7")]):
        assert await status(home, "/api/runs", named, *claim) == 401
        assert await status(home, "/api/ws", named, ("Origin", home.url), *claim) == 401
    operator = ("Authorization", f"Bearer {TOKEN}")
    answer = await asked(home, "GET", "/api/session", [("Host", host_of(home)), named, operator])
    assert b'"user_id":"local"' in answer.body, "beside a credential of its own it is nothing"


async def test_a_revoked_user_is_out_whatever_the_proxy_says(home: House, ann: Person) -> None:
    named = (USER, ann.name)
    async with home.socket(**{USER: ann.name, "Origin": home.url}) as wire:
        await home.http.delete(f"/api/users/{ann.name}")
        assert await closed_with(wire) == 4401
    assert await status(home, "/api/runs", named) == 403


GOOD = """
trusted_proxies = ["127.0.0.1/32", "10.0.0.0/28", "2001:db8::7"]
proxy_user_header = "X-Forwarded-User"
project_roots = ["ROOT"]
"""


@pytest.mark.parametrize(
    ("key", "right", "wrong", "way_out"),
    [
        ("proxy_user_header", "trusted_proxies", "#", "set trusted_proxies"),
        ("proxy_user_header", "X-Forwarded-User", "Host", "cannot name a user"),
        ("proxy_user_header", "X-Forwarded-User", "a b", "cannot name a user"),
        ("trusted_proxies", "127.0.0.1/32", "0.0.0.0/0", "name the proxy itself"),
        ("trusted_proxies", "2001:db8::7", "::/0", "name the proxy itself"),
        ("trusted_proxies", "10.0.0.0/28", "10.0.0.0/8", "name the proxy itself"),
        ("trusted_proxies", "10.0.0.0/28", "nginx", "10.0.0.7"),
        ("trusted_proxies", "10.0.0.0/28", "10.0.0.7/28", "10.0.0.7"),
        (
            "containment",
            "project_roots",
            'containment = "off"\nproject_roots',
            "a proxy is trusted",
        ),
        ("project_roots", "project_roots", "#", "a proxy is trusted"),
    ],
)
def test_what_is_refused_at_start(
    tmp_path: Path, key: str, right: str, wrong: str, way_out: str
) -> None:
    good = GOOD.replace("ROOT", str(tmp_path)) + LOCAL
    assert load({}, {}, file=written(tmp_path, good)).shared
    (says,) = problems({}, {}, written(tmp_path, good.replace(right, wrong, 1)))
    assert f": {key}: " in says
    assert way_out in says


@pytest.mark.parametrize(
    ("peer", "told", "address"),
    [
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["1.1.1.1, 198.51.100.1, 10.0.0.3"], "198.51.100.1"),
        ("127.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1, nonsense"], "127.0.0.1"),
        ("::ffff:127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_where_a_request_comes_from(peer: str, told: list[str], address: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in told]
    scope = {"type": "http", "client": (peer, 1), "headers": headers}
    peers = Peers(["127.0.0.1/32", "10.0.0.0/28"])
    assert peers.address(HTTPConnection(scope)) == address
