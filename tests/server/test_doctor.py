"""What `podium doctor` says of users and of `public_url`: asked, not guessed; and no secret."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from protocol.ids import UserId
from protocol.users import NewToken, NewUser, TokenInfo, UserInfo, UserKind
from server.commands.desk import open_desk
from server.commands.doctor import address as doctor_address
from server.commands.doctor import users as doctor_users
from server.commands.doctor.diagnosis import Diagnosis
from server.local import ServerFile
from server.settings import Settings
from server.stores.migrate import lock
from server.world import rfc3339
from tests.integration.proxies import listener, reserved
from tests.server.harness import TOKEN, House, house
from tests.server.people import admit, shared_house

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PUBLIC = "https://tools.example.com/podium"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def token(
    name: str, *, days: float | None = None, label: str = "", revoked: bool = False
) -> TokenInfo:
    return TokenInfo(
        id=name,
        label=label,
        created_at=rfc3339(NOW - timedelta(days=30)),
        expires_at=None if days is None else rfc3339(NOW + timedelta(days=days)),
        revoked_at=rfc3339(NOW) if revoked else None,
    )


def somebody(
    name: str, *tokens: TokenInfo, kind: UserKind = UserKind.USER, revoked: bool = False
) -> UserInfo:
    return UserInfo(
        id=UserId(name),
        kind=kind,
        created_at=rfc3339(NOW),
        revoked_at=rfc3339(NOW) if revoked else None,
        projects=[],
        tokens=list(tokens),
    )


OPERATOR = somebody("local", kind=UserKind.OPERATOR)


def told(*users: UserInfo, by_proxy: bool = False) -> list[Diagnosis]:
    return doctor_users.told([OPERATOR, *users], now=NOW, by_proxy=by_proxy)


# --- users --------------------------------------------------------------------------------------


def test_users_and_good_tokens_are_counted() -> None:
    (alone,) = told(somebody("eve", token("e", revoked=True), revoked=True))
    assert (alone.well, alone.says) == (True, "the operator alone")
    (found,) = told(
        somebody("ann", token("a1"), token("a2", days=90), token("a3", revoked=True)),
        somebody("ben", token("b", days=8), token("b2", days=-1)),
        somebody("chat", token("c"), kind=UserKind.SERVICE),
    )
    assert found.says == "the operator, 2 users, 1 service account, with 4 good tokens of theirs"
    assert found.well


def test_a_token_that_expires_within_a_week_is_named() -> None:
    _, ending = told(
        somebody("ann", token("a1", days=6.9, label="laptop"), token("a2", days=7.1)),
        somebody("ben", token("b1"), token("b2", days=0.1)),
    )
    assert ending.says == "ann's `laptop` (a1) on 2026-03-08, ben's b2 on 2026-03-01"
    assert not ending.well
    assert not ending.required, "podium works"
    assert "podium user token" in (ending.hint or "")


def test_a_user_without_a_good_token_is_named() -> None:
    people = (
        somebody("ann", token("a", days=-0.1)),
        somebody("ben", token("b", revoked=True)),
        somebody("chat", kind=UserKind.SERVICE),
        somebody("dan", token("d")),
    )
    _, out = told(*people)
    assert out.says == "ann, ben, chat"
    _, out = told(*people, by_proxy=True)
    assert out.says == "chat", "a proxy signs in the others"


def test_many_are_counted_and_not_named() -> None:
    _, out = told(*(somebody(f"u{number:02}") for number in range(25)))
    assert out.says.startswith("u00, u01, ")
    assert out.says.endswith(", u09 and 15 more")


async def test_a_directory_without_a_store_gets_none(tmp_path: Path) -> None:
    (found,) = await doctor_users.users(Settings(data=str(tmp_path)))
    assert found.well
    assert list(tmp_path.iterdir()) == []


async def test_users_are_read_from_the_store_and_from_the_server(tmp_path: Path) -> None:
    async with shared_house(tmp_path) as home:
        ann = await admit(home, "ann", days=3)
        settings = await announced(home, tmp_path)
        asked = await doctor_users.users(settings)
    await asyncio.to_thread(ServerFile.remove, settings.directory)
    read = await doctor_users.users(settings)
    assert read == asked
    says = " ".join(str(diagnosis) for diagnosis in asked)
    assert "1 user, with 1 good token" in says
    assert f"ann's {ann.token_id} on " in says
    assert ann.token not in says
    assert TOKEN not in says


async def test_a_store_that_is_held_is_said_to_be_held(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path), project_roots=[str(tmp_path)])
    async with open_desk(settings, None) as desk:
        await desk.add(NewUser(name="ann"))
        await desk.new_token("ann", NewToken(days=1))
    held = await asyncio.to_thread(lock, tmp_path)
    try:
        (found,) = await doctor_users.users(settings)
    finally:
        held.close()
    assert not found.well
    assert "in use by another podium" in found.says
    assert len(await doctor_users.users(settings)) == 2, "it was the lock alone"


async def test_a_broken_store_is_a_diagnosis_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "podium.db").write_bytes(b"this is no database" * 100)
    (found,) = await doctor_users.users(Settings(data=str(tmp_path)))
    assert found.says.startswith("cannot be listed: ")


# --- public_url ---------------------------------------------------------------------------------


async def announced(home: House, place: Path) -> Settings:
    """Settings for the data directory of a house, whose server is to be found there."""
    data = place / "data"
    file = ServerFile(url=home.url, token=TOKEN, pid=os.getpid())
    await asyncio.to_thread(file.write, data)
    return Settings(data=str(data), project_roots=[str(place)])


@asynccontextmanager
async def stranger(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Somebody who answers everything so, at an address, with what it was asked."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", heard


async def asked_at(url: str, public_url: str = PUBLIC) -> list[Diagnosis]:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        return await doctor_address.asked(http, Settings(public_url=public_url))


async def test_the_public_address_is_asked_as_it_stands(tmp_path: Path) -> None:
    with reserved() as kept:
        port = kept.getsockname()[1]
        public = f"http://127.0.0.1:{port}/podium"
        async with house(tmp_path, public_url=public, port=port) as home:
            told_of = await announced(home, tmp_path)
            settings = Settings(data=told_of.data, public_url=public)
            ready, socket = await doctor_address.public_address(settings)
    assert (ready.well, ready.says) == (True, f"podium answers at {public}/")
    assert (socket.well, socket.says) == (True, "its WebSocket opens")


async def test_nothing_is_asked_without_a_server_or_an_address(tmp_path: Path) -> None:
    assert await doctor_address.public_address(Settings(data=str(tmp_path))) == []
    settings = Settings(data=str(tmp_path), public_url=PUBLIC)
    (found,) = await doctor_address.public_address(settings)
    assert found.hint == "podium serve"


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        ("401 Unauthorized", "the page must say `live`"),
        ("302 Found", "its scheme, host and path"),
        ("404 Not Found", "hand on this path"),
        ("502 Bad Gateway", "127.0.0.1:8765"),
        ("200 OK", "docs/proxies.md"),
    ],
)
async def test_what_is_not_podium_is_told_by_its_status(status: str, hint: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    async with stranger(answer) as (url, heard):
        (found,) = await asked_at(url)
    assert f"HTTP {status[:3]}, and not by podium" in found.says
    assert hint in (found.hint or "")
    assert len(heard) == 1
    assert b"authorization" not in heard[0].lower()
    assert b"cookie" not in heard[0].lower()


async def test_an_endless_answer_is_left() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with stranger(head + chunk * 3) as (url, _):
        (found,) = await asked_at(url)
    assert "not by podium" in found.says


async def test_nobody_there_is_said_so() -> None:
    with reserved() as kept:
        (found,) = await asked_at(f"http://127.0.0.1:{kept.getsockname()[1]}")
    assert found.says.startswith(f"nothing answers at {PUBLIC}: ")
    assert not found.required


async def test_somebody_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_address, "WAIT_SECONDS", 0.1)
    with listener() as silent:  # it takes connections, and nobody is there
        (found,) = await asked_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert found.says == f"nothing answers at {PUBLIC}: TimeoutError"


async def test_a_host_that_is_not_podiums_is_the_proxys_fault(tmp_path: Path) -> None:
    async with house(tmp_path, public_url=PUBLIC) as home:
        headers = {"Host": "podium"}  # as nginx says it without a line for it
        async with httpx.AsyncClient(base_url=home.url, headers=headers, trust_env=False) as http:
            ready, socket = await doctor_address.asked(http, Settings(public_url=PUBLIC))
    assert ready.well
    assert "the host `podium` is not one of this server" in socket.says
    assert socket.hint == doctor_address.HOST
