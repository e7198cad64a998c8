"""The documents say what the server is, and every answer of the tests is as they say."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from protocol.route import JSON, OF_RUN
from protocol.route import Route as Told
from protocol.routes import ROUTES
from server.cli import main
from server.contracts import CONTRACTS
from server.http import rest
from tests.server.contracts import Fault, rest_contract, socket_contract
from tests.server.harness import TOKEN, House, house, plain_http

MISSING = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


def real_routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The method and path of every route of an application, but for the files of the page."""
    for route in routes:
        match route:
            case WebSocketRoute(path=path):
                yield "GET", prefix + path
            case Route(path=path, methods=methods):
                yield from ((method, prefix + path) for method in (methods or set()) - {"HEAD"})
            case Mount(app=StaticFiles()):
                pass
            case Mount(path=path, routes=inner):
                yield from real_routes(inner, prefix + path)
            case _:
                raise AssertionError(f"a route of an unknown kind: {route!r}")


async def test_the_table_has_the_routes_that_the_server_has(home: House) -> None:
    real = set(real_routes(home.podium.app.routes))
    told = {(route.method, route.path) for route in ROUTES}
    assert real - told == set(), "add a Route for each of these to ROUTES in protocol/routes.py"
    assert told - real == set(), "protocol/routes.py has routes that the server does not have"


async def test_the_documents_are_served_to_everybody(home: House) -> None:
    async with plain_http(base_url=home.url) as stranger:
        for path, version in (("/openapi.json", "openapi"), ("/asyncapi.json", "asyncapi")):
            answer = await stranger.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == JSON
            assert version in answer.json()
            tag = {"If-None-Match": f'"other", {answer.headers["etag"]}'}
            again = await stranger.get(path, headers=tag)
            assert (again.status_code, again.content) == (304, b"")
            other = await stranger.get(path, headers={"If-None-Match": '"other"'})
            assert other.content == answer.content


async def test_the_documents_name_the_public_address(tmp_path: Path) -> None:
    public = "https://example.org/podium"
    async with house(tmp_path, public_url=public) as home:
        openapi = (await home.http.get("/openapi.json")).json()
        asyncapi = (await home.http.get("/asyncapi.json")).json()
    assert openapi["servers"] == [{"url": public}]
    socket = asyncapi["servers"]["socket"]
    assert (socket["protocol"], socket["host"], socket["pathname"]) == (
        "wss", "example.org", "/podium",
    )  # fmt: skip


async def test_answers_and_frames_of_the_harness_are_checked(home: House) -> None:
    before = home.watched.answers
    run_id = await home.launch()
    frames = await home.end_of(run_id)
    events = await home.http.get(f"/api/runs/{run_id}/events")
    recording = await home.http.get(f"/api/runs/{run_id}/recording")
    for path in (f"/api/runs/{run_id}/report.md", "/api/runs/no-id", f"/api/runs/{MISSING}"):
        await home.http.get(path)
    assert len(frames) > 20
    assert events.text.count("data: ") >= len(frames)
    assert len(recording.text.splitlines()) == len(frames) + 1
    assert home.watched.answers - before == 7, "six answers, and one socket"


async def test_a_changed_body_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = {"id": MISSING, "path": "/", "name": "", "created_at": ""}
    bodies: list[Any] = [
        {"projects": [project | {"id": 1}]},
        {"projects": [project | {"undocumented": 1}]},
        {"projects": [{"id": MISSING}]},
        {"projects": [], "undocumented": 1},
        {"error": "not_found", "message": "m"},
        [],
    ]
    with pytest.raises(Fault) as caught:
        async with house(tmp_path) as home:
            for body in [{"projects": [project]}, *bodies]:
                monkeypatch.setattr(rest, "ProjectList", lambda _, body=body: body)
                assert (await home.http.get("/api/projects")).json() == body
    faults = str(caught.value).splitlines()
    assert len(faults) == len(bodies)
    assert all(fault.startswith("GET /api/projects: 200") for fault in faults)


