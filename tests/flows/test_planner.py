"""Plans: deterministic, capped, and with a reason for everything that was left out."""

from itertools import chain
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.planner import plan
from flows.situation import RoleModel, Situation
from flows.slash import Invocation, parse
from protocol.commands import Band
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import StepId, is_uuid
from protocol.plan import Endpoint, FlowPlan, OnFailure, StepKind, Tree
from tests.flows.plans import CATALOGUE, REVIEW, TRIAGE, invoke, situation

QUIET = {"app/a.py": "x = 1\n"}
BUSY_LINES = [
    "async def f(): await g()",
    "await asyncio.sleep(1)",
    "db.execute('SELECT a FROM b')",
    "n = int(argv[1])",
    "m = json.loads(text)",
    *["except E:", "raise E", "finally: retry()", "state = 1", "emit(status)"],
    *["httpx.get(u, timeout=1)", "queue.put(x)", "worker()"],
    *["    def f(): ..."] * 10,
    *["import a"] * 8,
]
BUSY = {"app/a.py": "\n".join(BUSY_LINES)}
HASHES = CATALOGUE.hashes(REVIEW)


def review(where: Situation | None = None, **changes: Any) -> FlowPlan:
    return plan(REVIEW, invoke(**changes), where or situation(BUSY), HASHES)


def roles(planned: FlowPlan) -> list[str]:
    return [step.role for step in planned.steps if step.role is not None]


def omitted(planned: FlowPlan) -> dict[str, str]:
    return {seat.role: seat.reason for seat in planned.omitted}


def many(count: int, suffix: str = "py", folder: str = "src") -> dict[str, str]:
    return {f"{folder}/f{number:03}.{suffix}": "x = 1\n" for number in range(count)}


# ── determinism ──────────────────────────────────────────────────────────────────────────────────


def test_the_same_launch_on_the_same_tree_has_the_same_plan() -> None:
    first, second = review(), review()
    assert first == second
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert is_uuid(first.plan_id)
    assert msgspec.json.decode(msgspec.json.encode(first), type=FlowPlan) == first


@pytest.mark.parametrize(
    "other",
    [
        lambda: review(band=Band.LARGE),
        lambda: review(inputs={"focus": "x"}),
        lambda: review(situation(QUIET)),
        lambda: review(situation(BUSY, description="other")),
        lambda: plan(REVIEW, invoke(), situation(BUSY), HASHES | {"security@1": "0"}),
    ],
)
def test_everything_decided_is_in_the_plan_id(other: Any) -> None:
    assert other().plan_id != review().plan_id


def test_the_order_of_files_does_not_matter() -> None:
    files = many(100)
    backwards = dict(reversed(files.items()))
    assert review(situation(files)).scope == review(situation(backwards)).scope


def test_the_command_of_a_plan_launches_it_again() -> None:
    planned = review(
        band=Band.LARGE, inputs={"focus": "a b", "paths": ["app"]}, skip=["test"], exclude=["docs"]
    )
    again = parse(planned.command, CATALOGUE)
    assert isinstance(again, Invocation)
    assert plan(REVIEW, again, situation(BUSY), HASHES) == planned


# ── roster ───────────────────────────────────────────────────────────────────────────────────────


def test_without_a_signal_only_the_spine_is_seated() -> None:
    planned = review(situation(QUIET), band=Band.LARGE)
    assert roles(planned) == ["generalist", "security", "validator"]
    assert set(omitted(planned).values()) == {"signal absent"}
    assert len(omitted(planned)) == 8


def test_a_small_band_seats_the_weightiest_specialist() -> None:
    planned = review()
    assert roles(planned) == ["generalist", "security", "concurrency", "validator"]
    assert omitted(planned)["data"] == "over the cap of the small band"
    assert omitted(planned)["devops"] == "signal absent"
    assert [signal.id for signal in planned.signals if signal.id in omitted(planned)]


def test_larger_bands_seat_more() -> None:
    assert roles(review(band=Band.MEDIUM)) == [
        "generalist",
        "security",
        "concurrency",
        "data",
        "edge",
        "validator",
    ]
    large = review(band=Band.LARGE)
    assert omitted(large) == {"devops": "signal absent"}


def test_every_seat_has_a_reason() -> None:
    seats = {seat.role: seat.reason for seat in review(band=Band.LARGE).roster}
    assert seats["security"] == "always there"
    assert seats["data"] == "signal data: 1"
    assert seats["validator"] == "when there is something to judge"


def test_only_seats_whom_it_names_and_who_judges() -> None:
    planned = review(only=["devops", "data"])
    assert roles(planned) == ["data", "devops", "validator"]
    assert omitted(planned)["security"] == "not named by --only"
    assert planned.warnings == [
        "the required role generalist is left out: not named by --only",
        "the required role security is left out: not named by --only",
    ]
    assert [step.id for step in planned.steps if step.kind is StepKind.CODE] == [
        "merge",
        "reconcile",
        "report",
    ]


