"""Rules 7, 8 and 13: ids in prose, dimensions, deferred ideas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.evidence.deferred import collect, problem
from flows.evidence.dimensions import seen, silent
from flows.evidence.references import problems, prose_of
from flows.evidence.schema import parse_output
from flows.outputs import ClearedDimension, DeferredIdea, FindingsOutput
from protocol.ids import StepId
from protocol.report import Verdict, VerdictKind
from tests.flows.trees import finding, raw_answer, raw_finding

STEP = StepId("review.general")

# ── ids in prose ─────────────────────────────────────────────────────────────────────────────────


def test_an_id_that_leads_nowhere_is_told_with_its_place() -> None:
    told = problems(
        {"SEC-01": "as JUN-01 says, but not JUN-09", "the summary": "CON-01 is worse"},
        given=["SEC-01", "JUN-01"],
        settled={"SEC-01", "JUN-01"},
        ran={"SEC", "JUN"},
    )
    assert told == [
        "SEC-01 cites JUN-09, which does not exist",
        "the summary cites CON-01, of a role that did not run",
    ]


def test_an_id_that_got_lost_is_told() -> None:
    told = problems({}, given=["SEC-01", "JUN-01"], settled={"JUN-01"}, ran={"SEC", "JUN"})
    assert told == ["SEC-01 was reported and is not listed"]


@given(st.sets(st.sampled_from(["SEC-01", "SEC-02", "JUN-1-01"])), st.permutations(["SEC", "JUN"]))
def test_what_is_settled_is_no_problem(ids: set[str], ran: list[str]) -> None:
    prose = {id: f"see {' and '.join(sorted(ids))}" for id in ids}
    assert problems(prose, given=sorted(ids), settled=ids, ran=ran) == []


def test_everything_that_an_agent_wrote_is_prose() -> None:
    written = finding(
        title="t SEC-02",
        claim="SEC-03",
        impact="SEC-04",
        fix="SEC-05",
        verdict=Verdict(finding_id="JUN-01", kind=VerdictKind.CONFIRMED, reason="SEC-06"),
    )
    told = problems(prose_of([written]), given=[], settled={"JUN-01"}, ran={"JUN"})
    assert len(told) == 5


@pytest.mark.parametrize(
    ("note", "looked"),
    [
        ("nothing was looked for", False),
        ("Nothing could be read, so nothing was found.", False),
        ("I did not look into it.", False),
        ("It was not reviewed: no time.", False),
        ("Nothing is read from outside.", True),
        ("The length is not checked, and need not be.", True),
        ("No plain rule of this dimension matched in a.py.", True),
        ("Every lock is taken in one order.", True),
    ],
)
def test_a_note_may_say_that_nobody_looked(note: str, looked: bool) -> None:
    assert seen(ClearedDimension(dimension="races", note=note)) is looked


# ── dimensions ───────────────────────────────────────────────────────────────────────────────────


def test_a_dimension_is_covered_by_a_finding_or_a_cleared_line() -> None:
    answer = parse_output(
        "findings",
        raw_answer(
            raw_finding(category="Races"),
            cleared=[{"dimension": "locking order", "note": "one lock"}],
        ),
    )
    assert isinstance(answer, FindingsOutput)
    assert silent(answer, ["races", "locking", "cancellation"]) == ["cancellation"]
    assert silent(answer, []) == []


def test_a_label_that_names_nothing_covers_nothing() -> None:
    answer = parse_output("findings", raw_answer(raw_finding(category=" ")))
    assert isinstance(answer, FindingsOutput)
    assert silent(answer, ["access control"]) == ["access control"]


# ── deferred ideas ───────────────────────────────────────────────────────────────────────────────


def idea(**changes: str) -> DeferredIdea:
    fields = {
        "title": "A cache",
        "reason": "One caller.",
        "reopen_when": "a second caller appears",
        "source": "app/db.py",
    }
    return DeferredIdea(**(fields | changes))


@pytest.mark.parametrize(
    "trigger",
    "later|Later.|if time|if time permits|someday|some day, maybe|when needed|if there is time"
    "|at some point in the future|eventually|…| |TBD|n/a".split("|"),
)
def test_a_trigger_that_names_no_event_is_refused(trigger: str) -> None:
    assert problem(idea(reopen_when=trigger)) is not None


@pytest.mark.parametrize(
    "trigger",
    ["a second caller appears", "later than 2 s at p99", "if the timeout is hit", "when v2 ships"],
)
def test_a_concrete_trigger_is_taken(trigger: str) -> None:
    assert problem(idea(reopen_when=trigger)) is None


@pytest.mark.parametrize("field", ["reason", "source"])
def test_reason_and_source_are_needed(field: str) -> None:
    assert problem(idea(**{field: " \n"})) == f"no {field}"


def test_what_is_refused_is_noted() -> None:
    kept, notes = collect([idea(), idea(title="A queue", reopen_when="later")], STEP)
    assert [(it.title, it.step_id) for it in kept] == [("A cache", STEP)]
    assert notes == ["deferred idea left out (nothing concrete that would reopen it): A queue"]