async def test_an_undocumented_status_code_or_media_type_is_a_fault(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        document = (await home.http.get("/openapi.json")).content
    check = rest_contract(document).check
    error = json.dumps({"error": "not_found", "message": "m"}).encode()
    check("GET", f"/api/runs/{MISSING}/report.md", 404, JSON, error)
    check("GET", "/api/flows", 401, JSON, error.replace(b"not_found", b"unauthenticated"))
    check("PUT", "/api/flows", 405, "text/plain", b"Method Not Allowed")
    check("GET", "/api/ws-ticket", 404, "text/plain", b"Not Found")
    check("GET", "/style.css", 404, "text/plain", b"Not Found")
    for method, status, media, body in (
        ("GET", 404, JSON, error),
        ("GET", 401, JSON, error),
        ("GET", 200, "text/plain", b"{}"),
        ("GET", 200, JSON, b"{"),
        ("GET", 500, "text/plain", b"Internal Server Error"),
        ("PUT", 200, JSON, b"{}"),
    ):
        with pytest.raises(Fault):
            check(method, "/api/flows", status, media, body)
    with pytest.raises(Fault):
        check("GET", f"/api/runs/{MISSING}/events", 204, "", b"a body")
    with pytest.raises(Fault):
        check("GET", f"/api/runs/{MISSING}/events", 200, "text/event-stream", b'data: {"a": 1}\n\n')


async def test_an_undocumented_frame_is_a_fault(home: House) -> None:
    contract = socket_contract((await home.http.get("/asyncapi.json")).content)
    frame = {"type": "flow_run_caught_up", "run_id": MISSING, "seq": 1}
    contract.check(frame)
    wrong: tuple[dict[str, Any], ...] = ({"type": "flow_run_new"}, {"seq": "1"}, {"more": 1})
    for change in wrong:
        with pytest.raises(Fault):
            contract.check(frame | change)


def asked(route: Told, run_id: str) -> tuple[str, str]:
    """The method and an address of a route."""
    path = route.path.replace("{id}", run_id)
    return route.method, re.sub(r"\{\w+\}", "anything", path)


SIGNED_IN = [route for route in ROUTES if route.signed_in]
WITH_BODY = [route for route in ROUTES if route.body is not None]
OF_ONE_RUN = [route for route in ROUTES if route.path.startswith(OF_RUN)]
QUERIES = [
    (route, it) for route in ROUTES for it in route.parameters if it.place == "query" and it.checked
]


async def test_strangers_are_answered_as_the_table_says(home: House) -> None:
    foreign = {"Origin": "https://evil.example"}
    async with plain_http(base_url=home.url) as stranger:
        for route in SIGNED_IN:
            address = asked(route, MISSING)
            assert (await stranger.request(*address)).status_code == 401, address
            refused = await home.http.request(*address, headers=foreign)
            assert refused.status_code == 403, address


async def test_wrong_requests_are_answered_as_the_table_says(home: House) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    for route in OF_ONE_RUN:
        for wrong, status in (("no-id", 400), (MISSING, 404)):
            answer = await home.http.request(*asked(route, wrong))
            assert answer.status_code == status, (route.name, wrong)
    for route, parameter in QUERIES:
        answer = await home.http.request(*asked(route, run_id), params={parameter.name: "!"})
        assert answer.status_code == 400, (route.name, parameter.name)
    for route in WITH_BODY:
        for content, kind, status in (
            (b"[]", JSON, 400), (b"{", JSON, 400), (b"{}", "text/plain", 415),
            (b" " * (1024 * 1024 + 1), JSON, 413),
        ):  # fmt: skip
            answer = await home.http.request(
                *asked(route, run_id), content=content, headers={"Content-Type": kind}
            )
            assert answer.status_code == status, (route.name, kind, content[:2])


@pytest.mark.parametrize("levels", [65, 5_000])
async def test_a_plan_with_a_value_nested_too_deeply_is_refused(home: House, levels: int) -> None:
    deep = "[" * levels + "]" * levels
    body = f'{{"project_id": "{home.project_id}", "input": {{"x": {deep}}}}}'
    answer = await home.http.post("/api/plans", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid body"


@pytest.mark.parametrize("public", ["", "https://example.org", "https://example.org/podium"])
async def test_the_cookie_is_the_one_that_is_set(tmp_path: Path, public: str) -> None:
    async with house(tmp_path, public_url=public) as home:
        origin = {"Origin": "https://example.org"} if public else {}
        opened = await home.http.post("/api/session", json={"token": TOKEN}, headers=origin)
        for path in ("/openapi.json", "/asyncapi.json"):
            document = (await home.http.get(path)).json()
            told = document["components"]["securitySchemes"]["cookie"]["name"]
            assert opened.headers["set-cookie"].startswith(f"{told}=")


async def test_answers_below_the_path_of_the_public_address_are_checked(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="GET /api/flows: 500"):
        async with house(tmp_path, public_url="https://example.org/podium") as home:
            assert (await home.http.get("/podium/api/flows")).status_code == 200
            contract = home.watched.contract
            assert contract is not None
            contract.check("GET", "/podium/api/flows", 500, JSON, b"{}")


@pytest.mark.parametrize("form", CONTRACTS)
def test_the_command_prints_each_contract(form: str) -> None:
    printed = CliRunner().invoke(main, ["schema", form])
    assert printed.exit_code == 0
    made = CONTRACTS[form]()
    if form == "typescript":
        assert printed.stdout_bytes == made
    else:
        assert json.loads(printed.stdout) == json.loads(made)
    if form == "json-schema":
        assert CliRunner().invoke(main, ["schema"]).stdout == printed.stdout
