"""The sign-in of a proxy: Debian's nginx asks a server that answers as oauth2-proxy does."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from websockets.exceptions import InvalidStatus

from tests.fakes.model import serving
from tests.integration.proxies import Proxy, listener, nginx
from tests.server.harness import TOKEN, House
from tests.server.people import admit, shared_house

ANN, BEN = "ann@example.com", "ben@example.com"
PEOPLE = {"_oauth2_proxy=ann": ANN, "_oauth2_proxy=ben": BEN}
"""Who has signed in, by the cookie of oauth2-proxy's."""
FORGED = {
    "X-Forwarded-User": ANN, "X-Forwarded-Email": ANN, "X-Auth-Request-User": ANN,
    "X-Auth-Request-Email": ANN, "Remote-User": ANN, "X_Forwarded_User": ANN,
}  # fmt: skip
BY_PROXY = "127.0.0.2"
"""nginx asks podium from this address, so that the test itself is somebody else."""


class Asked:
    """oauth2-proxy's two routes that nginx uses, and what it was asked."""

    def __init__(self) -> None:
        self.headers: list[Mapping[str, str]] = []
        self.app = Starlette(
            routes=[
                Route("/podium/oauth2/auth", self.auth),
                Route("/podium/oauth2/start", self.start),
            ]
        )

    async def auth(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        name = PEOPLE.get(request.headers.get("cookie", ""))
        if name is None:
            return Response("Unauthorized", 401)
        headers = {"X-Auth-Request-Email": name, "X-Auth-Request-User": "42"}
        return Response(status_code=202, headers=headers | {"Set-Cookie": "_oauth2_proxy=renewed"})

    async def start(self, request: Request) -> Response:
        back = request.query_params["rd"]
        return RedirectResponse(f"https://provider.example/authorize?state={back}")


@asynccontextmanager
async def behind(place: Path, **changes: str) -> AsyncIterator[tuple[House, Proxy, Asked]]:
    asked = Asked()
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(closing(listener()))
        public = f"https://tools.example.com:{listening.getsockname()[1]}/podium"
        sign_in = urlsplit(await stack.enter_async_context(serving(asked.app))).netloc
        home = await stack.enter_async_context(
            shared_house(
                place, public_url=public, trusted_proxies=[f"{BY_PROXY}/32"],
                proxy_user_header="X-Forwarded-User",
            )
        )  # fmt: skip
        proxy = await stack.enter_async_context(
            nginx(
                place / "nginx", listening, urlsplit(home.url).netloc,
                recipe="podium-oauth2-proxy.conf",
                changes={
                    "127.0.0.1:4180": sign_in,
                    "include snippets": f"proxy_bind {BY_PROXY}; include snippets",
                    **changes,
                },
            )
        )  # fmt: skip
        await admit(home, ANN, place / "project")
        yield home, proxy, asked


def ann(proxy: Proxy, **more: str) -> dict[str, str]:
    return {"Cookie": "_oauth2_proxy=ann", "Origin": proxy.origin, **more}


async def test_whoever_signed_in_there_is_somebody_here(tmp_path: Path) -> None:
    async with behind(tmp_path) as (home, proxy, asked), proxy.http() as browser:
        page = await browser.get("/podium/", headers={"Cookie": "_oauth2_proxy=ann"})
        assert (page.status_code, "<title>podium" in page.text) == (200, True)
        assert page.headers["set-cookie"] == "_oauth2_proxy=renewed"
        session = (await browser.get("/podium/api/session", headers=ann(proxy))).json()
        assert (session["user_id"], session["way"]) == (ANN, "proxy")
        launched = await browser.post("/podium/api/runs", json=home.body(), headers=ann(proxy))
        assert launched.status_code == 201
        async with proxy.socket(**ann(proxy)) as socket:
            assert json.loads(await socket.recv())["user_id"] == ANN
            subscribe = {"type": "subscribe", "id": "1", "run_id": launched.json()["run_id"]}
            await socket.send(json.dumps(subscribe))
            kinds = [json.loads(await socket.recv())["type"] for _ in range(3)]
        assert kinds[:2] == ["flow_run_ack", "flow_run_subscribed"]
    assert all("content-length" not in headers for headers in asked.headers), "no body is handed on"


async def test_a_stranger_is_sent_to_the_sign_in_and_programs_are_told(tmp_path: Path) -> None:
    async with behind(tmp_path) as (_, proxy, _), proxy.http() as browser:
        page = await browser.get("/podium/")
        assert page.status_code == 302
        assert page.headers["location"].startswith("https://provider.example/")
        assert (await browser.get("/podium/api/runs")).status_code == 401
        with pytest.raises(InvalidStatus) as refused:
            async with proxy.socket(Origin=proxy.origin):
                pass
        assert refused.value.response.status_code == 401


async def test_who_is_no_user_here_stays_out(tmp_path: Path) -> None:
    async with behind(tmp_path) as (_, proxy, _), proxy.http() as browser:
        ben = {"Cookie": "_oauth2_proxy=ben", "Origin": proxy.origin}
        assert (await browser.get("/podium/api/runs", headers=ben)).status_code == 403


async def test_nobody_names_himself(tmp_path: Path) -> None:
    async with behind(tmp_path) as (_, proxy, _), proxy.http(**FORGED) as forger:
        assert (await forger.get("/podium/api/runs")).status_code == 401
        ben = {"Cookie": "_oauth2_proxy=ben", "Origin": proxy.origin}
        assert (await forger.get("/podium/api/runs", headers=ben)).status_code == 403
        session = (await forger.get("/podium/api/session", headers=ann(proxy))).json()
        assert session["user_id"] == ANN
        with pytest.raises(InvalidStatus) as refused:
            async with proxy.socket(Origin=proxy.origin, **FORGED):
                pass
        assert refused.value.response.status_code == 401


async def test_without_the_snippet_he_would(tmp_path: Path) -> None:
    """Where nginx hands the client's own header on, and asks nobody."""
    changes = {
        "auth_request /podium/oauth2/auth;": "",
        "/podium-proxy.conf;": "/careless.conf;",
    }
    async with behind(tmp_path, **changes) as (_, proxy, _), proxy.http(**FORGED) as forger:
        answer = await forger.get("/podium/api/session")
        assert (answer.status_code, answer.json()["user_id"]) == (200, ANN)


async def test_past_the_proxy_the_header_is_no_sign_in(tmp_path: Path) -> None:
    async with behind(tmp_path) as (home, proxy, _):
        direct = {"X-Forwarded-User": ANN, "Origin": proxy.origin, "Authorization": ""}
        for headers in (direct, direct | {"Cookie": "_oauth2_proxy=ann"}):
            answer = await home.http.get("/api/runs", headers=headers)
            assert answer.status_code in (401, 403)
        with pytest.raises(InvalidStatus) as refused:
            async with home.socket(**{"X-Forwarded-User": ANN, "Origin": proxy.origin}):
                pass
        assert refused.value.response.status_code in (401, 403)


async def test_another_sites_page_cannot_use_the_sign_in(tmp_path: Path) -> None:
    async with behind(tmp_path) as (home, proxy, _), proxy.http() as browser:
        for origin in ("https://evil.example", ""):
            headers = ann(proxy, Origin=origin)
            if not origin:
                del headers["Origin"]
            answer = await browser.post("/podium/api/runs", json=home.body(), headers=headers)
            assert answer.status_code == 403


async def test_programs_with_a_token_may_be_let_through(tmp_path: Path) -> None:
    line = 'if ($http_authorization ~ "^Bearer ") { return 204; }'
    async with behind(tmp_path, **{f"# {line}": line}) as (_, proxy, _), proxy.http() as program:
        bearer: dict[str, Any] = {"Authorization": f"Bearer {TOKEN}"}
        right = await program.get("/podium/api/session", headers=bearer)
        assert (right.status_code, right.json()["way"]) == (200, "bearer")
        wrong = {"Authorization": "Bearer wrong", **FORGED}
        assert (await program.get("/podium/api/session", headers=wrong)).status_code == 401
