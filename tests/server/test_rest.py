"""The routes, on a real port: bodies and statuses are part of the contract."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.ports import AgentUnavailable
from tests.server.harness import TOKEN, House, house, plain_http

RUN_KEYS = [
    "id", "project_id", "flow_name", "band", "model", "status", "input", "report", "error",
    "created_at", "updated_at",
]  # fmt: skip
STEP_KEYS = [
    "id", "run_id", "step_id", "kind", "agent", "status", "task_id", "chat_id", "input", "output",
    "error", "created_at", "updated_at", "session_id",
]  # fmt: skip
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


async def test_launch_get_list(home: House) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    found = (await home.http.get(f"/api/runs/{run_id}")).json()
    assert list(found["run"]) == RUN_KEYS
    assert found["run"]["status"] == "completed"
    assert found["run"]["input"] == {"question": "errors", "paths": ["src"], "extra": [1]}
    assert found["run"]["report"]["complete"] is True
    assert all(list(step) == STEP_KEYS for step in found["steps"])
    names = [step["step_id"] for step in found["steps"]]
    assert names[:2] == ["review.general.1", "review.security"]
    assert names[-1] == "report"
    second = await home.launch()
    listed = (await home.http.get("/api/runs", params={"project_id": home.project_id})).json()
    assert [run["id"] for run in listed["runs"]] == [second, run_id]
    older = (await home.http.get("/api/runs", params={"before": second})).json()
    assert [run["id"] for run in older["runs"]] == [run_id]
    assert (await home.http.get("/api/runs", params={"project_id": NOBODY})).json() == {"runs": []}


async def test_a_command_launches_as_fields_do(home: House) -> None:
    body = {"project_id": home.project_id, "command": "/code-review small src"}
    key = {"Idempotency-Key": "by-command"}
    answers = [await home.http.post("/api/runs", json=body, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    run_id = answers[0].json()["run_id"]
    run = (await home.http.get(f"/api/runs/{run_id}")).json()["run"]
    assert (run["flow_name"], run["band"]) == ("code-review", "small")
    for command, status in (("/nope", 422), ("hello", 422), ("/flows", 422)):
        refused = await home.http.post("/api/runs", json=body | {"command": command})
        assert refused.status_code == status, refused.text
    assert "the flows: /code-review" in refused.json()["hint"]
    await home.end_of(run_id)


async def test_the_same_key_is_the_same_run(home: House) -> None:
    key = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(home.http.post("/api/runs", json=home.body(), headers=key) for _ in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    other = home.body(band="medium")
    conflict = await home.http.post("/api/runs", json=other, headers=key)
    assert conflict.status_code == 409
    assert conflict.json()["error"] == "key_conflict"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"project_id": "x"}, "project_id"),
        ({"flow_name": ""}, "flow_name"),
        ({"flow_name": "f" * 101}, "flow_name"),
        ({"band": "huge"}, "band"),
        ({"input": {}}, "input"),
        ({"input": {"question": "q" * 64_001}}, "input"),
        ({"model": "m" * 201}, "model"),
    ],
)
async def test_a_wrong_field_is_named(home: House, change: dict[str, Any], field: str) -> None:
    answer = await home.http.post("/api/runs", json=home.body(**change))
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid body"
    assert list(answer.json()["details"]["fieldErrors"]) == [field]


async def test_wrong_bodies(home: House) -> None:
    for content in (b"[]", b"{", b"\xff"):
        answer = await home.http.post("/api/runs", content=content)
        assert answer.status_code == 400
        assert answer.json()["details"]["formErrors"]
    text = {"Content-Type": "text/plain"}
    assert (await home.http.post("/api/runs", content=b"{}", headers=text)).status_code == 415
    huge = await home.http.post("/api/runs", content=b" " * (1024 * 1024 + 1))
    assert huge.status_code == 413
    unknown = await home.http.post("/api/runs", json=home.body(flow_name="nope"))
    assert unknown.status_code == 422
    assert unknown.json()["error"] == "unknown_flow"
    assert unknown.json()["known_flows"] == ["code-review", "issue-triage"]
    nowhere = await home.http.post("/api/runs", json=home.body(project_id=NOBODY))
    assert nowhere.status_code == 404
    assert nowhere.json()["error"] == "not_found"
    assert (await home.http.get("/api/runs")).json() == {"runs": []}, "nothing was stored"


async def test_ids_and_queries(home: House) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel")):
        bad = await home.http.request(method, f"/api/runs/xyz{path}")
        assert (bad.status_code, bad.json()) == (400, {"error": "invalid id"})
        none = await home.http.request(method, f"/api/runs/{NOBODY}{path}")
        assert (none.status_code, none.json()) == (404, {"error": "run not found"})
    query = await home.http.get("/api/runs", params={"project_id": "x"})
    assert query.status_code == 400
    assert query.json()["error"] == "invalid query"


async def test_cancel(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    first = await home.http.post(f"/api/runs/{run_id}/cancel")
    assert (first.status_code, first.json()) == (200, {"cancelled": True})
    frames = await home.end_of(run_id)
    assert frames[-1]["status"] == "cancelled"
    assert home.agent.running == set()
    again = await home.http.post(f"/api/runs/{run_id}/cancel")
    assert again.status_code == 409
    assert again.json() == {"error": "cannot cancel run in status 'cancelled'"}
    report = (await home.http.get(f"/api/runs/{run_id}/report.json")).json()
    assert report["complete"] is False


async def test_finish_and_rerun(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    early = await home.http.get(f"/api/runs/{run_id}/report.md")
    assert early.status_code == 404
    assert (await home.http.post(f"/api/runs/{run_id}/rerun", json={})).status_code == 409
    assert (await home.http.post(f"/api/runs/{run_id}/finish")).status_code == 200
    home.agent.release()
    assert (await home.end_of(run_id))[-1]["status"] in ("completed", "partial")
    assert (await home.http.post(f"/api/runs/{run_id}/finish")).status_code == 409
    body = {"key": "again", "steps": ["review.security"]}
    rerun = await home.http.post(f"/api/runs/{run_id}/rerun", json=body)
    assert rerun.status_code == 201
    frames = await home.end_of(rerun.json()["run_id"])
    assert frames[0]["parent_run_id"] == run_id
    reused = {frame["step_id"] for frame in frames if frame.get("reused")}
    assert "review.general.1" in reused
    assert "review.security" not in reused


async def test_reports_plans_flows(home: House) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    text = await home.http.get(f"/api/runs/{run_id}/report.md")
    assert text.headers["content-type"].startswith("text/markdown")
    assert text.text.count("## Coverage") == 1
    plan = {"project_id": home.project_id, "command": "/code-review small src"}
    first, second = [(await home.http.post("/api/plans", json=plan)).json() for _ in range(2)]
    assert first["plan"]["plan_id"] == second["plan"]["plan_id"], "planning is deterministic"
    flows = (await home.http.get("/api/flows")).json()["flows"]
    assert [flow["name"] for flow in flows] == ["code-review", "issue-triage"]


async def test_projects_that_cannot_be_one(home: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, why in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "data" / "trees", "lies inside"),
        (tmp_path, "contains"),
    ):
        (tmp_path / "data" / "trees").mkdir(exist_ok=True)
        answer = await home.http.post("/api/projects", json={"path": str(path)})
        assert answer.status_code == 422
        assert answer.json()["field"] == "path"
        assert why in answer.json()["message"]


async def test_a_relative_path_is_no_project(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No client knows where the server stands, and none may find out what is there."""
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path)
    before = (await home.http.get("/api/projects")).json()
    for path in ("shop", "./shop", "", ".", "~", "../etc"):
        answer = await home.http.post("/api/projects", json={"path": path})
        assert (answer.status_code, answer.json()["field"]) == (422, "path")
        assert "no absolute path" in answer.json()["message"]
        assert "from `/` on" in answer.json()["hint"]
    assert (await home.http.get("/api/projects")).json() == before
    same = await home.http.post("/api/projects", json={"path": str(tmp_path / "shop")})
    assert same.status_code == 200, "the folder is there, and may be a project"


