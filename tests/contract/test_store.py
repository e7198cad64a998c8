"""What every store promises, through the port alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from flows import engine
from protocol.commands import Band
from protocol.frames import Channel, FlowRunFinished, FlowRunStepDelta, StoredFrame
from protocol.ids import PlanId, RunId, Seq, StepId, UserId
from protocol.plan import FlowPlan
from protocol.resources import Run, Totals, Usage
from protocol.states import IllegalMove, RunStatus, StepStatus
from protocol.users import UserKind
from server.ports import (
    AttemptRef,
    Fenced,
    KeyConflict,
    LogEntry,
    NameTaken,
    NewRun,
    NotStored,
    StepChange,
    Store,
    TokenRecord,
)
from server.stores.sqlite import SqliteStore
from server.world import SystemClock
from tests.flows.plans import PROJECT, review_shape

STEP = StepId("review.security")
NOBODY = UserId("local")
ANN, BEN = UserId("ann"), UserId("ben")


class Published:
    """What the hub was handed."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    def __call__(self, entries: Sequence[LogEntry]) -> None:
        self.entries += entries


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
async def store(tmp_path: Path, published: Published) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(
        tmp_path, clock=SystemClock(), committed=published, boot_id="b", tick=0
    ) as opened:
        yield opened


def new_run(run_id: str, *, key: str | None = None, body_hash: str = "h") -> NewRun:
    plan: FlowPlan = review_shape()
    run = Run(
        id=RunId(run_id),
        project_id=PROJECT,
        flow_name="code-review",
        band=Band.SMALL,
        model=None,
        status=RunStatus.QUEUED,
        input={"question": "q"},
        report=None,
        error=None,
        created_at="2026-01-01T00:00:00.000Z",
        updated_at="2026-01-01T00:00:00.000Z",
    )
    return NewRun(
        run=run,
        user_id=NOBODY,
        key=key,
        body_hash=body_hash,
        command="/code-review",
        plan=plan,
        patches={"a.py": "+ b"},
        facts=engine.initial(plan),
    )


async def running(store: Store, run_id: str) -> AttemptRef:
    """A run with one attempt under way."""
    await store.launch(new_run(run_id))
    await store.change_run(RunId(run_id), RunStatus.RUNNING, [])
    ref = AttemptRef(RunId(run_id), STEP, 0)
    return await store.start_attempt(ref, task_id=f"t-{run_id}", session_id=None, frames=[])


def delta(ref: AttemptRef, offset: int, text: str) -> FlowRunStepDelta:
    return FlowRunStepDelta(
        run_id=ref.run_id,
        step_id=ref.step_id,
        attempt=ref.attempt,
        channel=Channel.TEXT,
        offset=offset,
        text=text,
    )


def finished(run_id: str, status: RunStatus) -> list[StoredFrame]:
    totals = Totals(
        steps=0, completed=0, failed=0, skipped=0, cancelled=0, attempts=0, usage=Usage(),
        seconds=0, findings=0, citations_verified=0, citations_total=0,
    )  # fmt: skip
    return [FlowRunFinished(run_id=RunId(run_id), status=status, totals=totals)]


async def whole(store: Store, run_id: str, *, page: int = 3) -> list[LogEntry]:
    entries: list[LogEntry] = []
    while True:
        after = entries[-1].seq if entries else Seq(0)
        found = await store.read(RunId(run_id), after=after, limit=page)
        if not found:
            return entries
        entries += found


async def end(store: Store, run_id: str, status: RunStatus) -> bool:
    return await store.finish_run(
        RunId(run_id),
        status,
        report=None,
        report_json=b"{}",
        error=None,
        frames=finished(run_id, status),
    )


async def test_fifty_launches_with_one_key_are_one_run(store: Store) -> None:
    made = await asyncio.gather(*(store.launch(new_run(f"r{n}", key="k")) for n in range(50)))
    assert sum(launched.created for launched in made) == 1
    assert len({launched.run.id for launched in made}) == 1
    with pytest.raises(KeyConflict):
        await store.launch(new_run("other", key="k", body_hash="other"))
    with pytest.raises(KeyConflict):
        await store.launched(NOBODY, "k", "other")
    assert await store.get(RunId("other")) is None


