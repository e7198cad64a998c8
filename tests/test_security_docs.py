"""`docs/security.md` promises nothing without a test, and every test that it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
PLACE = re.compile(r"`([\w/]+\.py)::(\w+)`")
NAMED = sorted(set(PLACE.findall(PAGE)))


def rows() -> list[str]:
    table = PAGE.split("## What enforces it")[1].split("\n## ")[0]
    return [line for line in table.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_promise_names_its_test() -> None:
    assert len(rows()) >= 15
    for row in rows():
        assert PLACE.search(row), f"no test is named in: {row}"


def test_what_is_not_covered_is_said() -> None:
    for words in ("kernel", "Side channels", "endpoint", "Root", "macOS", "Timing"):
        assert words in PAGE.split("## What is not covered")[1]


def test_it_is_found_and_names_no_address() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    reporting = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "(docs/security.md)" in readme
    assert "(SECURITY.md)" in readme
    assert "private vulnerability" in reporting
    assert not re.search(r"[\w.]+@[\w.]+", reporting), "an address that nobody reads is worse"
