"""Rules 2 to 4: paths and quotes against the pinned tree."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.evidence.citations import MAX_QUOTE_LINES, Checker
from flows.evidence.places import PathIndex
from flows.evidence.text import fold
from protocol.report import Citation, CitationState
from tests.flows.trees import CODE, FILES, LINES, ROOT, TREE, MemoryTree, cited

LONG = "db.execute(query).fetchall()"
QUERY = '    query = "SELECT name FROM users WHERE name = \'" + name + "\'"'


def check(
    quote: str, *, path: str = "app/db.py", start: int = 1, end: int | None = None
) -> Citation:
    return Checker(TREE, root=ROOT).check(cited(quote, path=path, start=start, end=end))


# ── paths ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "repaired"),
    [
        ("app/db.py", False),
        ("./app/db.py", False),
        ("app//db.py", False),
        (" app/\u200bdb.py", False),
        (f"{ROOT}/app/db.py", True),
        (f"{ROOT}/./app/db.py", True),
    ],
)
def test_a_path_is_made_relative_to_the_tree(path: str, repaired: bool) -> None:
    found = PathIndex(TREE.paths(), root=ROOT).find(path)
    assert found.path == "app/db.py"
    assert (found.note is not None) is repaired


def test_a_unique_end_of_a_path_is_completed_and_noted() -> None:
    citation = check("x = 1 and nothing else", path="other.py")
    assert (citation.path, citation.cited_path) == ("app/other.py", "other.py")
    assert citation.note is not None
    assert citation.note.startswith("path completed")


@pytest.mark.parametrize(
    "path",
    [
        "db.py",
        "p/db.py",
        "none.py",
        "app",
        "/app/db.py",
        f"{ROOT}x/app/db.py",
        "C:\\app\\db.py",
        "../app/db.py",
        "app/../app/db.py",
        "app\\..\\db.py",
        "app/\x00db.py",
        ".",
        "",
        "/",
        ROOT,
    ],
)
def test_a_path_that_names_no_one_file_is_invalid(path: str) -> None:
    citation = Checker(TREE, root=ROOT).check(cited(QUERY, path=path, start=5))
    assert citation.state is CitationState.INVALID
    assert citation.path == path
    assert citation.note


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1), st.data())
def test_every_path_is_found_by_every_end_that_is_its_own(
    parts: list[list[str]], data: st.DataObject
) -> None:
    paths = sorted({"/".join(path) for path in parts})
    path = data.draw(st.sampled_from(paths))
    end = path.split("/", data.draw(st.integers(0, path.count("/"))))[-1]
    owners = [other for other in paths if other == end or other.endswith(f"/{end}")]
    found = PathIndex(paths, root=ROOT).find(end).path
    if end in paths:
        assert found == end
    elif len(owners) == 1:
        assert found == path
    else:
        assert found is None


# ── quotes ───────────────────────────────────────────────────────────────────────────────────────


def test_a_quote_at_the_cited_lines_is_verified() -> None:
    citation = check(QUERY, start=5)
    assert citation == Citation(
        path="app/db.py", line_start=5, line_end=5, quote=QUERY, state=CitationState.VERIFIED
    )


def test_white_space_and_characters_without_width_do_not_count() -> None:
    citation = check("\n  db.commit()\n\tdb.\u200bclose()  \n\n", start=10, end=11)
    assert citation.state is CitationState.VERIFIED
    assert citation.quote == "    db.commit()\n    db.close()"


def test_wider_cited_lines_are_narrowed_to_the_quote() -> None:
    citation = check(QUERY, start=4, end=7)
    assert (citation.state, citation.line_start, citation.line_end) == (
        CitationState.VERIFIED,
        5,
        5,
    )
    assert citation.note == "cited as lines 4-7"


def test_only_the_end_is_corrected() -> None:
    citation = check("db.commit()\n    db.close()", start=10)
    assert (citation.state, citation.line_end) == (CitationState.VERIFIED, 11)
    assert citation.note == "cited as lines 10-10"
    assert citation.cited_line is None


def test_a_quote_that_begins_before_the_cited_line_has_moved() -> None:
    citation = check("db.commit()\n    db.close()", start=11)
    assert (citation.state, citation.line_start) == (CitationState.MOVED, 10)


def test_a_quote_elsewhere_has_moved() -> None:
    citation = check(QUERY, start=999)
    assert citation.state is CitationState.MOVED
    assert (citation.line_start, citation.line_end, citation.cited_line) == (5, 5, 999)


def test_part_of_a_line_is_a_quote() -> None:
    assert check(LONG, start=6).state is CitationState.VERIFIED
    assert check(LONG, start=1).state is CitationState.MOVED
    assert check('name = \'" + name + "\'"\n    return db.exec', start=5).state.found


def test_a_whole_line_is_preferred_to_a_part_but_the_cited_place_to_both() -> None:
    tree = MemoryTree({"a": "call(first, second)\nx\nx\ny = call(first, second)\n"})
    checker = Checker(tree, root=ROOT)
    near_part = checker.check(cited("call(first, second)", path="a", start=3))
    assert (near_part.state, near_part.line_start) == (CitationState.MOVED, 1)
    at_part = checker.check(cited("call(first, second)", path="a", start=4))
    assert (at_part.state, at_part.line_start) == (CitationState.VERIFIED, 4)


def test_of_several_places_the_nearest_is_taken() -> None:
    line = "    self.lock.release()\n"
    checker = Checker(MemoryTree({"a": line + "x\n" * 9 + line + "x\n" * 9 + line}), root=ROOT)
    found = [checker.check(cited(line, path="a", start=start)) for start in (5, 7, 11, 16, 17, 99)]
    assert [it.line_start for it in found] == [1, 11, 11, 11, 21, 21]
    assert [it.state for it in found].count(CitationState.VERIFIED) == 1
    assert {it.state for it in found if it.line_start != 11 or it.cited_line} == {
        CitationState.AMBIGUOUS
    }


def test_twice_in_one_line_is_one_place() -> None:
    checker = Checker(MemoryTree({"a": "x\nvalue.strip() + value.strip()\n"}), root=ROOT)
    assert checker.check(cited("value.strip()", path="a")).state is CitationState.MOVED


@pytest.mark.parametrize(
    "quote",
    [
        f"  5→{QUERY}\n  6→    return db.execute(query).fetchall()",
        f"5:{QUERY}\n6:    return db.execute(query).fetchall()",
        f"5\t{QUERY}\n6\t    return db.execute(query).fetchall()",
        f"L5: {QUERY.strip()}",
        f"5 | {QUERY}",
        f"+{QUERY}",
        f" {QUERY}\n+    return db.execute(query).fetchall()\n ",
    ],
)
def test_what_tools_put_before_lines_is_taken_off(quote: str) -> None:
    citation = check(quote, start=5)
    assert citation.state is CitationState.VERIFIED
    assert citation.quote.startswith(QUERY)
    assert "taken off" in str(citation.note)


def test_a_number_that_belongs_to_the_line_stays() -> None:
    checker = Checker(MemoryTree({"a": "12: twelve monkeys here\n"}), root=ROOT)
    citation = checker.check(cited("12: twelve monkeys here", path="a"))
    assert (citation.state, citation.note) == (CitationState.VERIFIED, None)


@pytest.mark.parametrize(
    "quote",
    [" \n\t", "db.commit()", "d b . c o m m i t ()", "\u200b" * 40, "\n".join(["x = 1"] * 13)],
)
def test_a_quote_that_is_too_short_or_too_long_is_invalid(quote: str) -> None:
    citation = check(quote, start=10)
    assert citation.state is CitationState.INVALID
    assert "the quote has" in str(citation.note)


def test_a_quote_with_numbers_has_to_be_long_enough_without_them() -> None:
    checker = Checker(MemoryTree({"a": "short\n"}), root=ROOT)
    citation = checker.check(cited("1234567890:short", path="a"))
    assert citation.state is CitationState.UNVERIFIED


@pytest.mark.parametrize(
    "quote",
    [
        QUERY.replace("users", "people"),
        f"{QUERY}\n    db.close()",
        "    return db.execute(query).fetchall()\n" + QUERY,
        QUERY.replace(" + ", "+"),
        QUERY[:30] + "...",
    ],
)
def test_an_invented_quote_is_unverified(quote: str) -> None:
    citation = check(quote, start=5)
    assert citation.state is CitationState.UNVERIFIED
    assert citation.quote == quote
    assert citation.note


def test_of_a_very_long_line_only_the_cut_is_kept() -> None:
    line = "f(" + "a," * 5_000 + "needle_in_it," + "b," * 5_000 + ")"
    citation = Checker(MemoryTree({"a": line}), root=ROOT).check(cited("needle_in_it,b,", path="a"))
    assert (citation.state, citation.quote) == (CitationState.VERIFIED, "needle_in_it,b,")


# ── properties ───────────────────────────────────────────────────────────────────────────────────


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[str], int, int]:
    """A file, and the first line and the number of lines of a usable quote cut from it."""
    before, after = draw(FILES), draw(FILES)
    core = draw(st.sampled_from(["for item in items:", "\tif the\u200bre is none:"]) | WORDY)
    first = draw(st.integers(max(0, len(before) - 5), len(before)))
    last = draw(st.integers(len(before), len(before) + 6))
    return [*before, core, *after], first, min(last + 1 - first, MAX_QUOTE_LINES)


WORDY = st.tuples(LINES, st.text("abcdefgh(){}", min_size=12)).map("".join)


@given(cuts(), st.integers(1, 60))
@example((["a\x0cb\x85c\u2028d", "for item in items:"], 0, 2), 1)
@example((["\ufeffimport os", "\x1b[0m 12345678"], 0, 2), 1)
def test_a_quote_cut_from_a_tree_is_always_found(
    cut: tuple[list[str], int, int], start: int
) -> None:
    lines, first, size = cut
    quoted = lines[first : first + size]
    checker = Checker(MemoryTree({"a": "\n".join([*lines, ""])}), root=ROOT)
    citation = checker.check(cited("\n".join(quoted), path="a", start=start))
    assert citation.state.found
    stands = lines[citation.line_start - 1 : citation.line_end]
    assert "\n".join(_trimmed(quoted)) in "\n".join(fold(stands))
    assert (citation.state is CitationState.VERIFIED) == (start == citation.line_start)


def _trimmed(lines: list[str]) -> list[str]:
    folded = fold(lines)
    filled = [number for number, line in enumerate(folded) if line]
    return folded[filled[0] : filled[-1] + 1]


@given(FILES, st.lists(LINES, min_size=1, max_size=3), st.integers(1, 30), st.integers(0, 5))
def test_what_is_found_stands_there(
    lines: list[str], quote: list[str], start: int, more: int
) -> None:
    checker = Checker(MemoryTree({"a": "\n".join([*lines, ""])}), root=ROOT)
    citation = checker.check(
        cited("\n".join(quote) or "-", path="a", start=start, end=start + more)
    )
    text = "\n".join(fold(lines))
    if citation.state.found:
        assert "\n".join(fold(citation.quote.split("\n"))) in text
        assert 1 <= citation.line_start <= citation.line_end <= len(lines)
    elif citation.state is CitationState.UNVERIFIED:
        assert "\n".join(_trimmed(quote)) not in text


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=60))
def test_no_quote_with_a_word_the_tree_does_not_have_is_found(quote: str, path: str) -> None:
    citation = Checker(TREE, root=ROOT).check(cited(f"zzqx {quote} zzqx", path="app/db.py"))
    assert not citation.state.found
    assert not Checker(TREE, root=ROOT).check(cited(quote, path=f"{path}/zz")).state.found


def test_a_thousand_citations_of_a_large_tree_take_less_than_a_second() -> None:
    files = {
        f"p{n % 100}/q{n % 10}/file{n}.py": CODE.replace("users", f"u{n}") for n in range(9_999)
    }
    files["big.py"] = "    self.lock.release()\n" * 100_000
    tree = MemoryTree(files)
    citations = [
        cited(QUERY.replace("users", f"u{n * 9}"), path=f"file{n * 9}.py", start=n + 1)
        for n in range(900)
    ]
    citations += [
        cited("self.lock.release()", path="big.py", start=n * 990 + 1) for n in range(100)
    ]
    began = time.process_time()
    checker = Checker(tree, root=ROOT)
    states = {checker.check(citation).state.found for citation in citations}
    assert time.process_time() - began < 1
    assert states == {True}
