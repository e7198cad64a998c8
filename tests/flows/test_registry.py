"""The catalogue: what is shipped is offered, and what is wrong is not, with the reason."""

import msgspec
import pytest

from flows.model import Flow
from flows.registry import MAX_BRIEF_BYTES, build, load
from protocol.commands import Band
from protocol.errors import ErrorCode, ProtocolError
from tests.flows.plans import CATALOGUE, REVIEW, TRIAGE

BRIEFS = {
    "preamble.md": "version: 1\n\npreamble",
    "evidence.md": "version: 1\n\nevidence",
    "general.md": "version: 2\n\ngeneral",
}
CAPS = "\n".join(
    f"{name} = 1"
    for name in (
        "specialists parallel rounds files batches findings_per_step turns tool_calls seconds"
        " tokens"
    ).split()
)
MINIMAL = f"""
id = "own"
version = 1
title = "Own"
summary = "s"
primary_input = "mode"

[bands.small]
summary = "s"
severities = ["critical"]
[bands.small.caps]
{CAPS}

[bands.medium]
summary = "s"
severities = ["critical"]
[bands.medium.caps]
{CAPS}

[[steps]]
id = "look"
kind = "agent"
phase = "look"
title = "Look"
role = "general"
brief = "general@2"
output = "findings"
prefix = "JUN"

[[steps]]
id = "merge"
kind = "code"
phase = "merge"
title = "Merge"
function = "merge"
needs = ["look"]
when = "always()"

[[sections]]
id = "summary"
title = "Summary"
renderer = "summary"
"""
INPUT = """
[[inputs]]
name = "mode"
type = "text"
focus = true
summary = "s"
"""
GOOD = MINIMAL + INPUT
SECOND = '[[inputs]]\nname = "other"\ntype = "text"\nsummary = "s"\n'


def problems(text: str) -> list[str]:
    catalogue = build(flows={"own.toml": text}, briefs=BRIEFS)
    assert bool(catalogue.problems) == (not catalogue.flows)
    return [problem.message for problem in catalogue.problems]


def test_everything_shipped_is_offered() -> None:
    catalogue = load()
    assert catalogue.problems == []
    assert list(catalogue.flows) == ["code-review", "issue-triage"]
    assert set(catalogue.names) == {"code-review", "review", "issue-triage", "triage"}


def test_a_flow_is_found_by_name_and_alias() -> None:
    assert CATALOGUE.get("review") is REVIEW
    assert CATALOGUE.get("issue-triage") is TRIAGE
    with pytest.raises(ProtocolError) as error:
        CATALOGUE.get("issue-traige")
    assert error.value.code is ErrorCode.UNKNOWN_FLOW
    assert error.value.hint == "did you mean /issue-triage?"
    with pytest.raises(ProtocolError) as error:
        CATALOGUE.get("zzz")
    assert error.value.hint == "there are: code-review, issue-triage"


def test_infos_tell_what_a_composer_shows() -> None:
    review, triage = CATALOGUE.infos()
    assert review.usage == '/code-review [band] [--base REF] [paths…] ["focus"]'
    assert triage.usage == '/issue-triage [band] "issue"'
    assert [(band.name, band.agents) for band in review.bands] == [
        (Band.SMALL, "2–4"),
        (Band.MEDIUM, "2–8"),
        (Band.LARGE, "2–16"),
    ]
    assert [band.agents for band in triage.bands] == ["1", "1", "1"]
    assert review.primary_input == "focus"


def test_hashes_change_with_a_brief_and_with_nothing_else() -> None:
    first = build(flows={"own.toml": GOOD}, briefs=BRIEFS)
    hashes = first.hashes(first.get("own"))
    assert list(hashes) == ["evidence@1", "general@2", "preamble@1", "findings"]
    assert hashes == first.hashes(first.get("own"))
    other = build(flows={"own.toml": GOOD}, briefs=BRIEFS | {"general.md": "version: 2\n\nnew"})
    changed = other.hashes(other.get("own"))
    assert {name for name in hashes if hashes[name] != changed[name]} == {"general@2"}


