"""One of a thing is told as one: `1 file`, never `1 files`."""

import re
from pathlib import Path

import pytest

from flows.counted import number_of
from flows.outputs import FindingsOutput, TriageOutput, VerdictsOutput
from flows.report.meta import MAX_DENIALS, _denials
from protocol.report import ReadOnly, ReadOnlyVerdict
from server.commands.audit import _told
from tests.flows.test_briefing import prompt as briefed
from tests.server.harness import house
from tests.server.test_demo_script import issue, play, prompt, result, submit
from tests.server.test_log_routes import saved

ONE_OF_MANY = re.compile(r"(?<![\d.,])1 (?:more )?[a-z]+s\b(?<! is)(?<! has)(?<! was)")
SHELL = "subprocess.run(given, shell=True)\n"


def test_the_pattern_finds_it() -> None:
    """The control: what these texts said."""
    for text in ("with 1 places that", "1 files reviewed", "1 more tools"):
        assert ONE_OF_MANY.search(text)
    for text in ("1 place", "21 places", "0.1 seconds", "1 was left"):
        assert not ONE_OF_MANY.search(text)
    assert [number_of(n, "file") for n in range(3)] == ["0 files", "1 file", "2 files"]


def test_what_the_demo_says_of_one_place() -> None:
    files = {"a.py": SHELL, "b.py": SHELL}
    turns = play(prompt(output="findings", files=[*files], role="security"), files)
    told = [turn.text for turn in turns] + [result(turns, FindingsOutput).summary]
    assert any("1 line, with 1 place that a rule names" in text for text in told), told
    assert not [text for text in told if ONE_OF_MANY.search(text)]


def test_what_the_demo_says_of_one_finding() -> None:
    only = submit("EV-1", "a.py", 1, SHELL.strip())
    turns = play(prompt(output="verdicts", submitted=[only]), {"a.py": SHELL})
    told = [turn.text for turn in turns] + [result(turns, VerdictsOutput).summary]
    assert any("1 finding" in text for text in told)
    assert not [text for text in told if ONE_OF_MANY.search(text)]


def test_what_the_demo_says_of_one_suspect() -> None:
    turns = play(issue("parse_headers crashes"), {"a.py": "def parse_headers(raw):\n"})
    summary = result(turns, TriageOutput).summary
    assert "1 place of the tree" in summary
    assert not ONE_OF_MANY.search(summary)


def test_what_an_agent_is_told_of_one_file() -> None:
    text = briefed("security").user
    assert "- src/ (2 files)" in text
    assert not ONE_OF_MANY.search(text)


def test_one_more_tool_and_one_lost_line() -> None:
    denials = {f"tool {n}": 2 for n in range(MAX_DENIALS + 1)}
    told = _denials(
        ReadOnly(verdict=ReadOnlyVerdict.NOT_PROVEN, line="", attempts=1, proven=0, denials=denials)
    )
    assert told.endswith(", 1 more tool")
    assert _told({"at": "now", "lost": 1}) == "now  1 line left out"


@pytest.mark.timeout(60)
async def test_a_recording_counts_its_frames(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        told = await saved(home, run_id, "--output", str(tmp_path / "log.ndjson"))
    assert told.output.startswith(f"{number_of(len(frames), 'frame')} in ")
