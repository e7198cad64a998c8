"""Guessing a token is slowed down for each address, in a way that no person meets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.users import throttle
from server.users.throttle import GUESS_SECONDS, GUESSES, MAX_KNOWN, MAX_PEERS, Throttle
from server.world import SystemClock
from tests.server.harness import TOKEN, House
from tests.server.people import asked, host_of, shared_house

ME, OTHER = "198.51.100.1", "198.51.100.2"


class Clock(SystemClock):
    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


def digest(number: int) -> bytes:
    return number.to_bytes(32)


def guess(door: Throttle, count: int, *, peer: str = ME, first: int = 0) -> list[int]:
    """Try wrong tokens; those that were heard."""
    heard = []
    for number in range(first, first + count):
        if door.wait(peer, digest(number)) is None:
            door.wrong(peer, digest(number))
            heard.append(number)
    return heard


def test_so_many_guesses_are_heard(clock: Clock) -> None:
    door = Throttle(clock)
    assert guess(door, 1000) == list(range(GUESSES))
    wait = door.wait(ME, digest(5000))
    assert wait is not None
    assert 0 < wait <= GUESS_SECONDS * 1000
    assert door.wait(OTHER, digest(5000)) is None, "nobody else is held up"
    clock.ahead += wait / 1000
    assert len(guess(door, 1000, first=2000)) == 1, "then one more"


def test_a_script_with_an_old_token_holds_nobody_up(clock: Clock) -> None:
    door = Throttle(clock)
    for _ in range(10_000):
        assert door.wait(ME, digest(1)) is None
        door.wrong(ME, digest(1))
    assert door.wait(ME, digest(2)) is None


def test_a_token_that_was_good_there_before_is_good_still(clock: Clock) -> None:
    door = Throttle(clock)
    door.right(ME, digest(7777))
    assert len(guess(door, 1000)) == GUESSES
    assert door.wait(ME, digest(7777)) is None
    assert door.wait(ME, digest(8888)) is not None


def test_a_whole_network_of_ipv6_is_one_address(clock: Clock) -> None:
    door = Throttle(clock)
    heard = [guess(door, 1, peer=f"2001:db8::{n:x}", first=n) for n in range(1, 200)]
    assert len([one for one in heard if one]) == GUESSES
    assert door.wait("2001:db8:0:1::1", digest(5000)) is None


def test_what_is_remembered_is_bounded(clock: Clock) -> None:
    door = Throttle(clock)
    for number in range(MAX_PEERS + 100):
        door.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", digest(number))
    assert len(door._peers) == MAX_PEERS
    for number in range(10 * MAX_KNOWN):
        door.right(ME, digest(number))
    assert len(door._peers[ME].good) == MAX_KNOWN


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with shared_house(tmp_path) as opened:
        yield opened


async def guesses(home: House, *, by_session: bool) -> list[int]:
    statuses = []
    for number in range(GUESSES + 3):
        if by_session:
            body = {"token": f"wrong-{number}"}
            statuses.append((await home.http.post("/api/session", json=body)).status_code)
        else:
            headers = [("Host", host_of(home)), ("Authorization", f"Bearer wrong-{number}")]
            statuses.append((await asked(home, "GET", "/api/runs", headers)).status)
    return statuses


@pytest.mark.parametrize("by_session", [True, False])
async def test_every_way_of_trying_a_token_counts(
    home: House, monkeypatch: pytest.MonkeyPatch, *, by_session: bool
) -> None:
    assert await guesses(home, by_session=by_session) == [401] * GUESSES + [429] * 3
    right = [("Host", host_of(home)), ("Authorization", f"Bearer {TOKEN}")]
    assert (await asked(home, "GET", "/api/runs", right)).status == 200, "it was good before"
    monkeypatch.setattr(throttle.Throttle, "wait", lambda self, peer, digest: None)
    assert await guesses(home, by_session=by_session) == [401] * (GUESSES + 3), "the control"
