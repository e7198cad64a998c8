"""The operator's routes, the guards of settings for several users, and what is kept of a token."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from protocol.ids import RunId, UserId
from server.settings import SettingsError
from server.stores import migrate, rows
from server.stores.sqlite import FILE
from server.users.accounts import MAX_TOKENS, Accounts
from tests.contract.test_store import new_run
from tests.fakes.agent import FakeAgent
from tests.server.harness import House, house
from tests.server.people import admit, shared_house
from tests.server.test_sqlite import store_of


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with shared_house(tmp_path) as opened:
        yield opened


async def posted(home: House, path: str, **body: Any) -> tuple[int, str, str]:
    answer = await home.http.post(f"/api/users{path}", json=body)
    found = answer.json()
    return answer.status_code, str(found.get("error", "")), str(found.get("hint", ""))


async def test_a_user_from_the_first_day_to_the_last(home: House, tmp_path: Path) -> None:
    answer = await home.http.post(
        "/api/users", json={"name": "ann", "projects": [str(tmp_path / "project")], "days": 3}
    )
    made = answer.json()
    assert made["login_url"] == f"{home.url}/#token={made['token']}"
    assert [project["id"] for project in made["user"]["projects"]] == [home.project_id]
    (token,) = made["user"]["tokens"]
    assert token["id"] == made["token_id"]
    assert token["expires_at"] > token["created_at"]
    listed = (await home.http.get("/api/users")).json()["users"]
    assert [(user["id"], user["kind"]) for user in listed] == [
        ("local", "operator"), ("ann", "user"),
    ]  # fmt: skip
    second = (await home.http.post("/api/users/ann/tokens", json={"label": "laptop"})).json()
    assert second["token"] != made["token"]
    path = f"/api/users/ann/tokens/{second['token_id']}"
    for _ in range(2):
        gone = await home.http.delete(path)
        assert gone.status_code == 200, "revoking twice is revoking once"
    assert [bool(it["revoked_at"]) for it in gone.json()["tokens"]] == [False, True]
    first = (await home.http.delete("/api/users/ann")).json()
    again = (await home.http.delete("/api/users/ann")).json()
    assert first == again
    assert (first["projects"], bool(first["revoked_at"])) == ([], True)
    assert all(it["revoked_at"] for it in first["tokens"])
    back = await home.http.post("/api/users", json={"name": "ann", "again": True})
    assert back.status_code == 201
    assert [bool(it["revoked_at"]) for it in back.json()["user"]["tokens"]].count(False) == 1
    assert back.json()["user"]["projects"] == []


async def test_what_is_refused_says_the_way_out(home: House, tmp_path: Path) -> None:
    await admit(home, "ann")
    await admit(home, "chat", service=True)
    await admit(home, "gone")
    await home.http.delete("/api/users/gone")
    for path, body, status, error, hint in (
        ("", {"name": "ann"}, 409, "key_conflict", "podium user token ann"),
        ("", {"name": "Ann"}, 409, "key_conflict", "another name"),
        ("", {"name": "gone"}, 409, "key_conflict", "--again"),
        ("", {"name": "local"}, 409, "key_conflict", ""),
        ("", {"name": "a b"}, 400, "invalid body", ""),
        ("", {"name": "x" * 101}, 400, "invalid body", ""),
        ("", {"name": "eve", "days": 0}, 400, "invalid body", ""),
        ("", {"name": "eve", "label": "a\nb"}, 400, "invalid body", ""),
        ("", {"name": "eve", "projects": [str(tmp_path / "none")]}, 422, "bad_arguments", ""),
        ("", {"name": "eve", "projects": ["/etc"]}, 403, "forbidden", ""),
        ("", {"name": "eve", "service": True, "projects": ["/a"]}, 422, "bad_arguments", ""),
        ("/nobody/tokens", {}, 404, "not_found", "podium user list"),
        ("/local/tokens", {}, 403, "forbidden", "DIR/token"),
        ("/gone/tokens", {}, 409, "busy", "--again"),
        ("/gone/projects", {}, 409, "busy", "--again"),
        ("/ann/projects", {"remove": ["/none"]}, 404, "not_found", "podium user list"),
        ("/ann/projects", {"remove": ["/no\0ne"]}, 404, "not_found", "podium user list"),
        ("/chat/projects", {"add": [home.project_id]}, 422, "bad_arguments", ""),
    ):
        found = await posted(home, path, **body)
        assert found[:2] == (status, error), (path, body, found)
        assert hint in found[2], (path, body, found)
    assert (await home.http.delete("/api/users/local")).status_code == 403
    assert (await home.http.delete("/api/users/ann/tokens/none")).status_code == 404
    listed = (await home.http.get("/api/users")).json()["users"]
    assert [user["id"] for user in listed] == ["local", "ann", "chat", "gone"]


async def test_only_the_operator_changes_users(home: House, tmp_path: Path) -> None:
    ann = await admit(home, "ann", tmp_path / "project")
    answers = [
        await home.http.request(method, f"/api/users{path}", headers=ann.bearer)
        for method, path in (
            ("GET", ""), ("POST", ""), ("DELETE", "/ann"), ("DELETE", "/nobody"),
            ("POST", "/ann/tokens"), ("DELETE", "/ann/tokens/x"), ("POST", "/ann/projects"),
        )
    ]  # fmt: skip
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1


async def test_tokens_of_one_user_are_bounded(home: House) -> None:
    await admit(home, "ann")
    for _ in range(MAX_TOKENS - 1):
        assert (await posted(home, "/ann/tokens"))[0] == 201
    status, error, hint = await posted(home, "/ann/tokens")
    assert (status, error) == (409, "busy")
    assert "--token ID" in hint


async def test_a_revocation_goes_on_when_its_caller_leaves(home: House) -> None:
    ann = await admit(home, "ann")
    accounts: Accounts = home.podium.sign_in.accounts
    revoking = asyncio.create_task(accounts.revoke("ann"))
    await asyncio.sleep(0)
    revoking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await revoking
    assert accounts.directory.active("ann") is None
    assert (await home.http.get("/api/runs", headers=ann.bearer)).status_code == 401


# --- the settings of several users --------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "project_roots"),
        ({"project_roots": ["ROOT"], "containment": "off"}, "containment"),
    ],
)
async def test_settings_of_a_single_user_let_nobody_else_in(
    tmp_path: Path, settings: dict[str, Any], field: str
) -> None:
    if "project_roots" in settings:
        settings = settings | {"project_roots": [str(tmp_path)]}
    async with house(tmp_path, **settings) as home:
        answer = await home.http.post("/api/users", json={"name": "ann"})
        assert (answer.status_code, answer.json()["field"]) == (403, field)
        assert f"`{field} = " in answer.json()["hint"]
        assert "podium.toml" in answer.json()["hint"]
        assert len((await home.http.get("/api/users")).json()["users"]) == 1
    async with shared_house(tmp_path) as home:
        await admit(home, "ann")
    with pytest.raises(SettingsError, match=f": {field}: .*several users .ann"):
        async with house(tmp_path, **settings):
            pass
    async with shared_house(tmp_path) as home:
        await home.http.delete("/api/users/ann")
    async with house(tmp_path, **settings):
        """Alone again."""


async def test_a_users_token_makes_nobody_the_operator(tmp_path: Path) -> None:
    """Her shell holds it in PODIUM_TOKEN, for the command line; a server reads that, too."""
    async with shared_house(tmp_path) as home:
        ann = await admit(home, "ann")
        await home.http.delete("/api/users/ann")
    with pytest.raises(SettingsError, match="token of the user ann, who would become the operator"):
        async with shared_house(tmp_path, token=ann.token):
            pass
    async with shared_house(tmp_path, token=ann.token[:-1] + "x"):
        """Nobody's."""