def test_skip_leaves_out_and_warns_of_a_required_role() -> None:
    planned = review(skip=["security", "concurrency"])
    assert roles(planned) == ["generalist", "data", "validator"]
    assert omitted(planned)["concurrency"] == "skipped by --skip"
    assert planned.warnings == ["the required role security is left out: skipped by --skip"]


def test_a_specialist_may_wait_for_a_larger_band() -> None:
    steps = [
        msgspec.structs.replace(step, min_band=Band.MEDIUM) if step.role == "concurrency" else step
        for step in REVIEW.steps
    ]
    flow = msgspec.structs.replace(REVIEW, steps=steps)
    small = plan(flow, invoke(), situation(BUSY), HASHES)
    medium = plan(flow, invoke(band=Band.MEDIUM), situation(BUSY), HASHES)
    assert omitted(small)["concurrency"] == "needs the medium band"
    assert "data" in roles(small)
    assert "concurrency" in roles(medium)


def test_somebody_must_be_left() -> None:
    with pytest.raises(ProtocolError, match="no role is left") as error:
        review(situation(QUIET), skip=["generalist", "security"])
    assert error.value.code is ErrorCode.BAD_ARGUMENTS


# ── steps ────────────────────────────────────────────────────────────────────────────────────────


def test_needs_name_who_is_seated() -> None:
    planned = review(situation(many(25)), band=Band.LARGE)
    steps = {step.id: step for step in planned.steps}
    assert steps[StepId("merge")].needs == [
        "review.general.1",
        "review.general.2",
        "review.general.3",
        "review.security",
    ]
    for step in planned.steps:
        assert set(step.needs) <= steps.keys()


def test_who_waited_for_an_absent_step_waits_for_what_that_one_waited_for() -> None:
    planned = review(situation(QUIET), skip=["validator"])
    (reconcile,) = (step for step in planned.steps if step.id == "reconcile")
    assert reconcile.needs == ["merge"]


@pytest.mark.parametrize(
    ("files", "band", "batches"),
    [
        (1, Band.SMALL, 1),
        (20, Band.SMALL, 1),
        (10, Band.LARGE, 1),
        (11, Band.LARGE, 2),
        (60, Band.MEDIUM, 3),
        (150, Band.LARGE, 6),
    ],
)
def test_batches_share_the_files(files: int, band: Band, batches: int) -> None:
    planned = review(situation(many(files)), band=band)
    slices = [step.files for step in planned.steps if step.role == "generalist"]
    assert len(slices) == batches
    assert list(chain(*slices)) == [file.path for file in planned.scope.files]
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_a_specialist_gets_the_whole_scope_and_a_validator_no_slice() -> None:
    steps = {step.role: step for step in review().steps if step.role is not None}
    assert steps["security"].files == ["app/a.py"]
    assert steps["validator"].files == []
    assert steps["security"].brief == "security@1"
    assert steps["security"].prefix == "SEC"


def test_losing_a_code_step_loses_the_run() -> None:
    for step in review().steps:
        assert (step.on_failure is OnFailure.FAIL) == (step.kind is StepKind.CODE)


def test_a_plan_has_the_hashes_of_what_it_uses() -> None:
    hashes = review(situation(QUIET)).hashes
    assert list(hashes) == [
        "evidence@1",
        "findings",
        "generalist@1",
        "preamble@1",
        "security@1",
        "validator@1",
        "verdicts",
    ]


def test_a_flow_without_files_has_no_scope() -> None:
    planned = plan(
        TRIAGE,
        invoke("issue-triage", inputs={"issue": "it is slow"}),
        situation(BUSY),
        CATALOGUE.hashes(TRIAGE),
    )
    assert planned.scope.kind == "none"
    assert [step.id for step in planned.steps] == ["triage", "report"]
    assert planned.steps[0].files == []
    assert planned.inputs == {"issue": "it is slow"}


# ── scope ────────────────────────────────────────────────────────────────────────────────────────


def test_the_scope_is_capped_and_says_so() -> None:
    scope = review(situation(many(100)), band=Band.SMALL).scope
    assert (len(scope.files), scope.total_files) == (20, 100)
    assert len(scope.left_out) == 20
    assert set(scope.left_out) <= set(many(100)) - {file.path for file in scope.files}
    few = review(situation(many(20)), band=Band.SMALL).scope
    assert (len(few.files), few.total_files, few.left_out) == (20, 20, [])


def test_a_sample_is_spread_over_the_tree() -> None:
    files = many(50, folder="a") | many(50, folder="m") | many(50, folder="z")
    scope = review(situation(files), band=Band.SMALL).scope
    folders = [file.path[0] for file in scope.files]
    assert {folder: folders.count(folder) for folder in "amz"} == {"a": 7, "m": 7, "z": 6}


