"""Trees, citations, answers and findings for the tests of the evidence rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from flows.outputs import CitedLines
from protocol.ids import StepId
from protocol.report import (
    Citation,
    CitationState,
    Confidence,
    Finding,
    Severity,
)

ROOT = "/srv/podium/trees/abc"

CODE = """\
import sqlite3


def find(db: sqlite3.Connection, name: str) -> list[tuple[str]]:
    query = "SELECT name FROM users WHERE name = '" + name + "'"
    return db.execute(query).fetchall()


def close(db: sqlite3.Connection) -> None:
    db.commit()
    db.close()
"""


class MemoryTree:
    """A tree made of texts. Lines end with `\\n` alone, as tools that agents read with count."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = dict(sorted(files.items()))

    def paths(self) -> Sequence[str]:
        return list(self._files)

    def lines(self, path: str) -> Sequence[str] | None:
        text = self._files.get(path)
        if text is None:
            return None
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        return lines[:-1] if lines[-1] == "" else lines


TREE = MemoryTree({"app/db.py": CODE, "app/other.py": "x = 1\n", "lib/db.py": "y = 2\n"})


def cited(
    quote: str, *, path: str = "app/db.py", start: int = 1, end: int | None = None
) -> CitedLines:
    return CitedLines(
        path=path, line_start=start, line_end=start if end is None else end, quote=quote
    )


def raw_citation(quote: str = "db.commit()\n    db.close()", **changes: Any) -> dict[str, Any]:
    """A citation as an agent gives it; by default it is verified in TREE."""
    return {"path": "app/db.py", "line_start": 10, "line_end": 11, "quote": quote} | changes


def raw_finding(**changes: Any) -> dict[str, Any]:
    """A finding as an agent gives it; by default its one citation is verified in TREE."""
    return {
        "title": "Connection is closed twice",
        "claim": "The caller closes it too.",
        "category": "correctness",
        "severity": "warning",
        "confidence": "high",
        "citations": [raw_citation()],
        "impact": "The second close raises.",
    } | changes


def raw_answer(*findings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The answer of a reviewing agent."""
    return {
        "summary": "All was read.",
        "findings": list(findings),
        "cleared": [],
        "deferred": [],
        "negative": not findings,
        "searched": [] if findings else ["every file"],
        "end": "complete",
    } | changes


def place(path: str = "app/db.py", start: int = 10, end: int = 11, **changes: Any) -> Citation:
    """A citation that was verified."""
    fields = {"quote": "db.commit()", "state": CitationState.VERIFIED} | changes
    return Citation(path=path, line_start=start, line_end=end, **fields)


def finding(id: str = "JUN-01", **changes: Any) -> Finding:
    """A checked finding; its role and step follow from its prefix."""
    role = {"SEC": "security", "JUN": "generalist"}.get(id[:3], id[:3].lower())
    fields: dict[str, Any] = {
        "id": id,
        "step_id": StepId(f"review.{role}"),
        "role": role,
        "title": f"A fault called {id}",
        "claim": "It is wrong.",
        "category": "correctness",
        "severity": Severity.WARNING,
        "confidence": Confidence.HIGH,
        "impact": "It fails.",
        "citations": [place()],
    }
    return Finding(**(fields | changes))


# ── for property tests ───────────────────────────────────────────────────────────────────────────

LINES = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=40
) | st.sampled_from(["", "    return None", "\t}", "for item in items:", "if not found:"])
"""One line of a file; the samples make repetitions likely."""

FILES = st.lists(LINES, min_size=1, max_size=30)


@st.composite
def findings(draw: st.DrawFn) -> list[Finding]:
    """Findings of several roles on few lines of few files, in plan order."""
    counts = {prefix: draw(st.integers(0, 4)) for prefix in ("JUN", "SEC", "CON")}
    return [
        draw(_one(f"{prefix}-{ordinal:02d}"))
        for prefix, count in counts.items()
        for ordinal in range(1, count + 1)
    ]


@st.composite
def _one(draw: st.DrawFn, id: str) -> Finding:
    start = draw(st.integers(1, 8))
    return finding(
        id,
        severity=draw(st.sampled_from(Severity)),
        category=draw(st.sampled_from(["races", "correctness"])),
        title=draw(st.sampled_from(["The lock is not held", "A value gets lost"])),
        claim=draw(st.sampled_from(["It is so.", "Theoretically it may be so."])),
        action=draw(st.sampled_from([None, "add", "remove", "change"])),
        citations=[
            place(
                draw(st.sampled_from(["a.py", "b.py"])),
                start,
                start + draw(st.integers(0, 3)),
                state=draw(st.sampled_from([CitationState.VERIFIED, CitationState.UNVERIFIED])),
            )
        ],
    )
