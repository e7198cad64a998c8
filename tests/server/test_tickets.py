"""Single-use tickets: who gets one, and what opens a socket with it. Each refusal has its negative
control: the same attack, with the guard off, succeeds."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocol.connection import HELLO_SECONDS
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from protocol.users import UserKind
from server import logs
from server.channel.session import Session
from server.http import tickets
from server.http.allow_list import AllowList
from server.http.tickets import TICKET_SECONDS, Tickets
from server.limits import LimitSettings
from server.users.directory import Guest, Way
from tests.server.clocks import MovedClock
from tests.server.harness import TOKEN, House, Socket, house, plain_http
from tests.server.people import Person, admit, shared_house, socket_of

MOST = 32
NOBODY = "00000000-0000-4000-8000-000000000000"
ANN, BEN = (
    Guest(user=UserId(name), kind=UserKind.USER, way=Way.BEARER, peer="127.0.0.1")
    for name in ("ann", "ben")
)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def home(tmp_path: Path, clock: MovedClock) -> AsyncIterator[House]:
    async with house(tmp_path, clock=clock) as opened_house:
        yield opened_house


async def ticket_of(home: House) -> str:
    answer = await home.http.post("/api/ws-ticket")
    assert answer.status_code == 201, answer.text
    assert answer.json()["expires_in_seconds"] == 30
    return str(answer.json()["ticket"])


def origin(home: House) -> dict[str, str]:
    return {"Origin": home.url}


async def greeted(wire: Socket, ticket: str) -> dict[str, Any]:
    return await wire.ask(type="hello", id="h", ticket=ticket)


async def closed_with(wire: Socket) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await wire.receive()
    return closed.value.rcvd.code if closed.value.rcvd else None


async def test_a_ticket_opens_one_socket(home: House, clock: MovedClock) -> None:
    async with home.socket(**origin(home)) as wire:
        for message in ({"type": "ping"}, {"type": "hello"}, {"type": "flows"}):
            early = await wire.ask(**message, id="early")
            assert early["code"] == "unauthenticated", "nothing is answered before"
        await wire.send(type="hello", id="h", ticket=await ticket_of(home))
        ack, hello = await wire.receive(), await wire.receive()
        assert (ack["type"], ack["id"]) == ("flow_run_ack", "h")
        assert (hello["type"], hello["user_id"]) == ("flow_run_hello", "local")
        clock.hello_over.set()
        assert (await wire.ask(type="ping", id="p"))["type"] == "flow_run_ack"
        again = await greeted(wire, await ticket_of(home))
        assert again["code"] == "bad_message", "it is signed in"
        run_id = await home.launch()
        await wire.send(type="subscribe", id="s", run_id=run_id)
        frames = [frame async for frame in wire.frames_of(run_id)]
    assert frames == await home.end_of(run_id)


async def refused_again(home: House) -> bool:
    """Whether a ticket that was used opens no second socket."""
    ticket = await ticket_of(home)
    async with home.socket(**origin(home)) as wire:
        assert (await greeted(wire, ticket))["type"] == "flow_run_ack"
    async with home.socket(**origin(home)) as wire:
        answer = await greeted(wire, ticket)
    return bool(answer.get("code") == "unauthenticated")


async def test_a_ticket_is_good_once(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await refused_again(home)

    class Kept(dict[bytes, tuple[Guest, float]]):
        """The guard taken away: what is looked up stays."""

        pop = dict.get  # type: ignore[assignment]

    monkeypatch.setattr(home.podium.channel._tickets, "_outstanding", Kept())
    assert not await refused_again(home)


async def test_two_sockets_race_for_one_ticket(home: House) -> None:
    ticket = await ticket_of(home)

    async def opened() -> bool:
        async with home.socket(**origin(home)) as wire:
            answer = await greeted(wire, ticket)
        return bool(answer["type"] == "flow_run_ack")

    assert sum(await asyncio.gather(*(opened() for _ in range(8)))) == 1


async def test_a_ticket_expires(
    home: House, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late() -> dict[str, Any]:
        ticket = await ticket_of(home)
        clock.ahead += TICKET_SECONDS
        async with home.socket(**origin(home)) as wire:
            return await greeted(wire, ticket)

    assert (await late())["code"] == "unauthenticated"
    monkeypatch.setattr(tickets, "TICKET_SECONDS", 10 * TICKET_SECONDS)
    assert (await late())["type"] == "flow_run_ack"


@pytest.mark.parametrize("guarded", [True, False])
async def test_who_has_no_good_ticket_is_closed(
    home: House, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    if not guarded:

        async def never(self: Session) -> None:
            await self._clock.sleep(HELLO_SECONDS)

        monkeypatch.setattr(Session, "_expire", never)
    async with home.socket(**origin(home)) as wire:
        for wrong in ("x", "", "\ud800", await ticket_of(home) + "x"):
            assert (await greeted(wire, wrong))["code"] == "unauthenticated"
        clock.hello_over.set()
        if guarded:
            assert await closed_with(wire) == 4401
        else:
            assert (await wire.ask(type="ping", id="p"))["code"] == "unauthenticated"


async def test_a_refused_ticket_may_be_followed_by_a_good_one(home: House) -> None:
    async with home.socket(**origin(home)) as wire:
        assert (await greeted(wire, "x"))["code"] == "unauthenticated"
        assert (await greeted(wire, await ticket_of(home)))["type"] == "flow_run_ack"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Nothing": "1"}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "OWN", "Authorization": "Bearer wrong"}, 401),
        ({"Cookie": "podium_session=9999999999.00"}, 401),
        ({"Origin": "https://evil.example", "Cookie": "podium_session=9999999999.00"}, 403),
    ],
)
async def test_where_no_ticket_is_listened_to(
    home: House, headers: dict[str, str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the socket is accepted. The control lets the foreign Origin in."""
    given = {name: value.replace("OWN", home.url) for name, value in headers.items()}
    with pytest.raises(InvalidStatus) as refused:
        async with home.socket(**given):
            pass
    assert refused.value.response.status_code == status
    if status == 403:
        monkeypatch.setattr(AllowList, "check", lambda self, headers: None)
        async with home.socket(**given) as wire:
            assert (await greeted(wire, await ticket_of(home)))["type"] == "flow_run_ack"


