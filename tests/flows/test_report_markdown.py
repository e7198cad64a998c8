"""Reports as Markdown: nothing is lost, and no text of an agent becomes markup."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from flows.evidence.text import printable
from flows.report.answer import DEMO_LABEL
from flows.report.escape import code, fence, inline, prose
from flows.report.markdown import MAX_SUMMARY_BYTES, render, summary
from protocol.plan import Endpoint
from protocol.report import (
    Citations,
    CitationState,
    Coverage,
    Finding,
    FindingState,
    Report,
    Section,
    Severity,
    Verdict,
    VerdictKind,
)
from tests.flows.trees import finding, findings, place

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

HOSTILE = [
    "<script>alert(1)</script>",
    "<!-- hidden",
    "![x](http://evil/x.png)",
    "[click](javascript:alert(1))",
    "<javascript:alert(1)>",
    "[a]: javascript:alert(1)",
    "| a | b |\n| - | - |\n| 1 | 2 |",
    "a | b\n--|--\n1 | 2",
    "```\nfence\n```",
    "~~~\nfence\n",
    "# heading\n## another",
    "title\n=====",
    "title\n---",
    "- item\n* item\n+ item\n1. item\n2) item",
    "> quote",
    "    indented code",
    "`code | with \\| pipes` and `<b>`",
    "`open",
    "``two`` ` `` `",
    "back\\slash\\",
    "&lt;script&gt; &#60;b&#62; &amp",
    "*emphasis* __strong__ ~~gone~~ $x^2$",
    "\x1b[31mred\x07\u202e",
    "line\u2028separator\x85next",
]
TEXT = st.text() | st.lists(st.sampled_from([*HOSTILE, " ", "\n", "`", "\\", "|", "<"])).map(
    "".join
)


def report(*given: Finding, **changes: Any) -> Report:
    fields: dict[str, Any] = {
        "version": 1,
        "flow": "code-review",
        "flow_version": 1,
        "title": "Code review",
        "headline": "2 warnings in 1 file",
        "recommendation": "Settle the 2 warnings.",
        "complete": True,
        "tree_id": "0123456789abcdef",
        "scope": "the whole tree",
        "band": "small",
        "model": "qwen",
        "endpoint": "127.0.0.1:8080",
        "demo": False,
        "counts": {"critical": 0, "warning": 2, "suggestion": 0},
        "citations": Citations(total=3, verified=2, moved=0, ambiguous=0, unverified=1, invalid=0),
        "findings": list(given),
        "sections": [Section(id="all", title="All", findings=[it.id for it in given])],
        "coverage": Coverage(
            complete=True, scope="s", files_reviewed=1, files_in_scope=1, steps=[]
        ),
    }
    return Report(**(fields | changes))


def tokens(markdown: str) -> list[Token]:
    flat = []
    for token in MARKDOWN.parse(markdown):
        flat += [token, *(token.children or [])]
    return flat


def kinds(markdown: str) -> list[str]:
    return [token.type for token in tokens(markdown)]


def shown(markdown: str) -> str:
    """The text that a reader sees, without the white space."""
    texts = (
        it.content for it in tokens(markdown) if it.type in ("text", "code_inline", "text_special")
    )
    return "".join("".join(texts).split())


def test_the_head_names_the_model_of_every_role() -> None:
    own = Endpoint(name="gpu", host="gpu:8000", model="big`1")
    head = render(report(role_endpoints={"security": own})).split("\n\n")[1]
    assert "model `qwen@127.0.0.1:8080` · security: ``big`1@gpu:8000``" in head
    assert "security" not in render(report()).split("\n\n")[1]


# ── text of others ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    for markdown in (inline(text), f"- {inline(text)}", prose(text), f"# x {inline(text)}"):
        assert set(kinds(markdown)) <= {
            *("paragraph_open", "paragraph_close", "inline", "text", "text_special"),
            *("code_inline", "softbreak", "bullet_list_open", "bullet_list_close"),
            *("list_item_open", "list_item_close", "heading_open", "heading_close"),
        }
        assert kinds(markdown).count("heading_open") == markdown.startswith("# x ")
        assert kinds(markdown).count("bullet_list_open") == markdown.startswith("- ")


def test_the_check_above_would_notice_markup() -> None:
    unescaped = {kind for text in HOSTILE for kind in kinds(text)}
    for markup in ("html_block", "image", "link_open", "table_open", "fence", "heading_open"):
        assert markup in unescaped | set(kinds("[click](http://x)"))


@given(TEXT)
def test_inline_text_is_one_line_that_shows_what_it_was(text: str) -> None:
    markdown = f"x {inline(text)}"
    assert "\n" not in markdown
    assert set(kinds(markdown)) <= {
        *("paragraph_open", "paragraph_close", "inline", "text", "text_special", "code_inline")
    }
    wanted = re.sub(r"[\s`]", "", f"x{printable(text)}")
    assert shown(markdown).replace("`", "") == wanted


@given(TEXT, TEXT)
def test_a_table_keeps_its_cells(one: str, other: str) -> None:
    row = f"| {inline(one, cell=True)} | {code(other, cell=True)} | end |"
    found = kinds(f"| a | b | c |\n| --- | --- | --- |\n{row}\n\nafter")
    assert found.count("table_open") == 1
    assert found.count("td_open") == 3
    assert "html_inline" not in found
    assert found[-3:] == ["inline", "text", "paragraph_close"]


@given(TEXT, st.text(max_size=5))
def test_a_fence_cannot_be_closed_from_inside(text: str, info: str) -> None:
    parsed = MARKDOWN.parse(f"{fence(text, info=info)}\n\nafter")
    assert [it.type for it in parsed] == ["fence", "paragraph_open", "inline", "paragraph_close"]


@given(TEXT)
def test_a_code_span_holds_all_of_its_text(text: str) -> None:
    found = kinds(f"x {code(text)} y")
    assert set(found) <= {
        *("paragraph_open", "paragraph_close", "inline", "text", "text_special", "code_inline")
    }


def test_code_spans_of_agents_stay_code() -> None:
    assert inline("call `close()` | once") == "call `close()` \\| once"
    assert inline("snake_case and C# 5 < 6") == "snake_case and C\\# 5 \\< 6"


# ── whole reports ────────────────────────────────────────────────────────────────────────────────


def test_a_report_reads_well() -> None:
    sound = finding(
        "SEC-01",
        title="Names reach SQL",
        severity=Severity.CRITICAL,
        state=FindingState.CONFIRMED,
        introduced=True,
        fix="Bind it.",
        merged_from=["JUN-01"],
        notes=["raised from warning: JUN-01 says the same"],
        citations=[place(start=5, end=6, quote="a = 1\nb = 2")],
        verdict=Verdict(
            finding_id="SEC-01",
            kind=VerdictKind.CONFIRMED,
            reason="No binding.",
            citations=[place(start=5, end=5)],
        ),
    )
    merged = finding("JUN-01", state=FindingState.MERGED, merged_into="SEC-01")
    told = render(report(sound, merged, next="/code-review medium"))
    assert told == GOLDEN


GOLDEN = """\
# 2 warnings in 1 file

