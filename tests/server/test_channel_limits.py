"""The limits of users, sockets and the server, on real sockets, and the descriptors for them."""

import asyncio
import re
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from protocol.errors import ProtocolError
from protocol.ids import UserId
from server.limits import KEPT_DESCRIPTORS, LimitSettings, descriptors, wire_limits
from server.rates import Rates
from server.settings import SettingsError, load
from tests.server.clocks import HeldClock
from tests.server.harness import House, house
from tests.server.raw_peer import CLOSE, TEXT, fragments, frame, raw_peer

ANN, BEN = UserId("ann"), UserId("ben")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


# --- the settings ---------------------------------------------------------------------------------


def settings_of(place: Path, text: str) -> LimitSettings:
    file = place / "podium.toml"
    file.write_text(text)
    return load({}, {}, file=file).limits


def test_a_file_sets_some_of_them(tmp_path: Path) -> None:
    limits = settings_of(tmp_path, "[limits]\nsubscriptions = 7\nlaunches_per_second = 0.5\n")
    assert (limits.subscriptions, limits.launches_per_second) == (7, 0.5)
    assert limits.sockets_per_user == LimitSettings().sockets_per_user


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nsockets_per_user = 0\n", "limits.sockets_per_user: Expected `int` >= 1"),
        ("[limits]\nmessage_bytes = 10\n", "limits.message_bytes: Expected `int` >= 1024"),
        ("[limits]\nrequests_per_second = 0\n", "limits.requests_per_second: Expected `float` > 0"),
        ("[limits]\nmany = 1\n", "limits.many: unknown key (known: fragments, launch_burst"),
        ("limits = 3\n", "limits: is no table; write [limits]"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings_of(tmp_path, text)
    assert said in str(refused.value)


async def test_hello_tells_the_real_values(tmp_path: Path) -> None:
    limits = LimitSettings(
        message_bytes=2_048, subscriptions=3, sockets_per_user=4, message_burst=5,
        messages_per_second=6, fragments=7, waiting_messages=8,
    )  # fmt: skip
    async with house(tmp_path, limits=limits) as home, home.socket() as wire:
        told = (await wire.until(type="flow_run_hello"))["limits"]
    assert told == {
        "message_bytes": 2_048, "subscriptions": 3, "sockets": 4, "burst": 5, "per_second": 6,
        "fragments": 7, "waiting": 8, "heartbeat_seconds": 15.0,
    }  # fmt: skip
    assert told == msgspec.to_builtins(wire_limits(limits))


WIRE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text("utf-8")


@pytest.mark.parametrize("field", msgspec.structs.fields(LimitSettings), ids=lambda it: it.name)
def test_the_wire_has_a_row_with_the_name_and_the_default(field: msgspec.structs.FieldInfo) -> None:
    (line,) = [it for it in WIRE.splitlines() if it.startswith("| ") and f"`{field.name}`" in it]
    assert re.search(rf"\b{field.default:g}\b", line)


# --- sockets --------------------------------------------------------------------------------------


async def status_of_one_more(home: House, **headers: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with home.socket(**headers):
            pass
    return refused.value.response.status_code


async def test_sockets_of_one_user(tmp_path: Path) -> None:
    async with house(tmp_path, limits=LimitSettings(sockets_per_user=2)) as home:
        async with home.socket(), home.socket():
            assert await status_of_one_more(home) == 429
        while home.podium.channel._sessions:
            await asyncio.sleep(0)
        async with home.socket() as wire:
            assert (await wire.receive())["type"] == "flow_run_hello", "there is room again"


async def test_many_handshakes_at_once_open_no_more(home: House) -> None:
    most = LimitSettings().sockets_per_user
    async with AsyncExitStack() as sockets:

        async def opened() -> bool:
            try:
                await sockets.enter_async_context(home.socket())
            except InvalidStatus as refused:
                assert refused.response.status_code == 429
                return False
            return True

        found = await asyncio.gather(*(opened() for _ in range(3 * most)))
        assert sum(found) == most
        assert len(home.podium.channel._sessions) == most


async def test_sockets_of_all(tmp_path: Path) -> None:
    async with (
        house(tmp_path, limits=LimitSettings(sockets=2)) as home,
        home.socket(),
        home.socket(Origin=home.url),
    ):
        assert await status_of_one_more(home) == 503
        assert (await home.http.get("/api/runs")).status_code == 200


async def test_runs_of_one_socket(tmp_path: Path) -> None:
    async with (
        house(tmp_path, limits=LimitSettings(subscriptions=1)) as home,
        home.socket() as wire,
    ):
        one, two = await home.launch(), await home.launch()
        assert (await wire.ask(type="subscribe", id="1", run_id=one))["type"] == "flow_run_ack"
        refused = await wire.ask(type="subscribe", id="2", run_id=two)
        assert (refused["code"], refused["field"]) == ("busy", "run_id")
        assert (await wire.ask(type="subscribe", id="3", run_id=one))["type"] == "flow_run_ack"


async def test_the_size_and_the_pieces_of_a_message(tmp_path: Path) -> None:
    small = LimitSettings(message_bytes=1_024, fragments=3)
    async with house(tmp_path, limits=small) as home, raw_peer(home.url) as peer:
        await peer.until(TEXT)
        await peer.send(frame(TEXT, b"x" * 1_025))
        assert b'"code":"too_large"' in (await peer.until(TEXT)).payload
        await peer.send(fragments(4))
        assert (await peer.until(CLOSE)).code == 4413


async def test_messages_of_one_socket(tmp_path: Path) -> None:
    slow = LimitSettings(message_burst=3, messages_per_second=1)
    async with house(tmp_path, limits=slow) as home, home.socket() as wire:
        for number in range(40):
            await wire.send(type="ping", id=str(number))
        answers: dict[str, str] = {}  # a refusal may overtake an answer
        while len(answers) < 40:
            frame_of = await wire.receive()
            if "id" in frame_of:
                answers[frame_of["id"]] = frame_of.get("code", "answered")
    assert [answers[str(number)] for number in range(3)] == ["answered"] * 3
    assert list(answers.values()).count("rate_limited") > 20


# --- requests -------------------------------------------------------------------------------------


async def test_requests_of_one_user(tmp_path: Path) -> None:
    slow = LimitSettings(request_burst=3, requests_per_second=0.001)
    async with house(tmp_path, limits=slow) as home:
        # The house asked once itself.
        answers = [await home.http.get("/api/runs") for _ in range(3)]
        assert [it.status_code for it in answers] == [200, 200, 429]
        assert answers[-1].json()["error"] == "rate_limited"
        assert 900 < int(answers[-1].headers["retry-after"]) <= 1_000
        assert (await home.http.get("/readyz")).status_code == 200


@given(st.lists(st.floats(0, 3), max_size=200), st.integers(1, 20), st.floats(0.1, 50))
def test_nobody_gets_more_than_the_burst_and_the_rate(
    pauses: list[float], burst: int, per_second: float
) -> None:
    clock = HeldClock()
    rates = Rates("things", burst=burst, per_second=per_second, clock=clock)
    taken = refused = 0
    for pause in pauses:
        clock.time += pause
        try:
            rates.take(ANN)
            taken += 1
        except ProtocolError as error:
            refused += 1
            assert error.retry_after_ms is not None
            clock.time += error.retry_after_ms / 1000
            rates.take(ANN)
            taken += 1
        assert taken <= burst + clock.time * per_second + 1e-6
    assert rates.refused == refused
    rates.take(BEN)


def test_buckets_of_many_users_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.rates.MANY_USERS", 10)
    clock = HeldClock()
    rates = Rates("things", burst=2, per_second=1.0, clock=clock)
    for number in range(1_000):
        clock.time += 0.5
        rates.take(UserId(str(number)))
        assert len(rates._buckets) <= 11


# --- descriptors ----------------------------------------------------------------------------------


ASKS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from server.limits import LimitSettings, most_sockets
print(most_sockets(LimitSettings()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "sockets"),
    [(256, 4_096, 4_096 - KEPT_DESCRIPTORS), (100, 1_200, 600), (64, 64, 32)],
)
def test_the_server_takes_what_the_system_gives(soft: int, hard: int, sockets: int) -> None:
    said = subprocess.run(
        [sys.executable, "-c", ASKS, str(soft), str(hard)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert said.stdout.split()[-2:] == [str(sockets), str(hard)]
    assert "few_descriptors" in said.stdout + said.stderr


def test_what_is_enough_is_left() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    given = descriptors()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= before[0]
    assert given >= before[0] or before[0] > 65_536