def test_a_good_flow_has_no_problem() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('id = "own"', 'id = "help"', "built-in command"),
        ('primary_input = "mode"', 'primary_input = "x"', "primary input 'x'"),
        ('id = "own"', 'id = "own"\nsurprise = 1', "surprise"),
        ("[bands.small", "[bands.large", "small band is missing"),
        ("specialists = 1", "specialists = 2", "specialists falls from band 'small'"),
        ("turns = 1", "turns = 0", "turns is 0"),
        ('brief = "general@2"', 'brief = "general@1"', "no brief 'general@1'"),
        ('output = "findings"', 'output = "poem"', "output 'poem' is unknown"),
        ('prefix = "JUN"', 'prefix = "ZZ"', "prefix 'ZZ' is unknown"),
        ('prefix = "JUN"', "", "findings need a prefix"),
        ('role = "general"', "", "needs a role"),
        ('prefix = "JUN"', 'prefix = "JUN"\nsignal = "x"', "signal 'x' is not declared"),
        ('prefix = "JUN"', 'prefix = "JUN"\nspine = false', "a specialist has a signal"),
        ('function = "merge"', 'function = "explode"', "function 'explode' is unknown"),
        ('function = "merge"', 'function = "merge"\nrole = "r"', "a code step has no role"),
        ('id = "merge"', 'id = "look"', "step 'look' is there 2 times"),
        ('needs = ["look"]', 'needs = ["merge"]', "needs 'merge', which is not a step above it"),
        ('needs = ["look"]', 'needs = ["look"]\nquorum = 2', "more than its needs"),
        ("always()", "always(", "unexpected end of expression"),
        ("always()", "steps.other.output.x", "steps.other.output.x is not known there"),
        ("always()", "inputs.other", "inputs.other is not known there"),
        ("always()", "signals.other", "signals.other is not known there"),
        ('renderer = "summary"', 'renderer = "song"', "renderer 'song' is unknown"),
        ("focus = true", "focus = true\nposition = 1", "not 0, 1, 2"),
        ("focus = true", "position = 0", "a text needs a flag"),
        ("focus = true", 'flag = "mode"', "starts with `--`"),
        ("focus = true", 'flag = "--only"', "flag '--only' is there 2 times"),
        ('type = "text"\nfocus = true', 'type = "git_ref"\nposition = 0', "git_ref needs a flag"),
        ('type = "text"\nfocus = true', 'type = "enum"\nposition = 0', "choices belong to an enum"),
        ("focus = true", "focus = true\nrequired = true\ndefault = 'x'", "and has a default"),
        ("[[inputs]]", f"{SECOND}focus = true\n[[inputs]]", "two inputs take the quoted text"),
        ("[[inputs]]", f"{SECOND}[[inputs]]", "nothing in a command can set it"),
        (
            "[[inputs]]",
            f'{SECOND}flag = "--a"\nmany = true\nposition = 0\n'
            f'{SECOND}flag = "--b"\nposition = 1\n[[inputs]]',
            "only the last positional input",
        ),
        ('type = "text"', 'type = "target"', "only a text takes the quoted text"),
        (
            'type = "text"\nfocus = true',
            'type = "document"\nposition = 0\nmany = true',
            "one value",
        ),
        (
            'type = "text"\nfocus = true',
            'type = "enum"\nposition = 0\nchoices = ["small"]',
            "the name of a band",
        ),
        ("[bands.small]", '[bands.small]\nwhen = "true"', "has no `when`"),
        ("[bands.medium]", '[bands.medium]\nwhen = "steps.look.status"', "not known there"),
        ('prefix = "JUN"', 'prefix = "JUN"\nfunction = "merge"', "has no function"),
        (
            'prefix = "JUN"',
            'prefix = "JUN"\n[steps.each]\nover = "scope.files"\nmax = 0',
            "fan-out",
        ),
        ('kind = "agent"', 'kind = "code"', "no agent step is always there"),
        ('id = "own"', 'id = "own', "line"),
    ],
)
def test_what_is_wrong_is_not_offered(old: str, new: str, problem: str) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new, -1 if old.startswith("[bands") else 1))
    assert any(problem in message for message in found), found


def test_a_signal_is_checked() -> None:
    signal = '[[signals]]\nid = "s"\nover = ["diff"]\nregexes = ["{}"]\n'
    assert problems(GOOD + signal.format("a+")) == []
    assert "unterminated" in problems(GOOD + signal.format("("))[0]
    assert "looks at nothing" in problems(GOOD + '[[signals]]\nid = "s"\nover = ["diff"]\n')[0]


def test_a_condition_sees_only_what_it_waits_for() -> None:
    text = GOOD.replace('needs = ["look"]', "needs = []").replace("always()", "steps.look.status")
    assert "steps.look.status is not known there" in problems(text)[0]
    assert problems(GOOD.replace("always()", "steps.look.status == 'failed'")) == []


def test_a_name_belongs_to_one_flow() -> None:
    catalogue = build(flows={"a.toml": GOOD, "b.toml": GOOD}, briefs=BRIEFS)
    assert [problem.message for problem in catalogue.problems] == ["the name 'own' is taken by own"]
    assert list(catalogue.flows) == ["own"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no version", "the first line is not"),
        ("version: 0\n\nx", "the first line is not"),
        ("version: 1\n\n" + "x" * MAX_BRIEF_BYTES, "longer than"),
    ],
)
def test_a_brief_is_checked(text: str, problem: str) -> None:
    found = build(flows={}, briefs=BRIEFS | {"bad.md": text}).problems
    assert [problem in it.message for it in found] == [True]


def test_shared_briefs_must_be_there() -> None:
    missing = {name: text for name, text in BRIEFS.items() if name != "preamble.md"}
    assert [it.file for it in build(flows={}, briefs=missing).problems] == ["preamble.md"]


def test_every_brief_of_a_role_is_in_use_and_of_sensible_length() -> None:
    used = {step.brief for flow in CATALOGUE.flows.values() for step in flow.steps}
    for name, text in CATALOGUE.briefs.items():
        assert name in used or name in ("preamble@1", "evidence@1")
        assert 150 <= len(text.split()) <= 350, name


def test_a_flow_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(REVIEW), type=Flow) == REVIEW