Code review (`code-review`, small) · scope: the whole tree · tree `0123456789ab` · model \
`qwen@127.0.0.1:8080` · 2 of 3 citations found

| Id | Severity | Finding | Where | State |
| --- | --- | --- | --- | --- |
| SEC-01 | critical | Names reach SQL | `app/db.py:5-6` | confirmed |

## All

### SEC-01 · Names reach SQL

*critical · confirmed · correctness · confidence high · introduced by this change*

It is wrong.

`app/db.py:5-6` (verified)

```py
a = 1
b = 2
```

**Impact:** It fails.

**Fix:** Bind it.

- raised from warning: JUN-01 says the same
- also reported as JUN-01
- validator: confirmed: No binding. (`app/db.py:5`)

- JUN-01 (warning, merged into SEC-01) A fault called JUN-01

Next: `/code-review medium`
"""


def test_a_quote_that_was_not_found_is_shown_as_a_claim() -> None:
    invented = finding(
        state=FindingState.UNVERIFIED,
        citations=[place(state=CitationState.UNVERIFIED, note="the quote stands nowhere")],
    )
    told = render(report(invented))
    assert (
        "`app/db.py:10-11` (unverified, the quote stands nowhere); what the agent quoted:" in told
    )
    assert "| JUN-01 |" not in told


def test_what_no_section_shows_is_named() -> None:
    told = render(report(finding("JUN-01"), sections=[]))
    assert "## Not shown\n\n- JUN-01 (warning, open)" in told


def test_the_demo_label_comes_first() -> None:
    for told in (render(report(demo=True)), summary(report(demo=True))):
        assert DEMO_LABEL in told.splitlines()[0]
    labelled = f"{DEMO_LABEL}. Nothing found"
    for told in (
        render(report(demo=True, headline=labelled)),
        summary(report(demo=True, headline=labelled)),
    ):
        assert told.count(DEMO_LABEL) == 1
        assert DEMO_LABEL in told.splitlines()[0]
    assert DEMO_LABEL not in render(report()) + summary(report())


@st.composite
def any_report(draw: st.DrawFn) -> Report:
    """A report in which every text is arbitrary."""
    given = [
        msgspec.structs.replace(
            it,
            title=draw(TEXT),
            claim=draw(TEXT),
            category=draw(TEXT),
            impact=draw(TEXT),
            fix=draw(st.none() | TEXT),
            notes=draw(st.lists(TEXT, max_size=2)),
            state=draw(st.sampled_from(FindingState)),
            citations=[place(draw(TEXT), quote=draw(TEXT), note=draw(st.none() | TEXT))],
        )
        for it in draw(findings())[:3]
    ]
    shown_ids = draw(st.lists(st.sampled_from([it.id for it in given] or ["JUN-99"])))
    named = Section(
        id="s", title=draw(TEXT), text=draw(TEXT), items=[draw(TEXT)], findings=shown_ids
    )
    return report(
        *given,
        headline=draw(TEXT),
        recommendation=draw(TEXT),
        title=draw(TEXT),
        scope=draw(TEXT),
        model=draw(TEXT),
        demo=draw(st.booleans()),
        next=draw(st.none() | TEXT),
        sections=[named],
    )


@given(any_report())
def test_any_report_renders_with_every_finding_and_without_foreign_markup(told: Report) -> None:
    markdown = render(told)
    for it in told.findings:
        assert it.id in markdown
    found = kinds(markdown)
    assert not {"html_block", "html_inline", "image", "link_open", "hr"} & set(found)
    assert found.count("table_open") <= 1
    assert found.count("fence") == sum(
        len(it.citations)
        for it in told.findings
        if it.id in told.sections[0].findings
        and it.state not in (FindingState.MERGED, FindingState.REFUTED)
    )


@given(any_report())
def test_any_summary_fits_its_frame(told: Report) -> None:
    text = summary(told)
    assert len(text.encode()) <= MAX_SUMMARY_BYTES
    assert not {"html_block", "html_inline", "image", "link_open"} & set(kinds(text))


def test_a_summary_counts_what_does_not_fit() -> None:
    many = [finding(f"JUN-{n:02}", title="ä" * 160) for n in range(1, 31)]
    text = summary(report(*many))
    told = [line for line in text.splitlines() if line.startswith("- JUN")]
    assert 0 < len(told) < 30
    assert text.endswith(f"- and {30 - len(told)} more in the report\n")
    assert len(text.encode()) <= MAX_SUMMARY_BYTES


def test_a_summary_begins_with_the_gravest() -> None:
    text = summary(report(finding("JUN-01"), finding("SEC-01", severity=Severity.CRITICAL)))
    assert text.index("SEC-01") < text.index("JUN-01")
