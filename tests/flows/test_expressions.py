"""The expression language: what it accepts, what it refuses, and that it always has a value."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.expressions import (
    MAX_LENGTH,
    ExpressionError,
    Scope,
    evaluate,
    holds,
    names,
    parse,
)
from flows.facts import StepFact
from protocol.commands import Band
from protocol.ids import StepId
from protocol.states import StepStatus

SCOPE = Scope(
    inputs={"strict": True, "base": "main", "none": None},
    signals={"data": 3},
    band=Band.MEDIUM,
    steps={
        StepId("merge"): StepFact(
            status=StepStatus.COMPLETED, output={"corrective": ["A", "B"], "n": {"deep": 7}}
        ),
        StepId("merge.late"): StepFact(status=StepStatus.FAILED, output=None),
    },
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.strict", True),
        ("inputs.base == 'main'", True),
        ('inputs.base == "other"', False),
        ("signals.data", 3),
        ("signals.absent", None),
        ("not signals.absent", True),
        ("signals.data > 2 and signals.data <= 3", True),
        ("signals.absent > 0", False),
        ("signals.absent == null", True),
        ("signals.absent != 0", True),
        ("inputs.strict == 1", False),
        ("1 == 1.0", True),
        ("band >= medium", True),
        ("band > medium", False),
        ("band < large", True),
        ("band == 'medium'", True),
        ("band == 'other'", False),
        ("band == 1", False),
        ("steps.merge.status == 'completed'", True),
        ("steps.merge.late.status == 'failed'", True),
        ("steps.merge.output.n.deep", 7),
        ("steps.merge.output.corrective.1", "B"),
        ("steps.merge.output.corrective.9", None),
        ("steps.merge.output.n.deep.deeper", None),
        ("steps.merge.late.output.anything", None),
        ("steps.unknown.status", None),
        ("count(steps.merge.output.corrective) > 0", True),
        ("count(steps.unknown.output.corrective)", 0),
        ("any(signals.absent, signals.data)", True),
        ("all(signals.absent, signals.data)", False),
        ("any(steps.merge.output.corrective)", True),
        ("false or true and false", False),
        ("(false or true) and true", True),
        ("not (1 > 2)", True),
        ("success()", True),
        ("failure()", False),
        ("always()", True),
    ],
)
def test_value(text: str, value: Any) -> None:
    found = evaluate(parse(text), SCOPE)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("inputs.a ==", 12),
        ("inputs.a == == 1", 13),
        ("(inputs.a", 10),
        ("inputs.a)", 9),
        ("nonsense", 1),
        ("inputs", 1),
        ("band.name", 1),
        ("eval(1)", 1),
        ("count()", 1),
        ("count(1, 2)", 1),
        ("success(1)", 1),
        ("any(1 2)", 7),
        ("1 and", 6),
        ("and 1", 1),
        ("'open", 1),
        ("inputs.a & 1", 10),
        ("12abc", 1),
        ("1 < 2 < 3", 7),
        ("x" * (MAX_LENGTH + 1), MAX_LENGTH + 1),
    ],
)
def test_refusal_names_the_column(text: str, column: int) -> None:
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    assert refused.value.column == column


def test_depth_is_bounded() -> None:
    assert evaluate(parse("(" * 10 + "true" + ")" * 10), SCOPE) is True
    with pytest.raises(ExpressionError, match="nested too deeply"):
        parse("(" * 100 + "true" + ")" * 100)
    with pytest.raises(ExpressionError, match="nested too deeply"):
        parse("not " * 100 + "true")


def test_a_condition_without_a_status_function_implies_success() -> None:
    after_failure = Scope(succeeded=False, failed=True)
    assert holds(parse("true"), Scope())
    assert not holds(parse("true"), after_failure)
    assert holds(parse("always()"), after_failure)
    assert holds(parse("failure()"), after_failure)
    assert not holds(parse("success()"), after_failure)


def test_names_are_told_for_validation() -> None:
    found = names(parse("count(steps.a.output.x) > 0 and (signals.b or not inputs.c == band)"))
    assert found.paths == {"steps.a.output.x", "signals.b", "inputs.c", "band"}
    assert found.functions == {"count"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
PIECES = st.sampled_from(
    "inputs.a signals.b band steps.s.output.x medium null 'q' 3 count( any( all( ) ( , == != < >="
    " and or not success() always()".split()
)


@given(st.lists(PIECES, max_size=14), JSON, JSON)
def test_what_parses_always_has_a_value(pieces: list[str], one: Any, other: Any) -> None:
    try:
        expression = parse(" ".join(pieces))
    except ExpressionError:
        return
    scope = Scope(
        inputs={"a": one}, steps={StepId("s"): StepFact(output={"x": other})}, band=Band.SMALL
    )
    evaluate(expression, scope)
    evaluate(expression, Scope())


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse(text)
    except ExpressionError as error:
        assert 1 <= error.column <= len(text) + 1