async def test_a_stale_attempt_writes_nothing(store: Store) -> None:
    ref = await running(store, "r")
    stale = AttemptRef(ref.run_id, ref.step_id, 0)
    before = await whole(store, "r")
    for write in (
        store.append(stale, [delta(stale, 0, "late")]),
        store.change_step(stale, StepChange(status=StepStatus.COMPLETED, output={}), []),
    ):
        with pytest.raises(Fenced):
            await write
    assert await whole(store, "r") == before


async def test_an_illegal_move_writes_nothing_and_harms_nobody(store: Store) -> None:
    ref = await running(store, "r")
    good, bad = await asyncio.gather(
        store.append(ref, [delta(ref, 0, "fine")]),
        store.change_step(ref, StepChange(status=StepStatus.PENDING), [delta(ref, 0, "no")]),
        return_exceptions=True,
    )
    assert good is None
    assert isinstance(bad, IllegalMove)
    assert b"fine" in (await whole(store, "r"))[-1].data


async def test_logs_are_gap_free_whatever_is_written_at_once(
    store: Store, published: Published
) -> None:
    refs = [await running(store, f"r{n}") for n in range(4)]
    writes = [
        store.append(ref, [delta(ref, 1_000 * n, f"{n} ")]) for n in range(30) for ref in refs
    ]
    await asyncio.gather(*writes)
    for ref in refs:
        log = await whole(store, ref.run_id)
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
        told = [entry for entry in published.entries if entry.run_id == ref.run_id]
        assert told == log, "what is published is what was committed, in order"


async def test_deltas_that_follow_each_other_become_one_frame(store: Store) -> None:
    ref = await running(store, "r")
    words = [delta(ref, 0, "ab"), delta(ref, 2, "cd"), delta(ref, 9, "not next")]
    await store.append(ref, words)
    log = [msgspec.json.decode(entry.data) for entry in await whole(store, "r")]
    assert [frame["text"] for frame in log if "text" in frame] == ["abcd", "not next"]
    await store.append(ref, [delta(ref, 100 + 3_000 * n, "x" * 3_000) for n in range(3)])
    sizes = [len(entry.data) for entry in await whole(store, "r")]
    assert max(sizes[-3:]) < 4_096 + 300


async def test_text_that_is_not_unicode_is_replaced(store: Store) -> None:
    ref = await running(store, "r")
    await store.append(ref, [delta(ref, 0, "a\ud800b")])
    frame = msgspec.json.decode((await whole(store, "r"))[-1].data)
    assert frame["text"] == "a\ufffdb"


async def test_the_wish_to_stop_a_step_is_kept(store: Store) -> None:
    ref = await running(store, "r")
    assert await store.cancel_step(ref.run_id, ref.step_id)
    assert (await store.facts(ref.run_id)).steps[ref.step_id].cancelling
    await store.change_step(ref, StepChange(status=StepStatus.CANCELLED), [])
    assert not await store.cancel_step(ref.run_id, ref.step_id)


async def test_there_is_one_end(store: Store) -> None:
    await running(store, "r")
    ends = await asyncio.gather(
        *(end(store, "r", status) for status in (RunStatus.COMPLETED, RunStatus.FAILED) * 25)
    )
    assert sum(ends) == 1
    log = [msgspec.json.decode(entry.data) for entry in await whole(store, "r")]
    assert [frame["type"] for frame in log].count("flow_run_finished") == 1
    assert not await store.change_run(RunId("r"), RunStatus.CANCELLING, [])
    assert not await store.request_finish(RunId("r"), [])


async def test_folding_changes_no_byte_and_expiry_is_said(store: Store) -> None:
    ref = await running(store, "r")
    for number in range(40):
        await store.append(ref, [delta(ref, 1_000 * number, "é" * number)])
    await end(store, "r", RunStatus.FAILED)
    before = await whole(store, "r")
    outline = await store.read(RunId("r"), after=Seq(0), limit=100, outline=True)
    assert await store.fold()
    assert not await store.fold()
    assert await whole(store, "r") == before
    assert await store.read(RunId("r"), after=Seq(0), limit=100, outline=True) == outline
    assert await store.expire("2999-01-01T00:00:00.000Z") == 1
    log = await store.log(RunId("r"))
    assert log is not None
    assert log.floor == log.head == len(before)