async def test_a_page_of_a_rebound_name_is_refused(home: House) -> None:
    """The browser was told that evil.example is this machine: Origin and Host agree."""
    port = httpx.URL(home.url).port
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            f"ws://evil.example:{port}/api/ws", host="127.0.0.1", port=port, proxy=None,
            origin=f"http://evil.example:{port}",  # type: ignore[arg-type]
            subprotocols=["podium.v1"],  # type: ignore[list-item]
        ):  # fmt: skip
            pass
    assert refused.value.response.status_code == 403


async def test_who_gets_a_ticket(home: House) -> None:
    async with plain_http(base_url=home.url) as stranger:
        assert (await stranger.post("/api/ws-ticket")).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await stranger.post("/api/ws-ticket", headers=wrong)).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        foreign = {**right, "Origin": "https://evil.example"}
        assert (await stranger.post("/api/ws-ticket", headers=foreign)).status_code == 403
        assert (await stranger.get("/api/ws-ticket", headers=right)).status_code in (404, 405)
        assert (await stranger.post("/api/session", json={"token": TOKEN})).status_code == 200
        assert (await stranger.post("/api/ws-ticket")).status_code == 403, "a cookie needs Origin"
        answer = await stranger.post("/api/ws-ticket", headers=origin(home))
        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"


