"""Slash commands: grammar, refusals with their column, and writing as the inverse of reading."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.canonical import canonical
from flows.inputs import check_value
from flows.model import Flow
from flows.registry import build
from flows.slash import (
    Builtin,
    Invocation,
    SlashError,
    band_hint,
    from_fields,
    no_run,
    parse,
    roles_of,
)
from protocol.commands import Band
from protocol.errors import ErrorCode
from tests.flows.plans import CATALOGUE, REVIEW, TRIAGE
from tests.flows.test_registry import BRIEFS, MINIMAL

EVERYTHING = (
    MINIMAL
    + """
[[inputs]]
name = "mode"
type = "enum"
choices = ["strict", "exploratory"]
position = 0
required = true
summary = "how"

[[inputs]]
name = "document"
type = "document"
position = 1
summary = "what"

[[inputs]]
name = "deep"
type = "flag"
flag = "--deep"
summary = "more"

[[inputs]]
name = "note"
type = "text"
flag = "--note"
summary = "a note"

[[inputs]]
name = "areas"
type = "target"
flag = "--area"
many = true
summary = "where"
"""
)
OWN = build(flows={"own.toml": EVERYTHING}, briefs=BRIEFS)


def read(text: str) -> Invocation:
    found = parse(text, CATALOGUE)
    assert isinstance(found, Invocation)
    return found


def refused(text: str, catalogue: Any = CATALOGUE) -> SlashError:
    with pytest.raises(SlashError) as error:
        parse(text, catalogue)
    return error.value


# ── what is understood ───────────────────────────────────────────────────────────────────────────


def test_the_whole_grammar() -> None:
    found = read(
        "/code-review medium --base origin/main --only security,test --skip=validator"
        ' --exclude docs --exclude "a b" src/app lib "is the cache right?"'
    )
    assert found == Invocation(
        flow="code-review",
        band=Band.MEDIUM,
        inputs={
            "base": "origin/main",
            "paths": ["src/app", "lib"],
            "focus": "is the cache right?",
        },
        only=["security", "test"],
        skip=["validator"],
        exclude=["docs", "a b"],
    )


@pytest.mark.parametrize("name", ["/code-review", "/review", "/han:code-review", "  /review  "])
def test_names_of_one_flow(name: str) -> None:
    assert read(name) == Invocation(flow="code-review")


def test_a_first_word_that_is_no_band_is_a_target() -> None:
    assert read("/review src small").inputs == {"paths": ["src", "small"]}
    assert read("/review ./small").inputs == {"paths": ["small"]}
    assert read("/review small").band is Band.SMALL
    assert read("/review --base main large src").band is Band.LARGE


@pytest.mark.parametrize("written", ["large", "LARGE", "Large"])
def test_a_band_may_be_written_in_capitals(written: str) -> None:
    assert read(f"/code-review {written} src") == read("/code-review large src")
    assert read(f"/code-review ./{written}").inputs == {"paths": [written]}


def test_a_capital_that_begins_a_text_is_no_band() -> None:
    found = read("/issue-triage Small fonts cannot be read")
    assert (found.band, found.inputs) == (None, {"issue": "Small fonts cannot be read"})
    assert read("/issue-triage small fonts cannot be read").band is Band.SMALL


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("smal", "did you mean small? bands: small, medium, large"),
        ("SMALLL", "did you mean small? bands: small, medium, large"),
        ("xl", "did you mean large? bands: small, medium, large"),
        ("hugee", "or was it to be a band? bands: small, medium, large"),
        ("src/smal", None),
        ("smal.py", None),
    ],
)
def test_a_word_that_is_no_file_may_be_a_misspelt_band(word: str, hint: str | None) -> None:
    assert band_hint(word) == hint


def test_words_of_a_text_input_are_joined() -> None:
    assert read("/triage the login  page is blank").inputs == {"issue": "the login page is blank"}
    assert read('/triage large "a\nb \\"c\\" \\\\"').inputs == {"issue": 'a\nb "c" \\'}


def test_paths_are_normalised() -> None:
    assert read("/review ./src//a/../b/ .").inputs == {"paths": ["src/b", "."]}
    assert read(r"/review my\ file.py").inputs == {"paths": ["my file.py"]}


def test_every_type_of_input() -> None:
    found = parse('/own strict docs/a.md --deep --note="x y" --area a --area b', OWN)
    assert isinstance(found, Invocation)
    assert found.inputs == {
        "mode": "strict",
        "document": "docs/a.md",
        "deep": True,
        "note": "x y",
        "areas": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("text", "builtin"),
    [
        ("/flows", Builtin(name="flows")),
        ("/flows review", Builtin(name="flows", argument="review")),
        ("/runs", Builtin(name="runs")),
        ("/cancel abc", Builtin(name="cancel", argument="abc")),
        ("/finish abc", Builtin(name="finish", argument="abc")),
        ("/help", Builtin(name="help")),
    ],
)
def test_builtins(text: str, builtin: Builtin) -> None:
    assert parse(text, CATALOGUE) == builtin


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "column", "field", "part"),
    [
        ("", 1, None, "is empty"),
        ("  ", 1, None, "is empty"),
        ("hello", 1, None, "starts with `/`"),
        ('"/review"', 1, None, "starts with `/`"),
        ("/review --nope", 9, "--nope", "unknown flag"),
        ("/review -x", 9, "-x", "unknown flag"),
        ("/review --base", 9, "--base", "needs a value"),
        ("/review --base --only security", 9, "--base", "needs a value"),
        ("/review --base a --base b", 18, "--base", "given twice"),
        ("/review --base=..", 9, "--base", "commit, branch or tag"),
        ("/review --base=-x", 9, "--base", "commit, branch or tag"),
        ("/review small medium", 15, "medium", "band is given twice"),
        (
            "/review --only nobody",
            9,
            "--only",
            "names `nobody`, no role of /code-review: there are",
        ),
        ("/review --skip security,nosuch", 9, "--skip", "names `nosuch`, no role"),
        ("/review --only=", 9, "--only", "names no role"),
        ("/review --only test --skip test", 32, "--skip", "both in"),
        ("/review ../x", 9, "../x", "outside the project"),
        ("/review a/../../x", 9, "a/../../x", "outside the project"),
        ("/review /etc/passwd", 9, "/etc/passwd", "absolute path"),
        (r"/review C:\x", 9, r"C:\x", "absolute path"),
        ("/review --exclude /etc", 9, "--exclude", "absolute path"),
        ('/review "open', 9, None, "quote does not end"),
        ('/review "\\\\\\"', 9, None, "quote does not end"),
        ('/review "a""b"', 12, None, "white space is missing"),
        ('/review "a" "b"', 13, "focus", "given twice"),
        ('/review ""', 9, "focus", "is empty"),
        ("/triage", 8, "issue", "needs issue"),
        ('/triage words "and quoted"', 9, "words", "given twice"),
        ("/cancel", 8, "id", "needs the id"),
        ("/cancel a b", 11, "b", "takes one argument"),
        ("/runs now", 7, "now", "takes no argument"),
        ("/review a\x00b", 9, "a\x00b", "control character"),
        ("/review \ud800", 9, None, "not valid Unicode"),
    ],
)
def test_refusals_name_the_place(text: str, column: int, field: str | None, part: str) -> None:
    error = refused(text)
    assert error.code is ErrorCode.BAD_ARGUMENTS
    assert (error.column, error.field) == (column, field)
    assert part in error.message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("/own", "needs mode"),
        ("/own loose", "is not one of strict, exploratory"),
        ("/own strict a b", "has no place"),
        ('/own strict "text"', "takes no quoted text"),
        ("/own strict --deep=yes", "takes no value"),
        ("/own strict --deep --deep", "given twice"),
    ],
)
def test_refusals_by_type(text: str, part: str) -> None:
    assert part in refused(text, OWN).message


def test_an_unknown_flag_lists_the_valid_ones() -> None:
    assert refused("/review --bsae x").hint == (
        "/code-review knows --base, --exclude, --only, --skip"
    )


@pytest.mark.parametrize("text", ["hello", "", "/zzz"])
def test_what_is_no_command_names_the_flows_that_there_are(text: str) -> None:
    assert refused(text).hint == "the flows: /code-review, /issue-triage"
    assert refused(text, build(flows={}, briefs=BRIEFS)).hint is not None


def test_a_forgotten_slash_is_seen() -> None:
    assert str(refused("code-review small").hint).startswith("did you mean /code-review [band]")


@pytest.mark.parametrize("text", ["/flows", "/help", "/runs", "/cancel a"])
def test_a_command_about_podium_starts_no_run_and_names_what_does(text: str) -> None:
    found = parse(text, CATALOGUE)
    assert isinstance(found, Builtin)
    error = no_run(found, CATALOGUE)
    assert error.message == f"/{found.name} starts no run"
    assert error.hint == "the flows: /code-review, /issue-triage"


def test_an_unknown_command_names_the_closest() -> None:
    error = refused("/code-reviw src")
    assert error.code is ErrorCode.UNKNOWN_FLOW
    assert error.hint is not None
    assert '/code-review [band] [--base REF] [paths…] ["focus"]' in error.hint
    assert refused("/zzzz").hint == "the flows: /code-review, /issue-triage"


def test_a_band_that_the_flow_does_not_have_is_refused() -> None:
    assert "has no band large" in refused("/own large strict", OWN).message


# ── launches by fields ───────────────────────────────────────────────────────────────────────────


def test_fields_mean_the_same_as_a_command() -> None:
    fields = {
        "question": "the cache",
        "base": "main",
        "paths": ["src/"],
        "only": "security",
        "exclude": ["docs"],
        "unknown": {"kept": "by the server"},
    }
    assert from_fields(REVIEW, Band.LARGE, fields) == read(
        '/review large --base main src "the cache" --only security --exclude docs'
    )


@pytest.mark.parametrize("empty", [None, "", "  ", [], False])
def test_an_empty_field_counts_as_not_given(empty: Any) -> None:
    names = ("question", "focus", "paths", "base", "only", "exclude")
    assert from_fields(REVIEW, None, dict.fromkeys(names, empty)) == Invocation(flow="code-review")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"paths": 3}, "input.paths"),
        ({"paths": ["a", 3]}, "input.paths"),
        ({"paths": ["../a"]}, "input.paths"),
        ({"paths": [str(n) for n in range(300)]}, "input.paths"),
        ({"focus": 3}, "input.focus"),
        ({"focus": "a", "question": "b"}, "input.question"),
        ({"base": ["main"]}, "input.base"),
        ({"only": ["nobody"]}, "input.only"),
        ({"only": 3}, "input.only"),
        ({"exclude": {"a": 1}}, "input.exclude"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(SlashError) as error:
        from_fields(REVIEW, None, fields)
    assert error.value.field == field
    assert error.value.column is None


def test_a_required_field_is_required() -> None:
    with pytest.raises(SlashError, match="needs issue"):
        from_fields(TRIAGE, None, {"issue": " "})
    assert from_fields(TRIAGE, None, {"question": "q"}).inputs == {"issue": "q"}


# ── properties ───────────────────────────────────────────────────────────────────────────────────

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
SEGMENT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=6
) | st.sampled_from(["small", "--base", '"q"', "my file", "-", "\\", "a\\ b"])
PATH = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)
OWN_FLOW = OWN.get("own")


def invocations(flow: Flow, values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    required = {it.name for it in flow.inputs if it.required}
    roles = st.permutations(roles_of(flow)).flatmap(
        lambda shuffled: st.tuples(
            st.integers(0, len(shuffled)), st.integers(0, len(shuffled))
        ).map(lambda cut: (shuffled[: min(cut)], shuffled[max(cut) :]))
    )
    return st.builds(
        lambda band, inputs, chosen, exclude: Invocation(
            flow=flow.id,
            band=band,
            inputs=normal(flow, inputs),
            only=chosen[0],
            skip=chosen[1],
            exclude=check_value(REVIEW.inputs[1], exclude) if exclude else [],
        ),
        st.none() | st.sampled_from(sorted(flow.bands)),
        st.fixed_dictionaries(
            {name: it for name, it in values.items() if name in required},
            optional={name: it for name, it in values.items() if name not in required},
        ),
        roles,
        st.lists(PATH.filter(inside), max_size=2),
    )


def inside(path: str) -> bool:
    try:
        check_value(REVIEW.inputs[1], [path])
    except ValueError:
        return False
    return True


def normal(flow: Flow, inputs: dict[str, Any]) -> dict[str, Any]:
    return {it.name: check_value(it, inputs[it.name]) for it in flow.inputs if it.name in inputs}


PATHS = st.lists(PATH.filter(inside), min_size=1, max_size=3)
REVIEWS = invocations(
    REVIEW,
    {"base": st.sampled_from(["main", "HEAD~1", "v1.0"]), "paths": PATHS, "focus": TEXT},
)
OWNS = invocations(
    OWN_FLOW,
    {
        "mode": st.sampled_from(["strict", "exploratory"]),
        "document": PATH.filter(inside),
        "deep": st.just(True),
        "note": TEXT,
        "areas": PATHS,
    },
)


@given(REVIEWS)
def test_a_written_review_reads_as_itself(invocation: Invocation) -> None:
    assert parse(canonical(invocation, REVIEW), CATALOGUE) == invocation


@given(OWNS)
def test_a_written_command_reads_as_itself(invocation: Invocation) -> None:
    assert parse(canonical(invocation, OWN_FLOW), OWN) == invocation


@given(TEXT)
def test_a_written_issue_reads_as_itself(text: str) -> None:
    invocation = Invocation(flow="issue-triage", inputs={"issue": text})
    assert parse(canonical(invocation, TRIAGE), CATALOGUE) == invocation


WORDS = st.lists(
    st.sampled_from(
        ["/review", "/triage", "small", "--base", "--only", "--skip=", '"', "\\", " ", "=", "a/b"]
    )
    | st.text(max_size=4)
).map("".join)


@given(st.text() | WORDS | WORDS.map(lambda text: f"/review {text}"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse(text, CATALOGUE)
    except SlashError as error:
        assert error.column is not None
        assert 1 <= error.column <= len(text) + 1
    else:
        if isinstance(found, Invocation):
            assert parse(canonical(found, CATALOGUE.get(found.flow)), CATALOGUE) == found


FIELD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["question", "focus", "paths", "base", "only", "skip"]), FIELD)
)
def test_any_fields_are_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        found = from_fields(REVIEW, None, fields)
    except SlashError:
        return
    assert parse(canonical(found, REVIEW), CATALOGUE) == found
