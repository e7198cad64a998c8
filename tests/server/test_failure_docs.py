"""`docs/failures.md` has every reason that the code has, and none that it has not."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import engine
from server.agents.reasons import KINDS, Again, FailureReason, failure

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
NAMED = [row[0].strip("| `") for row in ROWS]
FULL = {row[0].strip("| `"): row for row in ROWS if len(row) == 5}

RAISERS = re.compile(r"^(AgentFailure|AgentUnavailable|_fail)$")
"""What takes a reason in `server/`: the two types, and the helpers that lead to them."""
NAME = re.compile(r"[a-z]+(_[a-z]+)*")


def written_out(source: str) -> Iterator[str]:
    """Every reason that stands in a program as a word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [kw.value for kw in node.keywords if kw.arg == "reason"]
            if RAISERS.match(called):
                given += node.args[:2]
            for value in given:
                word = value.value if isinstance(value, ast.Constant) else None
                if isinstance(word, str) and NAME.fullmatch(word):
                    yield word


def reasons_in_code() -> set[str]:
    files = [*(ROOT / "server" / "agents").rglob("*.py"), *(ROOT / "server" / "runs").rglob("*.py")]
    others = ("commands/setting_up.py", "commands/running.py", "world.py")
    files += [ROOT / "server" / name for name in others]
    found = {name for file in files for name in written_out(file.read_text("utf-8"))}
    ends = (engine.CRASHED, engine.CANCELLED, engine.FINISHED_EARLY, engine.NOTHING_DELIVERED)
    return found | set(FailureReason) | set(ends)


def test_each_reason_has_its_row_and_each_row_its_reason() -> None:
    assert len(NAMED) == len(set(NAMED))
    code = reasons_in_code()
    missing, dead = sorted(code - set(NAMED)), sorted(set(NAMED) - code - MOVES)
    assert (missing, dead) == ([], [])


MOVES = {"waiting_for_slot", "flow_changed", "tree_missing", "project_not_permitted"}
"""Given through a variable, or returned."""


def test_a_reason_that_is_forgotten_is_found() -> None:
    """The scan's own proof, with each way that the code has of giving a reason."""
    source = """
AgentFailure(reason="new_one", message="reason")
raise AgentUnavailable("new_two", "a sentence", hint="x")
self._fail("new_three", f"{x}")
put_back(reason="new_four")
"""
    assert len(set(written_out(source))) == 4


def failures_made(source: str) -> int:
    """How often a program makes a failure without the table."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return sum(getattr(it, "id", getattr(it, "attr", "")) == "AgentFailure" for it in calls)


def test_every_failure_of_an_agent_comes_from_the_one_table() -> None:
    """So that what is repeated, and the way out, are said once."""
    assert failures_made('x = ports.AgentFailure(reason="r", message="m")') == 1
    for file in (ROOT / "server" / "agents").rglob("*.py"):
        own = 1 if file.name == "reasons.py" else 0
        assert failures_made(file.read_text("utf-8")) == own, file


@pytest.mark.parametrize("reason", list(FailureReason))
def test_the_row_says_what_the_code_does(reason: FailureReason) -> None:
    _, what, when, again, way_out = FULL[reason.value]
    kind = KINDS[reason]
    assert again == kind.again.value
    assert way_out == kind.hint
    assert what
    assert when


@pytest.mark.parametrize("reason", list(FailureReason))
def test_a_failure_says_the_way_out_and_is_repeated_as_its_kind_says(
    reason: FailureReason,
) -> None:
    made = failure(reason, "something happened")
    again = KINDS[reason].again
    assert made.message == f"something happened ({KINDS[reason].hint})"
    assert (made.retryable, made.repairable) == (again is Again.RETRY, again is Again.REPAIR)
    assert type(made.reason) is str