async def test_strangers_and_sockets_are_bounded(tmp_path: Path) -> None:
    few = LimitSettings(strangers=2, sockets_per_user=1)
    async with (
        house(tmp_path, limits=few) as home,
        home.socket(**origin(home)) as first,
        home.socket(**origin(home)),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with home.socket(**origin(home)):
                pass
        assert refused.value.response.status_code == 429
        assert (await greeted(first, await ticket_of(home)))["type"] == "flow_run_ack"
        async with home.socket(**origin(home)) as third:
            refusal = await greeted(third, await ticket_of(home))
            assert refusal["code"] == "rate_limited", "a ticket is no way around the limit"


async def test_no_log_has_a_ticket(home: House, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="debug", as_json=True)
    try:
        ticket = await ticket_of(home)
        async with home.socket(**origin(home)) as wire:
            await greeted(wire, ticket)
        async with home.socket(**origin(home)) as wire:
            await greeted(wire, ticket)
        logs.logger("test").info("heard")
    finally:
        logs.configure(level="warning", as_json=True)
    told = capfd.readouterr().err
    assert "heard" in told
    assert ticket not in told


# --- the tickets themselves ---------------------------------------------------------------------


def test_so_many_are_outstanding_for_each_user(clock: MovedClock) -> None:
    desk = Tickets(clock, lambda guest: True, most=MOST)
    given = [desk.issue(ANN) for _ in range(MOST)]
    assert len(set(given)) == MOST
    with pytest.raises(ProtocolError) as refused:
        desk.issue(ANN)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    assert refused.value.retry_after_ms is not None
    assert 0 < refused.value.retry_after_ms <= TICKET_SECONDS * 1000
    other = desk.issue(BEN)
    assert desk.redeem(given[0], peer="").user == "ann"
    desk.issue(ANN)
    assert desk.redeem(other, peer="").user == "ben"
    clock.ahead += TICKET_SECONDS
    desk.issue(ANN)
    assert len(desk._outstanding) == 1, "what has expired takes no room"


def test_only_a_digest_is_kept(clock: MovedClock) -> None:
    desk = Tickets(clock, lambda guest: True, most=MOST)
    ticket = desk.issue(ANN)
    assert ticket not in repr(desk._outstanding)
    assert ticket.encode() not in desk._outstanding


# --- tickets beside the cookie of the browser ---------------------------------------------------


async def test_a_cookie_that_signs_nobody_in_keeps_out_no_ticket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser sends it by itself, and the page that has the ticket cannot take it back."""
    async with shared_house(tmp_path) as home:
        ann = await admit(home, "ann", home.project_id)
        answer = await home.http.post("/api/session", json={"token": ann.token})
        cookie = answer.headers["set-cookie"].partition(";")[0]
        home.http.cookies.clear()
        with_cookie = {**origin(home), "Cookie": cookie}
        async with home.socket(**with_cookie) as wire:
            assert (await wire.receive())["user_id"] == "ann", "it does sign in"
        await home.http.delete(f"/api/users/ann/tokens/{ann.token_id}")

        async with home.socket(**with_cookie) as wire:
            launch = {"key": "k", "project_id": home.project_id, "command": "/code-review"}
            for message in (
                {"type": "hello"}, {"type": "ping"}, {"type": "flows"}, {"type": "subscribe_index"},
                {"type": "launch", **launch}, {"type": "subscribe", "run_id": NOBODY},
            ):  # fmt: skip
                early = await wire.ask(**message, id="early")
                assert early["code"] == "unauthenticated", "nothing is served before"
            again = (await home.http.post("/api/users/ann/tokens", json={})).json()
            bearer = {"Authorization": f"Bearer {again['token']}"}
            made = await home.http.post("/api/ws-ticket", headers=bearer)
            await wire.send(type="hello", id="h", ticket=made.json()["ticket"])
            assert (await wire.receive())["type"] == "flow_run_ack"
            assert (await wire.receive())["user_id"] == "ann"
            assert (await wire.ask(type="launch", id="l", **launch))["run_id"]

        # Taken for an offered credential, as every other bad one is, it would keep the ticket out.
        sign_in = home.podium.sign_in
        monkeypatch.setattr(
            sign_in, "identify_socket", lambda asked: sign_in.identify(asked, unsafe=True)
        )
        with pytest.raises(InvalidStatus):
            async with home.socket(**with_cookie):
                pass


# --- tickets of sockets that are signed in without them -----------------------------------------


async def test_a_ticket_beside_a_credential_is_of_the_same_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat's page may have podium's cookie, of whoever used this browser: its ticket says who it
    wants to be, and nobody launches as somebody else."""
    async with shared_house(tmp_path) as home:
        ann, ben = await admit(home, "ann", home.project_id), await admit(home, "ben")

        async def said(ticket: str) -> dict[str, Any]:
            async with socket_of(home, ann) as wire:
                assert (await wire.receive())["user_id"] == "ann"
                answer = await greeted(wire, ticket)
                assert (await wire.ask(type="ping", id="p"))["type"] == "flow_run_ack"
                launch = {"key": "k", "project_id": home.project_id, "command": "/code-review"}
                assert (await wire.ask(type="launch", id="l", **launch))["run_id"], "as before"
                return answer

        async def ticket_for(person: Person) -> str:
            made = await home.http.post("/api/ws-ticket", headers=person.bearer)
            return str(made.json()["ticket"])

        own = await ticket_for(ann)
        assert (await said(own))["type"] == "flow_run_ack"
        assert (await said(own))["code"] == "unauthenticated", "it is used up"
        assert (await said("no ticket"))["code"] == "unauthenticated"
        bens = await ticket_for(ben)
        refused = await said(bens)
        assert (refused["code"], refused["field"]) == ("forbidden", "ticket")
        assert "cookie" in refused["hint"]
        async with home.socket(**origin(home)) as wire:
            assert (await greeted(wire, bens))["code"] == "unauthenticated", "that one, too"

        monkeypatch.setattr(home.podium.channel, "_confirm", lambda *_: None)
        assert (await said(await ticket_for(ben)))["type"] == "flow_run_ack", "without the guard"
