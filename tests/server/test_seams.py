"""Where two parts meet: what one of them ends, the other one does not go on with."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, repeat
from pathlib import Path
from unittest.mock import DEFAULT, patch

import pytest
from websockets.protocol import State

from protocol.commands import Subscribe
from protocol.ids import RunId
from server.channel import session
from server.channel.delivery import Delivery
from server.channel.session import Session
from server.channel.turns import Turns
from server.limits import LimitSettings
from server.ports import StoreUnavailable
from server.users.directory import LOCAL_USER
from tests.server.harness import WAIT_SECONDS, House, house
from tests.server.people import Person, admit, closed_with, shared_house, socket_of
from tests.server.raw_peer import CLOSE, TEXT, RawPeer, frame, raw_peer, subscribing
from tests.server.readers import Talker
from tests.server.stalling import stuck, wire_of


def message(**fields: object) -> bytes:
    return frame(TEXT, json.dumps(fields).encode())


@asynccontextmanager
async def stuck_peer(home: House, ann: Person) -> AsyncIterator[tuple[RawPeer, Session]]:
    """A socket that has so much to read that its writer waits for it."""
    answer = await home.http.post("/api/runs", json=home.body(), headers=ann.bearer)
    run_id = answer.json()["run_id"]
    async with home.socket(**ann.bearer) as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        await wire.until(type="flow_run_finished")
    async with raw_peer(home.url, ann.token) as peer:
        await peer.send(subscribing(run_id))
        yield peer, await stuck(home)


async def revoke_token(home: House, ann: Person) -> None:
    answer = await home.http.delete(f"/api/users/ann/tokens/{ann.token_id}")
    assert answer.status_code == 200


async def test_whose_token_was_revoked_is_answered_no_more(tmp_path: Path) -> None:
    """Its socket may be open still, while what it was sent is not taken."""
    async with shared_house(tmp_path, agent=Talker(2_500)) as home:
        ann = await admit(home, "ann", tmp_path / "project")
        async with stuck_peer(home, ann) as (peer, session):
            await revoke_token(home, ann)
            await peer.send(message(type="ping", id="late"))
            await home.http.get("/healthz")
            assert session in home.podium.channel._sessions, "its end waits"
            seen = []
            while (read := await peer.read()).opcode != CLOSE:
                seen.append(json.loads(read.payload).get("id"))
            assert read.code == 4401
            assert "s" in seen
            assert "late" not in seen


async def test_who_reads_drop_by_drop_does_not_put_its_end_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSE_SECONDS", 0.1)
    async with shared_house(tmp_path, agent=Talker(2_500), stall_seconds=600.0) as home:
        ann = await admit(home, "ann", tmp_path / "project")
        async with stuck_peer(home, ann) as (peer, _):
            await revoke_token(home, ann)
            with pytest.raises(ConnectionError):
                while (await peer.read()).opcode != CLOSE:
                    await asyncio.sleep(0.01)


async def test_messages_about_one_run_are_done_in_their_order(tmp_path: Path) -> None:
    """A pane that is opened and closed at once follows nothing."""
    async with house(tmp_path) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        async with home.socket() as wire:
            await wire.send(type="subscribe", id="1", run_id=run_id)
            await wire.send(type="unsubscribe", id="2", run_id=run_id)
            await wire.send(type="unsubscribe", id="3", run_id="another")
            answers = [(await wire.until(type="flow_run_ack"))["id"] for _ in range(3)]
            assert answers.index("1") < answers.index("2")
            assert home.podium.channel.count().subscriptions == 0


async def test_subscriptions_at_once_are_no_more_than_one_after_another(tmp_path: Path) -> None:
    limits = LimitSettings(subscriptions=2)
    async with house(tmp_path, limits=limits) as home, home.socket() as wire:
        runs = [await home.launch() for _ in range(5)]
        for run_id in runs:
            await wire.send(type="subscribe", id=run_id, run_id=run_id)
        answers: dict[str, object] = {}
        while len(answers) < len(runs):
            frame = await wire.receive()
            if "id" in frame:
                answers[frame["id"]] = frame.get("code")
        assert list(answers.values()).count("busy") == 3
        assert home.podium.channel.count().subscriptions == 2


async def test_a_launch_that_cannot_be_followed_has_one_answer_and_makes_no_run(
    tmp_path: Path,
) -> None:
    limits = LimitSettings(subscriptions=1)
    async with house(tmp_path, limits=limits) as home, home.socket() as wire:
        followed = await home.launch()
        await wire.ask(type="subscribe", id="1", run_id=followed)
        launch = {"type": "launch", "key": "k", "project_id": home.project_id, "subscribe": True}
        command = "/code-review small src"
        await wire.send(id="2", command=command, **launch)
        assert (await wire.until(id="2"))["code"] == "busy"
        await wire.ask(type="ping", id="3")
        assert len((await home.http.get("/api/runs")).json()["runs"]) == 1
        await wire.ask(type="unsubscribe", id="4", run_id=followed)
        assert (await wire.ask(id="5", command=command, **launch))["created"] is True


async def test_a_launch_whose_run_cannot_be_read_has_one_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is made; the same key asks for it again."""

    async def fails(*_: object) -> None:
        raise StoreUnavailable("the disk is gone")

    async with house(tmp_path) as home, home.socket() as wire:
        launch = {"type": "launch", "key": "k", "project_id": home.project_id, "subscribe": True}
        launch["command"] = "/code-review small src"
        with monkeypatch.context() as broken:
            broken.setattr(Delivery, "follow", fails)
            await wire.send(id="1", **launch)
            assert (await wire.until(id="1"))["code"] == "store_unavailable"
        answers = [await wire.ask(id="1", **launch)]
        assert [it.get("created") for it in answers] == [False]