async def test_facts_plans_and_projects_come_back_as_they_were(
    store: Store, tmp_path: Path
) -> None:
    ref = await running(store, "r")
    await store.change_step(
        ref, StepChange(status=StepStatus.QUEUED, reason="api_error", retried=True), []
    )
    again = await store.start_attempt(ref, task_id="t2", session_id="s", frames=[])
    done = StepChange(status=StepStatus.COMPLETED, output={"a": [1]}, usage=Usage(requests=2))
    await store.change_step(again, done, [])
    fact = (await store.facts(RunId("r"))).steps[STEP]
    assert (fact.status, fact.attempt, fact.retries) == (StepStatus.COMPLETED, 2, 1)
    assert fact.output == {"a": [1]}
    attempts = await store.attempts(RunId("r"))
    assert [attempt.reason for attempt in attempts] == ["api_error", None]
    assert await store.patches(RunId("r")) == {"a.py": "+ b"}
    assert await store.unfinished() == ["r"]
    project = await store.add_project(tmp_path, "one")
    assert await store.add_project(tmp_path, "one") == project
    plan = review_shape()
    await store.save_plan(plan, {"a": "b"})
    assert await store.plan(plan.plan_id) == (plan, {"a": "b"})
    assert await store.plan(PlanId("none")) is None


# --- users --------------------------------------------------------------------------------------


def token(id: str, user: str) -> TokenRecord:
    return TokenRecord(
        id=id,
        user_id=UserId(user),
        digest=id.encode(),
        label="",
        created_at="2026-01-01T00:00:00.000Z",
        expires_at=None,
    )


async def test_what_belongs_to_a_project_is_open_to_its_members(
    store: SqliteStore, tmp_path: Path
) -> None:
    project = await store.add_project(tmp_path, "one")
    await store.add_user(ANN, UserKind.USER, [project.id], token("a", "ann"))
    await store.add_user(BEN, UserKind.USER, [], token("b", "ben"))

    def of(run_id: str, user: UserId) -> NewRun:
        new = new_run(run_id)
        run = msgspec.structs.replace(new.run, project_id=project.id)
        return msgspec.structs.replace(new, run=run, user_id=user)

    with pytest.raises(NotStored):
        await store.launch(of("x", BEN))
    assert await store.get(RunId("x")) is None
    await store.launch(of("r", ANN))
    await store.launch(of("s", NOBODY))

    async def seen(user: UserId) -> tuple[list[str], bool, bool]:
        runs = await store.runs(user, project_id=None, before=None, limit=9)
        one = await store.visible(user, RunId("r")) is not None
        return [run.id for run in runs], one, await store.open_project(user, project.id) is not None

    assert await seen(ANN) == (["r"], True, True)
    assert await seen(BEN) == ([], False, False)
    assert await seen(NOBODY) == (["s"], False, True)
    await store.change_memberships(ANN, add=[], remove=[project.id])
    assert await seen(ANN) == ([], False, False)
    await store.change_memberships(ANN, add=[project.id, project.id], remove=[])
    assert await seen(ANN) == (["r"], True, True)
    await store.revoke_user(ANN)
    assert await seen(ANN) == ([], False, False)
    await store.readmit_user(ANN, [], token("c", "ann"))
    assert await seen(ANN) == ([], False, False), "what it was a member of is not given back"


async def test_a_name_is_taken_in_every_case_and_for_ever(store: SqliteStore) -> None:
    await store.add_user(ANN, UserKind.USER, [], token("a", "ann"))
    await store.revoke_user(ANN)
    for name in ("ann", "ANN", "local"):
        with pytest.raises(NameTaken):
            await store.add_user(UserId(name), UserKind.USER, [], token(f"new {name}", name))
    people = await store.people()
    assert [(user.id, bool(user.revoked_at)) for user in people.users] == [
        ("local", False),
        ("ann", True),
    ]
    assert [(it.id, bool(it.revoked_at)) for it in people.tokens] == [("a", True)]


async def test_an_ended_session_is_kept_for_its_time(store: SqliteStore) -> None:
    await store.end_session("old", expires_at="2001-01-01T00:00:00.000Z")
    await store.end_session("new", expires_at="2999-01-01T00:00:00.000Z")
    assert (await store.people()).ended_sessions == {"new": "2999-01-01T00:00:00.000Z"}
