"""`public_url` with a path: every way to the server works with it, without it, and directly."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from protocol.frames import FlowRunFinished, FlowRunReport
from protocol.ids import RunId
from server.client import Client
from server.commands.doctor.examine import _server
from server.commands.keep_serving import page_address
from server.http.allow_list import allow_list_of
from server.http.page import Page
from server.http.public import BelowPath, Cookie, SessionCookie
from server.local import ServerFile
from server.settings import Settings
from tests.server.harness import TOKEN, House, house, plain_http

PUBLIC = "https://tools.example.com/podium"
HOST = "tools.example.com"
ORIGIN = "https://tools.example.com"
WAYS = ["/podium", ""]
"""Behind a proxy that hands the path on, and behind one that takes it off."""
SECURE = Cookie("__Secure-podium_session", "/podium", secure=True)
DIRECT = Cookie("podium_session", "/", secure=False)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, public_url=PUBLIC) as opened_house:
        yield opened_house


@pytest.fixture
async def browser(home: House) -> AsyncIterator[httpx.AsyncClient]:
    """As the proxy hands it on: signed in by nothing yet."""
    headers = {"Host": HOST, "Origin": ORIGIN}
    async with plain_http(base_url=home.url, headers=headers) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
async def test_every_kind_of_route_answers_both_ways(
    home: House, browser: httpx.AsyncClient, way: str
) -> None:
    page = await browser.get(f"{way}/")
    assert (page.status_code, "<title>podium" in page.text) == (200, True)
    assert (await browser.get(f"{way}/pane.js")).status_code == 200
    assert (await browser.get(f"{way}/healthz")).json()["status"] == "ok"
    assert (await browser.get(f"{way}/api/projects")).status_code == 401
    session = await browser.post(f"{way}/api/session", json={"token": TOKEN})
    assert session.status_code == 200
    name, _, rest = session.headers["set-cookie"].partition("=")
    cookie = {"Cookie": f"{name}={rest.partition(';')[0]}"}
    assert (await browser.get(f"{way}/api/projects", headers=cookie)).status_code == 200
    run_id = await home.launch()
    await home.end_of(run_id)
    events = await browser.get(f"{way}/api/runs/{run_id}/events", headers=cookie)
    assert "flow_run_finished" in events.text
    address = home.url.replace("http", "ws") + f"{way}/api/ws"
    given = {**cookie, "Origin": ORIGIN}
    async with connect(
        address, additional_headers=given, subprotocols=["podium.v1"], proxy=None  # type: ignore[list-item]
    ) as socket:  # fmt: skip
        assert "flow_run_hello" in str(await socket.recv())
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, additional_headers={**given, "Origin": "https://evil.example"}):
            pass
    assert refused.value.response.status_code == 403


async def test_the_bare_path_leads_to_the_page(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/podium")
    assert (answer.status_code, answer.headers["location"]) == (308, "/podium/")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/podiumx/", "/podium/podium/", "/other/healthz"])
async def test_no_other_path_is_taken_for_it(browser: httpx.AsyncClient, path: str) -> None:
    assert (await browser.get(path)).status_code == 404


async def test_a_path_that_is_not_named_is_none(tmp_path: Path) -> None:
    async with house(tmp_path) as plain:
        assert (await plain.http.get("/podium/healthz")).status_code == 404


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_path_is_handed_on_whole(kind: str) -> None:
    """ASGI: `root_path` is a part of `path`."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def nothing(*_: Message) -> Message:
        raise AssertionError

    scope = {"type": kind, "path": "/podium/api/ws", "root_path": ""}
    await BelowPath(app, "/podium")(scope, nothing, nothing)  # type: ignore[arg-type]
    assert (seen[0]["root_path"], seen[0]["path"]) == ("/podium", "/podium/api/ws")
    assert scope["root_path"] == "", "the server's own scope stays as it is"


@pytest.mark.parametrize("way", WAYS)
async def test_a_program_follows_a_run_to_its_report(home: House, way: str) -> None:
    run_id = RunId(await home.launch())
    async with Client(f"{home.url}{way}/", TOKEN) as client:
        frames = [frame async for frame in client.follow(run_id)]
        (report,) = [frame for frame in frames if isinstance(frame, FlowRunReport)]
        assert isinstance(frames[-1], FlowRunFinished)
        # As every path of the wire, it is below the address of the server.
        assert (await client.text(report.url)).startswith("# ")
        assert (await client.get("/api/projects"))["projects"]


# ── the cookie ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("public_url", "headers", "cookie"),
    [
        (PUBLIC, {"host": HOST, "origin": ORIGIN}, SECURE),
        (PUBLIC, {"host": HOST}, SECURE),
        (PUBLIC, {"host": "127.0.0.1:8765", "origin": ORIGIN}, SECURE),
        (PUBLIC, {"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:8765"}, DIRECT),
        (PUBLIC, {"host": "[::1]:8765"}, DIRECT),
        (PUBLIC, {"host": "10.0.0.1:8765"}, SECURE),
        (f"{PUBLIC}/", {"host": HOST}, SECURE),
        ("https://p.example.com", {"host": "p.example.com"},
         Cookie("__Host-podium_session", "/", secure=True)),
        ("http://p.example.com/a/b", {"host": "p.example.com"},
         Cookie("podium_session", "/a/b", secure=False)),
        ("http://127.0.0.1:8080/podium", {"host": "127.0.0.1:8080",
         "origin": "http://127.0.0.1:8080"}, Cookie("podium_session", "/podium", secure=False)),
        ("", {"host": "localhost:8765", "origin": "http://localhost:8765"}, DIRECT),
    ],
)  # fmt: skip
def test_the_cookie_is_that_of_the_address(
    public_url: str, headers: dict[str, str], cookie: Cookie
) -> None:
    assert SessionCookie(public_url).written(Headers(headers)) == cookie