async def test_who_waits_for_a_turn_may_leave() -> None:
    """Several at once, as when their socket ends; whoever comes then waits for nobody."""
    turns, run_id = Turns(), RunId("r")

    async def take() -> None:
        async with turns.of(run_id):
            await asyncio.Event().wait()

    taking = [asyncio.create_task(take()) for _ in range(4)]
    await asyncio.sleep(0)
    for task in reversed(taking):
        task.cancel()
    ended = await asyncio.gather(*taking, return_exceptions=True)
    assert [type(it) for it in ended] == [asyncio.CancelledError] * 4
    async with asyncio.timeout(WAIT_SECONDS), turns.of(run_id):
        pass
    assert not turns._last


async def test_what_is_answered_while_answers_leave_comes_before_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer waits for a slow peer there, and messages are done meanwhile."""
    let_go = Session._let_answers_go
    async with house(tmp_path) as home:
        run_id = RunId(await home.launch())
        await home.end_of(run_id)

        async def meanwhile(session: Session) -> None:
            await let_go(session)
            monkeypatch.setattr(Session, "_let_answers_go", let_go)
            subscribe = Subscribe(id="s", run_id=run_id)
            await session._commands.answer(
                LOCAL_USER, subscribe, delivery=session._delivery, send=session.send
            )

        monkeypatch.setattr(Session, "_let_answers_go", meanwhile)
        async with home.socket() as wire:
            await wire.send(type="ping", id="p")
            frames = [await wire.receive() for _ in range(5)]
    kinds = [frame["type"].removeprefix("flow_run_") for frame in frames]
    assert kinds[1:] == ["ack", "ack", "subscribed", "created"]


async def test_a_stop_takes_a_peer_that_is_leaving(tmp_path: Path) -> None:
    """It has said so, and has not taken yet what was on its way."""
    async with house(tmp_path, agent=Talker(2_500), stall_seconds=600.0) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        async with raw_peer(home.url) as peer:
            await peer.send(subscribing(run_id))
            wire = wire_of(await stuck(home))
            await peer.send(frame(CLOSE, b"\x03\xe8"))
            async with asyncio.timeout(WAIT_SECONDS):
                while wire.conn.state is State.OPEN:
                    await asyncio.sleep(0)
            wire.shutdown()
            await peer.ended()


async def test_a_revocation_is_felt_though_its_answer_cannot_be_read(tmp_path: Path) -> None:
    """It is written: whoever is told that the store failed must not be wrong about who is in."""
    async with shared_house(tmp_path) as home:
        ann = await admit(home, "ann", tmp_path / "project")
        users = home.podium.sign_in.accounts._users
        with patch.object(users, "people", wraps=users.people) as people:
            people.side_effect = chain([StoreUnavailable("the disk is gone")], repeat(DEFAULT))
            async with socket_of(home, ann) as wire:
                assert (await home.http.delete("/api/users/ann")).status_code == 503
                assert await closed_with(wire) == 4401
        assert (await home.http.get("/api/runs", headers=ann.bearer)).status_code == 401
