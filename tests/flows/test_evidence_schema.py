"""Rule 1: the form of an answer, and what an empty answer has to say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.evidence.schema import EmptyError, EvidenceError, SchemaError, parse_output
from flows.outputs import FindingsOutput, TriageOutput, VerdictsOutput
from tests.flows.trees import raw_answer, raw_citation, raw_finding

VERDICTS = {
    "verdicts": [{"finding_id": "SEC-01", "verdict": "refuted", "reason": "no", "citations": []}],
    "summary": "s",
    "end": "complete",
}
TRIAGE: dict[str, Any] = {
    "type": "bug",
    "summary": "s",
    "severity": None,
    "reproducible": None,
    "missing": [],
    "suspected": [],
    "end": "complete",
}


def test_a_good_answer_of_each_kind_is_taken() -> None:
    assert isinstance(parse_output("findings", raw_answer(raw_finding())), FindingsOutput)
    assert isinstance(parse_output("findings", raw_answer()), FindingsOutput)
    assert isinstance(parse_output("verdicts", VERDICTS), VerdictsOutput)
    assert isinstance(parse_output("triage", TRIAGE), TriageOutput)


@pytest.mark.parametrize(
    ("answer", "path", "expected"),
    [
        (raw_answer(raw_finding(title=1)), "findings[0].title", "Expected `str`, got `int`"),
        (raw_answer(raw_finding(extra=1)), "findings[0]", "unknown field `extra`"),
        (raw_answer(raw_finding(severity="high")), "findings[0].severity", "Invalid enum"),
        (raw_answer(raw_finding(citations=[])), "findings[0].citations", "length >= 1"),
        (raw_answer(end="cut"), "end", "cut"),
        ({}, "", "missing required field"),
        (None, "", "Expected `object`, got `null`"),
        ("text", "", "Expected `object`, got `str`"),
    ],
)
def test_a_wrong_answer_is_told_where_and_what(answer: object, path: str, expected: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse_output("findings", answer)
    assert caught.value.path == path
    assert expected in caught.value.expected
    assert str(caught.value).startswith(path or "the answer")


@pytest.mark.parametrize(
    "changes",
    [
        {"negative": False, "searched": ["all"]},
        {"negative": True, "searched": []},
        {"negative": True, "searched": [" \t"]},
    ],
)
def test_an_empty_answer_has_to_say_what_was_searched(changes: dict[str, Any]) -> None:
    with pytest.raises(EmptyError, match="searched"):
        parse_output("findings", raw_answer(**changes))


def test_findings_and_a_negative_answer_exclude_each_other() -> None:
    with pytest.raises(EmptyError, match="negative"):
        parse_output("findings", raw_answer(raw_finding(), negative=True))


def test_texts_are_printable_afterwards() -> None:
    answer = raw_answer(
        raw_finding(title="a\x1b[31mred\ud800", citations=[raw_citation("a\r\n\u202eb")])
    )
    taken = parse_output("findings", answer)
    assert isinstance(taken, FindingsOutput)
    assert taken.findings[0].title == "a\ufffd[31mred\ufffd"
    assert taken.findings[0].citations[0].quote == "a \n\ufffdb"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.sampled_from(["findings", "verdicts", "triage"]), json_values)
def test_anything_else_is_an_evidence_error(name: str, raw: object) -> None:
    with pytest.raises(EvidenceError):
        parse_output(name, raw)


def test_a_very_deep_answer_is_an_evidence_error() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EvidenceError):
        parse_output("findings", raw_answer(summary=deep))


@pytest.mark.parametrize(
    "answer",
    [
        {**raw_answer(), "x\x1b[31m\n\u202e" + "y" * 100_000: 1},
        {**raw_answer(), "end": "x\x1b[31m\n\u202e" + "y" * 100_000},
    ],
)
def test_what_is_said_of_an_answer_is_one_short_plain_line(answer: dict[str, Any]) -> None:
    """It stands in a frame, in the store and in the next prompt."""
    with pytest.raises(SchemaError) as wrong:
        parse_output("findings", answer)
    said = str(wrong.value)
    assert len(said) < 400
    assert not set(said) & set("\x1b\n\u202e")
    assert "[31m" in said