async def test_with_a_second_user_agents_must_be_contained(tmp_path: Path) -> None:
    agent = FakeAgent()
    async with shared_house(tmp_path, agent=agent) as home:
        assert not agent.containment_required
        await admit(home, "ann")
        assert agent.containment_required
    later = FakeAgent()
    async with shared_house(tmp_path, agent=later):
        assert later.containment_required


# --- what is kept -------------------------------------------------------------------------------


async def test_the_store_has_no_token(home: House, tmp_path: Path) -> None:
    ann = await admit(home, "ann")
    await home.http.get("/api/runs", headers=ann.bearer)
    files = await asyncio.to_thread(lambda: list((tmp_path / "data").glob(f"{FILE}*")))
    kept = b"".join([await asyncio.to_thread(file.read_bytes) for file in files])
    for half in (ann.token[:20], ann.token[-20:]):
        assert half.encode() not in kept
    assert ann.token_id.encode() in kept, "the scan reads what it should"


async def test_a_store_of_one_user_becomes_one_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first release has stored: its user is the operator, and sees its runs."""
    known = await asyncio.to_thread(migrate.migrations)
    first = [migration for migration in known if migration[0] == 1]
    monkeypatch.setattr(migrate, "migrations", lambda: first)
    await asyncio.to_thread(migrate.prepare, tmp_path / FILE, boot_id="b")
    run = new_run("r")
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute(
            "INSERT INTO flow_runs (id, project_id, user_id, body_hash, command, flow_name, band,"
            " status, input, plan, patches, created_at, updated_at) VALUES"
            " ('r', ?, 'local', 'h', 'c', 'f', 'small', 'failed', ?, ?, x'', '', '')",
            (run.run.project_id, b"{}", rows.packed(run.plan)),
        )
    monkeypatch.setattr(migrate, "migrations", lambda: known)
    async with store_of(tmp_path) as store:
        assert await store.visible(UserId("local"), RunId("r")) is not None
        assert await store.visible(UserId("ann"), RunId("r")) is None
        people = await store.people()
    assert [(user.id, user.kind.value) for user in people.users] == [("local", "operator")]


@pytest.mark.parametrize("name", ["ann", "ANN", "local"])
async def test_a_name_that_is_taken_makes_no_project(
    home: House, tmp_path: Path, name: str
) -> None:
    await admit(home, "ann")
    other = tmp_path / "other"
    other.mkdir()
    before = (await home.http.get("/api/projects")).json()
    assert (await posted(home, "", name=name, projects=[str(other)]))[:2] == (409, "key_conflict")
    assert (await home.http.get("/api/projects")).json() == before


async def test_paths_of_projects_are_absolute(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative ones would count from where the server happens to stand."""
    monkeypatch.chdir(tmp_path)
    await admit(home, "ann", tmp_path / "project")
    assert (await posted(home, "", name="ben", projects=["project"]))[:2] == (422, "bad_arguments")
    for body in ({"add": ["project"]}, {"remove": ["project"]}):
        assert (await posted(home, "/ann/projects", **body))[0] in (404, 422), body
    listed = (await home.http.get("/api/users")).json()["users"]
    assert [(it["id"], len(it["projects"])) for it in listed] == [("local", 0), ("ann", 1)]
    gone = await home.http.post(
        "/api/users/ann/projects", json={"remove": [str(tmp_path / "project")]}
    )
    assert gone.json()["projects"] == [], "the same one, from the root on"
