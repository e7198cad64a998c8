"""`podium user` in processes of its own, beside a server and without one; and no secret in any
log."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.integration.servers import Server
from tests.integration.servers import podium as running
from tests.integration.test_cli import Ended, Podium
from tests.integration.test_whole_job import repository

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    """With settings that allow several users."""
    found = Podium(tmp_path)
    folder = tmp_path / "config" / "podium"
    folder.mkdir(parents=True)
    roots = f'project_roots = ["{tmp_path}"]\nlog_level = "debug"\n'
    (folder / "podium.toml").write_text(roots)
    found.environment["PODIUM_DATA"] = str(tmp_path / "data")
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return repository(tmp_path / "project")


def token_in(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("token")]
    return line.split()[1]


async def test_without_a_server_the_store_is_changed(podium: Podium, project: Path) -> None:
    added = await podium("user", "add", "ann", "--project", str(project), "--days", "30")
    token = token_in(added)
    assert f"http://127.0.0.1:8765/#token={token}" in added.out
    twice = await podium("user", "add", "ann")
    assert twice.code == 1
    assert "→ `podium user token ann`" in twice.err
    changed = await podium("user", "change", "ann", "--remove-project", str(project))
    assert "no project yet" in changed.out
    assert changed.err == ""
    absent = await podium("user", "change", "ann", "--remove-project", str(project))
    assert f"ann was no member of {project}" in absent.err
    (token_id,) = [line.split()[1] for line in added.out.splitlines() if line.startswith("id ")]
    assert (await podium("user", "revoke", "ann", "--token", token_id)).code == 0
    assert (await podium("user", "change", "ann")).code == 2
    assert (await podium("user", "revoke", "ann")).code == 0
    assert (await podium("user", "revoke", "ann")).code == 0
    listed = [json.loads(line) for line in (await podium("user", "list", "--json")).out.split("\n")
              if line]  # fmt: skip
    assert [(user["id"], bool(user["revoked_at"])) for user in listed] == [
        ("local", False), ("ann", True),
    ]  # fmt: skip
    trail = (podium.place / "data" / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in trail.splitlines()]
    deeds = [line["what"] for line in lines]
    assert deeds == [
        "user_added", "user_added", "projects_changed", "projects_changed", "token_revoked",
        "user_revoked", "user_revoked",
    ]  # fmt: skip
    assert [line["outcome"] for line in lines] == ["ok", "key_conflict", *["ok"] * 5]
    assert token not in trail
    shown = await podium("audit", "--user", "ann", "--since", "1h")
    assert [line.split()[2] for line in shown.out.splitlines()] == deeds
    assert (await podium("audit", "--json")).out == trail
    assert (await podium("audit", "--since", "2999-01-01")).out == ""
    assert (await podium("audit", "--since", "soon")).code == 2


async def test_the_settings_of_a_single_user_are_not_enough(tmp_path: Path) -> None:
    refused = await Podium(tmp_path)("user", "add", "ann", "--data", str(tmp_path / "data"))
    assert refused.code == 1
    assert 'write `project_roots = ["/srv/code"]` into' in refused.err
    assert str(tmp_path / "config" / "podium" / "podium.toml") in refused.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "Bob Smith"), "letters, digits and . _ @ + -, no spaces"),
        (("add", "bob", "--label", "a\nb"), "one line"),
        (("add", "local"), "choose another name"),
    ],
)
async def test_a_name_that_cannot_be_says_which_can(
    podium: Podium, words: tuple[str, ...], says: str
) -> None:
    refused = await podium("user", *words)
    assert refused.code in (1, 2)
    assert says in refused.err
    assert "\\A" not in refused.err
    assert "user token local" not in refused.err


SECRET_FILES = {"token", "session.key", "server.json"}
"""Of DIR, for their owner alone."""


async def test_a_running_server_feels_it_and_no_secret_is_left_anywhere(
    podium: Podium, project: Path
) -> None:
    data, log = podium.place / "data", podium.place / "log"
    async with running(data, project, podium.environment, log=log) as server:
        secrets = await dance(podium, server, project)
    told = log.read_text()
    assert "serving" in told
    assert "visit_ended" in told
    assert found_in(secrets, log) == set()
    for path in data.iterdir():
        found = found_in(secrets, path) if path.is_file() else set()
        if path.name in SECRET_FILES:
            assert path.stat().st_mode & 0o077 == 0, path
        else:
            assert found == set(), path
    own = found_in(secrets, data / "token")
    assert own, "the scan finds what is there"


async def dance(podium: Podium, server: Server, project: Path) -> dict[str, str]:
    """Sign in by every way, rightly and wrongly; every secret that was used."""
    assert server.place is not None
    url = server.place.url
    added = await podium("user", "add", "ann", "--project", str(project))
    ann = token_in(added)
    assert f"{url}/#token={ann}" in added.out
    chat = token_in(await podium("user", "add", "chat", "--service"))
    secrets = {"operator": server.place.token, "ann": ann, "chat": chat, "wrong": "wrong" * 9}
    async with httpx.AsyncClient(base_url=url, headers={"Origin": url}, trust_env=False) as http:
        await http.get("/")
        signed_in = await http.post("/api/session", json={"token": ann})
        assert signed_in.json() == {"user_id": "ann"}
        value = http.cookies["podium_session"]
        secrets["cookie"], secrets["seal"] = value, value.rpartition(".")[2]
        ticket = (await http.post("/api/ws-ticket")).json()["ticket"]
        body = {"on_behalf_of": "ann"}
        minted = await http.post("/api/ws-ticket", json=body, headers=bearer(chat))
        secrets |= {"ticket": ticket, "minted": minted.json()["ticket"]}
        for token in (secrets["wrong"], ann, chat):
            await http.get("/api/runs", headers=bearer(token))
            await http.get(f"/api/runs?token={token}", headers={"Cookie": ""})
            await http.post("/api/session", json={"token": token})
        await http.post("/api/session", content=f'{{"token": 1, "x": "{ann}"}}')
        await podium("watch", "00000000-0000-4000-8000-000000000000")
        # A ticket that is good, the same one again, and secrets where none belong.
        for _ in range(2):
            async with opened(url, "", Origin=url) as socket:
                await socket.send(json.dumps({"type": "hello", "id": "h", "ticket": ticket}))
                await socket.recv()
        async with opened(url, f"?token={ann}", Origin=url) as socket:
            await socket.send(f'{{"type": "hello", "id": "h", "ticket": "{ann}"')
            await socket.recv()
        async with opened(url, "", **bearer(ann)) as socket:
            await podium("user", "revoke", "ann")
            async with asyncio.timeout(20):
                await socket.wait_closed()
            assert socket.close_code == 4401
        await http.delete("/api/session")
    return secrets


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def opened(url: str, query: str, **headers: str) -> connect:
    return connect(
        f"{url.replace('http', 'ws')}/api/ws{query}",
        additional_headers=headers,
        subprotocols=["podium.v1"],  # type: ignore[list-item]
        proxy=None,
    )


def found_in(secrets: dict[str, str], path: Path) -> set[str]:
    """The secrets of which a half or all is in a file."""
    text = path.read_bytes()
    found = set()
    for name, secret in secrets.items():
        middle = len(secret) // 2
        if secret[:middle].encode() in text or secret[middle:].encode() in text:
            found.add(name)
    return found


async def test_the_command_line_takes_paths_from_where_one_stands(
    podium: Podium, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    podium.cwd = project.parent
    monkeypatch.chdir(podium.cwd)
    data, environment = project.parent / "data", podium.environment
    async with running(data, Path(project.name), environment) as server, server.client() as client:
        (found,) = (await client.get("/api/projects"))["projects"]
        assert found["path"] == str(project)
        token_in(await podium("user", "add", "ann", "--project", project.name))
    removed = await podium("user", "change", "ann", "--remove-project", project.name)
    assert "no project yet" in removed.out, "without a server, too"