def test_sources_come_before_prose_and_prose_before_noise() -> None:
    files = many(10) | many(8, "md") | many(30, folder="node_modules") | {"uv.lock": ""}
    paths = [file.path for file in review(situation(files), band=Band.SMALL).scope.files]
    assert sum(path.endswith(".py") and path.startswith("src") for path in paths) == 10
    assert sum(path.endswith(".md") for path in paths) == 8
    assert sum(path.startswith("node_modules") or path == "uv.lock" for path in paths) == 2


def test_what_changed_comes_first() -> None:
    whole = situation(many(100))
    changed = situation({"zz/last.md": "x"}, status="modified")
    both = msgspec.structs.replace(whole, files=[*whole.files, *changed.files])
    paths = [file.path for file in review(both, band=Band.SMALL).scope.files]
    assert "zz/last.md" in paths
    plain = situation(many(100) | {"zz/last.md": "x"})
    assert "zz/last.md" not in [f.path for f in review(plain, band=Band.SMALL).scope.files]


@given(st.integers(1, 400), st.sampled_from(list(Band)))
def test_a_sample_has_each_file_once_and_none_too_many(count: int, band: Band) -> None:
    scope = review(situation(many(count)), band=band).scope
    paths = [file.path for file in scope.files]
    assert paths == sorted(set(paths))
    assert len(paths) == min(count, REVIEW.bands[band].caps.files)


def test_nothing_to_review_is_refused() -> None:
    with pytest.raises(ProtocolError, match="this folder has no files"):
        review(situation({}))
    for tree in (Tree(id="t" * 40, files=1), Tree(id="t" * 40, files=0, left_out={"binary": 1})):
        with pytest.raises(ProtocolError, match="nothing to review"):
            review(situation({}, tree=tree))
    assert review(situation({}, deleted=["a.py"])).scope.deleted == ["a.py"]


# ── the model's window ───────────────────────────────────────────────────────────────────────────


def test_a_plan_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(ProtocolError) as error:
        review(situation(QUIET, context_tokens=8_192))
    assert error.value.code is ErrorCode.BAD_ARGUMENTS
    assert error.value.hint is not None
    assert "window of" in error.value.hint
    assert review(situation(QUIET, context_tokens=32_768)).steps
    assert review(situation(QUIET, context_tokens=None)).steps


def test_the_change_counts_for_the_window() -> None:
    window = 20_000
    assert review(situation(QUIET, context_tokens=window), skip=["validator"]).steps
    big = situation(QUIET, context_tokens=window, diff={"app/a.py": "+x\n" * 8_000})
    with pytest.raises(ProtocolError, match="needs about"):
        review(big, skip=["validator"])


# ── models of roles ──────────────────────────────────────────────────────────────────────────────

BIG = Endpoint(name="gpu", host="gpu:8000", model="big", known_as="big")


def given_to(*roles: str, endpoint: Endpoint = BIG, window: int | None = None) -> Situation:
    own = {role: RoleModel(endpoint=endpoint, context_tokens=window) for role in roles}
    return situation(QUIET, context_tokens=32_768, roles=own)


def test_a_role_keeps_its_own_model_and_the_others_the_plans() -> None:
    planned = review(given_to("security", "devops"))
    own = {step.role: step.endpoint for step in planned.steps if step.endpoint is not None}
    assert own == {"security": BIG}, "devops is not seated"
    assert planned.role_endpoints == own
    by_role = {step.role: planned.endpoint_of(step) for step in planned.steps}
    assert by_role["generalist"] == planned.endpoint
    assert by_role["security"] == BIG
    assert planned.plan_id != review(situation(QUIET, context_tokens=32_768)).plan_id
    same = given_to("security", endpoint=planned.endpoint, window=32_768)
    assert review(same).role_endpoints == {}, "the plan's own model is nothing to say"


def test_each_step_must_fit_its_own_model() -> None:
    with pytest.raises(ProtocolError, match=r"step review.security needs .* big has 8192"):
        review(given_to("security", window=8_192))
    assert review(given_to("security", window=None)), "an unknown window refuses nothing"
    roomy = RoleModel(endpoint=BIG, context_tokens=65_536)
    small = situation(QUIET, context_tokens=8_192, roles={"security": roomy})
    with pytest.raises(ProtocolError, match="qwen has 8192") as error:
        review(small)
    assert "review.security" not in error.value.message


def test_a_scripted_role_makes_a_scripted_plan() -> None:
    demo = msgspec.structs.replace(BIG, demo=True)
    assert review(given_to("security", endpoint=demo)).demo
    assert not review(given_to("security")).demo