@pytest.mark.parametrize(
    ("headers", "cookies", "value"),
    [
        ({"host": HOST}, {SECURE.name: "a"}, "a"),
        ({"host": HOST}, {DIRECT.name: "a"}, None),  # a sibling may have set it, or a plain page
        ({"host": "127.0.0.1:1"}, {SECURE.name: "a"}, "a"),  # a proxy has changed the Host
        ({"host": "127.0.0.1:1"}, {DIRECT.name: "a"}, "a"),
        ({"host": "127.0.0.1:1", "origin": ORIGIN}, {DIRECT.name: "a"}, None),
        ({"host": HOST}, {}, None),
    ],
)
def test_only_the_bound_name_counts(
    headers: dict[str, str], cookies: dict[str, str], value: str | None
) -> None:
    assert SessionCookie(PUBLIC).read(Headers(headers), cookies) == value


async def test_no_sibling_on_the_host_is_sent_the_cookie(tmp_path: Path) -> None:
    """With a cookie jar as browsers have one; over plain http, which such a jar can be asked on."""
    async with house(tmp_path, public_url="http://127.0.0.1:1/podium") as home:
        headers = {"Origin": "http://127.0.0.1:1"}
        async with plain_http(base_url=home.url, headers=headers) as jar:
            await jar.post("/podium/api/session", json={"token": TOKEN})
            assert (await jar.get("/podium/api/projects")).status_code == 200
            sent = [
                "cookie" in jar.build_request("GET", path).headers
                for path in ("/podium/", "/podium/api/ws", "/", "/other/", "/podiumx/")
            ]
    assert sent == [True, True, False, False, False]


async def test_the_flags_are_set(home: House) -> None:
    headers = {"Host": HOST, "Origin": ORIGIN}
    answer = await home.http.post("/api/session", json={"token": TOKEN}, headers=headers)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Secure-podium_session=")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"path=/podium", "secure", "httponly", "samesite=strict"} < parts


# ── origins and links ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("public_url", "origin"),
    [
        (PUBLIC, "https://tools.example.com"),
        ("https://Tools.example.com:443/podium/", "https://tools.example.com"),
        ("http://tools.example.com:80", "http://tools.example.com"),
        ("https://tools.example.com:8443/podium", "https://tools.example.com:8443"),
        ("https://[::1]:443/podium", "https://[::1]"),
    ],
)
def test_the_origin_is_as_browsers_write_it(public_url: str, origin: str) -> None:
    settings = Settings(public_url=public_url, allowed_origins=["https://a.example:443"])
    assert allow_list_of(settings).origins == {"https://a.example", origin}


def test_links_for_people_are_public() -> None:
    place = ServerFile(url="http://127.0.0.1:8765", page=PUBLIC, token="secret", pid=1)
    assert page_address(place, RunId("r")) == f"{PUBLIC}/#run=r"
    old = ServerFile(url="http://127.0.0.1:8765", token="secret", pid=1)
    assert page_address(old, RunId("r")) == "http://127.0.0.1:8765/#run=r"


async def test_doctor_names_both_addresses(tmp_path: Path) -> None:
    async with house(tmp_path, public_url=PUBLIC) as home:
        place = ServerFile(url=home.url, page=PUBLIC, token=TOKEN, pid=os.getpid())
        await asyncio.to_thread(place.write, tmp_path / "data")
        found = await _server(Settings(data=str(tmp_path / "data")))
    assert found.well
    assert home.url in found.says
    assert f"{PUBLIC}/" in found.says


ODD = ["/x/%2e%2e", "//evil.example/%2e%2e", "/%2e", "/x/%2e%2e?next=//evil.example"]
"""Ways to the page's folder that do not end with a slash."""


@pytest.mark.parametrize(("public_url", "home_of_it"), [(PUBLIC, "/podium/"), ("", "/")])
async def test_a_redirect_leads_nowhere_but_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, public_url: str, home_of_it: str
) -> None:
    async with house(tmp_path, public_url=public_url) as home:

        async def locations() -> list[str]:
            evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
            async with httpx.AsyncClient(base_url=home.url, headers=evil, trust_env=False) as any_:
                answers = [await any_.get(httpx.URL(home.url + path)) for path in ODD]
            return [answer.headers["location"] for answer in answers]

        assert await locations() == [home_of_it] * len(ODD)
        page = await home.http.get(home_of_it)
        assert "<title>podium" in page.text
        monkeypatch.setattr(Page, "get_response", StaticFiles.get_response)
        assert all("evil.example" in it for it in await locations()), "without the guard"
