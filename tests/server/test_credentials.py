"""Who is let in, on every surface alike: one table of surfaces, one of what strangers try.

Each case has its control: the same request with the right thing in that place is let in.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from server.http.allow_list import AllowList
from server.users.directory import Directory
from tests.server.harness import TOKEN, House
from tests.server.people import Headers, Person, admit, asked, host_of, shared_house, upgrade
from tests.server.test_revocation import MovedClock

SURFACES = {
    "list": ("GET", "/api/runs"),
    "get": ("GET", "/api/runs/{}"),
    "events": ("GET", "/api/runs/{}/events"),
    "frames": ("GET", "/api/runs/{}/frames"),
    "recording": ("GET", "/api/runs/{}/recording"),
    "report.md": ("GET", "/api/runs/{}/report.md"),
    "report.json": ("GET", "/api/runs/{}/report.json"),
    "cancel": ("POST", "/api/runs/{}/cancel"),
    "projects": ("GET", "/api/projects"),
    "ticket": ("POST", "/api/ws-ticket"),
    "session": ("GET", "/api/session"),
    "socket": ("GET", "/api/ws"),
}
LET_IN = {200, 201, 101, 409}
"""409: the run cannot be cancelled, because it has ended."""


class Try(NamedTuple):
    """What a stranger sends beside Host; the words in capitals are filled in. `right` is the same
    as it is let in."""

    wrong: Headers
    status: int
    right: Headers
    socket: int | None = None
    """The status of the socket where that is another one."""


STRANGER = 101
"""Such a socket may say a ticket, and is served nothing before: see test_tickets.py."""
OWN = [("Host", "HOST")]
ANN = [("Authorization", "Bearer ANN")]
COOKIE = [("Cookie", "podium_session=COOKIE"), ("Origin", "URL")]
CASES = {
    "foreign origin": Try([*OWN, *ANN, ("Origin", "https://evil.example")], 403, [*OWN, *ANN]),
    "no origin at all": Try([*OWN, *ANN, ("Origin", "null")], 403, [*OWN, *ANN, ("Origin", "URL")]),
    "foreign host": Try([("Host", "evil.example"), *ANN], 403, [*OWN, *ANN]),
    "foreign host that agrees": Try(
        [("Host", "evil.example"), ("Origin", "http://evil.example"), *ANN],
        403,
        [*OWN, ("Origin", "URL"), *ANN],
    ),
    "a second host": Try([*OWN, ("Host", "evil.example"), *ANN], 403, [*OWN, *ANN]),
    "a second host before": Try([("Host", "evil.example"), *OWN, *ANN], 403, [*OWN, *ANN]),
    "a second origin": Try(
        [*OWN, *ANN, ("Origin", "URL"), ("Origin", "https://evil.example")], 403, [*OWN, *ANN]
    ),
    "two tokens": Try([*OWN, *ANN, ("Authorization", "Bearer BEN")], 403, [*OWN, *ANN]),
    "nothing": Try(OWN, 401, [*OWN, *ANN]),
    "a wrong token": Try([*OWN, ("Authorization", "Bearer wrong")], 401, [*OWN, *ANN]),
    "an empty token": Try([*OWN, ("Authorization", "Bearer ")], 401, [*OWN, *ANN]),
    "another scheme": Try([*OWN, ("Authorization", "Basic ANN")], 401, [*OWN, *ANN]),
    "the digest of a token": Try([*OWN, ("Authorization", "Bearer DIGEST")], 401, [*OWN, *ANN]),
    "a revoked token": Try([*OWN, ("Authorization", "Bearer REVOKED")], 401, [*OWN, *ANN]),
    "an expired token": Try([*OWN, ("Authorization", "Bearer EXPIRED")], 401, [*OWN, *ANN]),
    "a revoked user": Try([*OWN, ("Authorization", "Bearer GONE")], 401, [*OWN, *ANN]),
    "a service token": Try([*OWN, ("Authorization", "Bearer SERVICE")], 403, [*OWN, *ANN]),
    "a made-up cookie": Try(
        [*OWN, ("Origin", "URL"), ("Cookie", "podium_session=a.b.9999999999.00")],
        401,
        [*OWN, *COOKIE],
        STRANGER,
    ),
    "an altered cookie": Try(
        [*OWN, ("Origin", "URL"), ("Cookie", "podium_session=ALTERED")],
        401,
        [*OWN, *COOKIE],
        STRANGER,
    ),
    "a cookie of a revoked token": Try(
        [*OWN, ("Origin", "URL"), ("Cookie", "podium_session=REVOKEDCOOKIE")],
        401,
        [*OWN, *COOKIE],
        STRANGER,
    ),
    "a cookie of a revoked token without an origin": Try(
        [*OWN, ("Cookie", "podium_session=REVOKEDCOOKIE")], 401, [*OWN, *COOKIE]
    ),
    "a cookie from elsewhere": Try(
        [*OWN, COOKIE[0], ("Origin", "https://evil.example")], 403, [*OWN, *COOKIE]
    ),
    "a user header": Try([*OWN, ("X-Forwarded-User", "ann")], 401, [*OWN, *ANN]),
}


class Scene(NamedTuple):
    home: House
    run_id: str
    words: dict[str, str]

    def filled(self, headers: Headers) -> Headers:
        filled = []
        for name, value in headers:
            for word in sorted(self.words, key=len, reverse=True):
                value = value.replace(word, self.words[word])
            filled.append((name, value))
        return filled

    async def answers(self, surface: str, headers: Headers) -> int:
        method, path = SURFACES[surface]
        given = [*self.filled(headers), *(upgrade() if surface == "socket" else [])]
        return (await asked(self.home, method, path.format(self.run_id), given)).status


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clock = MovedClock()
    async with shared_house(tmp_path, clock=clock) as home:
        project = tmp_path / "project"
        ann = await admit(home, "ann", project)
        ben = await admit(home, "ben", project)
        service = await admit(home, "chat", service=True)
        gone = await admit(home, "gone", project)
        await home.http.delete("/api/users/gone")
        revoked = await another(home, "ann")
        expired = await another(home, "ann", days=1)
        cookies = [await cookie_of(home, token) for token in (ann.token, revoked.token)]
        await home.http.delete(f"/api/users/ann/tokens/{revoked.token_id}")
        clock.days = timedelta(days=2)
        run_id = await run_of(home, ann)
        altered = cookies[0].replace(cookies[0].split(".")[2], "9999999999")
        words = {
            "HOST": host_of(home),
            "URL": home.url,
            "ANN": ann.token,
            "BEN": ben.token,
            "DIGEST": digest(home, ann),
            "REVOKED": revoked.token,
            "EXPIRED": expired.token,
            "GONE": gone.token,
            "SERVICE": service.token,
            "COOKIE": cookies[0],
            "REVOKEDCOOKIE": cookies[1],
            "ALTERED": altered,
        }
        yield Scene(home, run_id, words)


async def another(home: House, name: str, **body: object) -> Person:
    answer = (await home.http.post(f"/api/users/{name}/tokens", json=body)).json()
    return Person(name, answer["token"], answer["token_id"])


async def cookie_of(home: House, token: str) -> str:
    answer = await home.http.post("/api/session", json={"token": token})
    assert answer.status_code == 200
    home.http.cookies.clear()
    jar = SimpleCookie(answer.headers["set-cookie"])
    return jar["podium_session"].value


async def run_of(home: House, person: Person) -> str:
    answer = await home.http.post("/api/runs", json=home.body(), headers=person.bearer)
    run_id: str = answer.json()["run_id"]
    async with home.socket(**person.bearer) as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        assert [frame async for frame in wire.frames_of(run_id)]
    return run_id


def digest(home: House, person: Person) -> str:
    """What the store has of a token."""
    directory = home.podium.sign_in.accounts.directory
    (found,) = [it for it in directory.people.tokens if it.id == person.token_id]
    return found.digest.hex()


def allowed(name: str, surface: str, case: Try) -> set[int]:
    """The parsers of HTTP and of WebSocket may refuse a second header before we do."""
    if name == "a service token" and surface == "ticket":
        return {422}
    if surface == "socket" and case.socket is not None:
        return {case.socket}
    return {case.status, 400} if name.startswith("a second") else {case.status}


async def test_who_is_let_in(scene: Scene) -> None:
    """All surfaces answer each case with one status, and its control everywhere."""
    wrong: list[object] = []
    for name, case in CASES.items():
        for surface in SURFACES:
            status = await scene.answers(surface, case.wrong)
            if status not in allowed(name, surface, case):
                wrong.append((name, surface, status))
            control = await scene.answers(surface, case.right)
            if control not in LET_IN:
                wrong.append(("the control of", name, surface, control))
    assert wrong == []


@pytest.mark.parametrize(
    "case", ["foreign host", "foreign origin", "no origin at all", "a second host"]
)
async def test_without_the_check_of_places_they_come_in(
    scene: Scene, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AllowList, "check", lambda self, headers: None)
    statuses = {await scene.answers(surface, CASES[case].wrong) for surface in SURFACES}
    assert statuses <= {*LET_IN, 400}
    assert statuses & LET_IN


@pytest.mark.parametrize("case", ["a revoked token", "an expired token", "a revoked user"])
async def test_without_the_directory_an_old_token_comes_in(
    scene: Scene, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is a real one: only what was done to it since keeps it out."""
    people = scene.home.podium.sign_in.accounts.directory.people
    forgotten = msgspec.structs.replace(
        people,
        users=[msgspec.structs.replace(user, revoked_at=None) for user in people.users],
        tokens=[
            msgspec.structs.replace(token, revoked_at=None, expires_at=None)
            for token in people.tokens
        ],
    )
    accounts = scene.home.podium.sign_in.accounts
    monkeypatch.setattr(accounts, "directory", Directory(forgotten, TOKEN))
    assert await scene.answers("projects", CASES[case].wrong) == 200
    assert await scene.answers("socket", CASES[case].wrong) == 101