async def test_an_error_repeats_no_more_of_a_path_than_a_person_reads(home: House) -> None:
    for path in ("x" * 100_000, "/" + "x" * 100_000, "/x" * 50_000, "/\0" + "é" * 50_000):
        answer = await home.http.post("/api/projects", json={"path": path})
        assert answer.status_code == 422
        assert len(answer.content) < 1_000


async def test_no_agent_no_run(home: House) -> None:
    home.agent.unavailable = AgentUnavailable("qwen_missing", "no qwen", hint="podium setup")
    answer = await home.http.post("/api/runs", json=home.body())
    assert answer.status_code == 503
    assert answer.json()["error"] == "agent_unavailable"
    assert answer.json()["hint"] == "podium setup"
    assert (await home.http.get("/api/runs")).json() == {"runs": []}
    ready = await home.http.get("/readyz")
    assert ready.json()["agent"] == {
        "available": False, "reason": "qwen_missing", "hint": "podium setup",
    }  # fmt: skip


async def test_strangers_stay_out(home: House) -> None:
    async with plain_http(base_url=home.url) as stranger:
        assert (await stranger.get("/api/runs")).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await stranger.get("/api/runs", headers=wrong)).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        foreign = {**right, "Origin": "https://evil.example"}
        assert (await stranger.get("/api/runs", headers=foreign)).status_code == 403
        rebound = {**right, "Host": "evil.example"}
        assert (await stranger.get("/api/runs", headers=rebound)).status_code == 403
        assert (await stranger.post("/api/session", json={"token": "x"})).status_code == 401
        assert (await stranger.post("/api/session", json={"token": TOKEN})).status_code == 200
        assert (await stranger.get("/api/runs")).status_code == 200
        without_origin = await stranger.post("/api/plans", json={})
        assert without_origin.status_code == 403, "a cookie alone changes nothing"
        own = {"Origin": home.url}
        assert (await stranger.post("/api/plans", json={}, headers=own)).status_code == 422
        cookie = next(iter(stranger.cookies.jar))
        assert cookie.has_nonstandard_attr("HttpOnly")
        stranger.cookies.set("podium_session", "9999999999.0000")
    page = await home.http.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
