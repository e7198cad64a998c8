"""The demo model's script is a pure function: conversations are played here without a server."""

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from flows.briefing import compose
from flows.outputs import FindingsOutput, IssueType, Output, TriageOutput, VerdictsOutput
from flows.planner import plan
from protocol.report import Severity, VerdictKind
from scripts.dev import SHOWN
from server.demo.rulebook import rules_for
from server.demo.script import HELLO, LOOKS, next_turn
from server.demo.wire import (
    Call,
    ChatRequest,
    Function,
    FunctionCall,
    Message,
    Tool,
    ToolCall,
    Turn,
)
from tests.flows.plans import CATALOGUE, TRIAGE, invoke, situation

ROOT = "/copy"
REPOSITORY = Path(__file__).parents[2]
APP = """import subprocess


def run(command, seen=[]):
    # TODO: check the command
    try:
        return subprocess.run(command, shell=True)
    except Exception:
        pass
"""
ALL_TOOLS = ("read_file", "glob", "grep_search", "structured_output")

Files = dict[str, str]
Result = TypeVar("Result", bound=Output)


def prompt(**step: object) -> str:
    block = {"step": "review.x", "root": ROOT, "role": "generalist", **step}
    return f"Preamble.\n<<<podium-step\n{msgspec.json.encode(block).decode()}\npodium-step>>>\n"


def play(
    text: str, files: Files, *, tools: tuple[str, ...] = ALL_TOOLS, ripgrep: bool = True
) -> list[Turn]:
    """Play a conversation against tools that answer as qwen's do, until the last turn."""
    messages = [Message("user", text)]
    turns: list[Turn] = []
    while True:
        request = ChatRequest(messages, tools=[Tool(Function(name)) for name in tools])
        turns.append(next_turn(request))
        assert next_turn(request) == turns[-1]
        assert len(turns) <= LOOKS + 1
        made = turns[-1].calls
        if not made or made[0].name == "structured_output":
            return turns
        messages += _answered(turns[-1], made[0], files, ripgrep=ripgrep)


def _answered(turn: Turn, made: Call, files: Files, *, ripgrep: bool) -> list[Message]:
    arguments = msgspec.json.decode(made.arguments)
    if made.name == "read_file":
        path = arguments["file_path"].removeprefix(f"{ROOT}/")
        result = files.get(path, f"File not found: {arguments['file_path']}")
    else:
        result = grep(arguments["pattern"], arguments["path"], files, ripgrep=ripgrep)
    asked = ToolCall(f"id of {made.arguments}", FunctionCall(made.name, made.arguments))
    return [
        Message("assistant", turn.text, tool_calls=[asked]),
        Message("tool", result, tool_call_id=asked.id),
    ]


def grep(pattern: str, where: str, files: Files, *, ripgrep: bool) -> str:
    """A search result in one of the two shapes of qwen 0.24.4."""
    found = [f'Found matches for pattern "{pattern}" in path "{where}":\n---']
    for path, text in files.items():
        hits = [(n, s) for n, s in enumerate(text.split("\n"), 1) if re.search(pattern, s)]
        if hits and ripgrep:
            found += [f"{ROOT}/{path}:{n}:{s}" for n, s in hits]
        elif hits:
            short = f"{ROOT}/{path}".removeprefix(f"{where}/")
            found += [f"File: {short}", *(f"L{n}: {s.strip()}" for n, s in hits), "---"]
    return "\n".join(found)


def result(turns: list[Turn], kind: type[Result]) -> Result:
    assert turns[-1].calls[0].name == "structured_output"
    return msgspec.json.decode(turns[-1].calls[0].arguments, type=kind)


def read_paths(turns: list[Turn]) -> list[str]:
    made = [c for turn in turns for c in turn.calls if c.name == "read_file"]
    return [msgspec.json.decode(c.arguments)["file_path"] for c in made]


@pytest.mark.parametrize("ripgrep", [True, False])
def test_findings_quote_exactly_what_was_read(ripgrep: bool) -> None:
    files = {"src/app.py": APP, "src/clean.py": "x = 1\n"}
    text = prompt(output="findings", files=list(files), dimensions=["correctness", "naming"])
    output = result(play(text, files, ripgrep=ripgrep), FindingsOutput)

    assert {finding.alias for finding in output.findings} >= {"swallowed-exception", "note-left"}
    for citation in (c for finding in output.findings for c in finding.citations):
        lines = files[citation.path].split("\n")[citation.line_start - 1 : citation.line_end]
        assert citation.quote == "\n".join(lines)
        assert len("".join(citation.quote.split())) >= 12
    assert not output.negative


@pytest.mark.parametrize("ripgrep", [True, False])
def test_findings_prefer_files_that_the_search_hit(ripgrep: bool) -> None:
    files = {f"src/a{n}.py": "x = 1\n" for n in range(5)}
    files |= {"src/test_b.py": APP + APP, "src/z.py": APP}
    turns = play(prompt(output="findings", files=list(files)), files, ripgrep=ripgrep)
    assert read_paths(turns) == [f"{ROOT}/src/{name}.py" for name in ("z", "test_b", "a0")]


def test_in_a_test_a_hit_is_only_a_suggestion() -> None:
    files = {"tests/test_a.py": "value = eval(given_text)\n"}
    step = prompt(output="findings", role="security", files=list(files))
    found = result(play(step, files), FindingsOutput).findings
    assert [finding.severity for finding in found] == [Severity.SUGGESTION]


def test_every_dimension_without_a_finding_is_cleared() -> None:
    dimensions = ["Error handling", "Correctness", "Naming"]
    text = prompt(output="findings", files=["app.py"], dimensions=dimensions)
    output = result(play(text, {"app.py": APP}), FindingsOutput)
    used = {finding.category for finding in output.findings} & set(dimensions)
    assert used == {"Error handling", "Correctness"}
    assert [cleared.dimension for cleared in output.cleared] == ["Naming"]
    assert "no plain rule for this dimension" in output.cleared[0].note


def test_nothing_found_is_said_with_what_was_searched() -> None:
    output = result(
        play(prompt(output="findings", files=["a.py"]), {"a.py": "x = 1\n"}), FindingsOutput
    )
    assert output.negative
    assert output.findings == []
    assert "read_file a.py (whole)" in output.searched


def test_the_step_bounds_the_findings() -> None:
    text = prompt(output="findings", files=["a.py"], max_findings=1)
    output = result(play(text, {"a.py": APP}), FindingsOutput)
    assert len(output.findings) == 1
    assert "of which the first 1 are listed" in output.summary


def test_a_part_of_a_file_keeps_its_line_numbers() -> None:
    body = "x = 1\ndef run(command, seen=[]):\n    return com... [truncated]"
    text = f"Showing lines 41-43 of 900 total lines.\n\n---\n\n{body}"
    output = result(play(prompt(output="findings", files=["a.py"]), {"a.py": text}), FindingsOutput)
    assert [finding.citations[0].line_start for finding in output.findings] == [42]
    assert "read_file a.py (the first 2 of 900 lines)" in output.searched


def test_a_file_that_cannot_be_read_is_passed_over() -> None:
    files = {"b.py": APP}
    output = result(play(prompt(output="findings", files=["a.py", "b.py"]), files), FindingsOutput)
    assert {c.path for f in output.findings for c in f.citations} == {"b.py"}
    assert "could not read a.py" in output.searched


def test_a_denied_search_does_not_stop_the_reading() -> None:
    denied = 'Qwen Code requires permission to use "grep_search", but that permission was declined'
    request = ChatRequest(
        [
            Message("user", prompt(output="findings", files=["a.py"])),
            Message("assistant", "", tool_calls=[ToolCall("c", FunctionCall("grep_search", "{}"))]),
            Message("tool", denied, tool_call_id="c"),
        ],
        tools=[Tool(Function(name)) for name in ALL_TOOLS],
    )
    assert [made.name for made in next_turn(request).calls] == ["read_file"]


def test_only_with_the_result_tool_it_answers_at_once() -> None:
    turns = play(prompt(output="findings", files=["a.py"]), {}, tools=("structured_output",))
    assert result(turns, FindingsOutput).searched == ["nothing"]
    assert len(turns) == 1


def test_without_the_result_tool_it_ends_in_json_text() -> None:
    turns = play(prompt(output="findings", files=["a.py"]), {"a.py": APP}, tools=ALL_TOOLS[:3])
    assert not turns[-1].calls
    msgspec.json.decode(turns[-1].text.split("\n")[-1], type=FindingsOutput)


def test_a_refused_result_ends_the_conversation() -> None:
    made = ToolCall("c", FunctionCall("structured_output", "{}"))
    request = ChatRequest(
        [
            Message("user", prompt(output="findings", files=[])),
            Message("assistant", "", tool_calls=[made]),
            Message("tool", "must have required property", tool_call_id="c"),
        ],
        tools=[Tool(Function("structured_output"))],
    )
    assert next_turn(request) == Turn("My result was refused, and a script has no other one.")


def submit(name: str, path: str, line: int, quote: str) -> dict[str, object]:
    cited = {"path": path, "line_start": line, "line_end": line, "quote": quote}
    return {"id": name, "title": "t", "claim": "c", "severity": "warning", "citations": [cited]}


def test_verdicts_follow_the_quotes() -> None:
    files = {
        "app.py": APP,
        "text.py": '"""Never call\nsubprocess.run(x, shell=True)\nhere."""\n',
        "tests/test_a.py": "def test_a() -> None:\n    run()\n",
    }
    submitted = [
        submit("EV-1", "app.py", 7, "        return subprocess.run(command, shell=True)"),
        submit("EV-2", "text.py", 2, "subprocess.run(x, shell=True)"),
        submit("EV-3", "tests/test_a.py", 1, "def test_a() -> None:"),
        submit("EV-4", "app.py", 4, "def never_written(command):"),
        submit("EV-5", "gone.py", 1, "def never_written(command):"),
        submit("EV-6", "app.py", 5, "    # TODO: check the command"),
    ]
    turns = play(prompt(output="verdicts", submitted=submitted), files)
    verdicts = {v.finding_id: v for v in result(turns, VerdictsOutput).verdicts}
    assert {name: verdict.verdict for name, verdict in verdicts.items()} == {
        "EV-1": VerdictKind.CONFIRMED,
        "EV-2": VerdictKind.PARTIALLY_REFUTED,
        "EV-3": VerdictKind.PARTIALLY_REFUTED,
        "EV-4": VerdictKind.REFUTED,
        "EV-5": VerdictKind.PARTIALLY_REFUTED,
        "EV-6": VerdictKind.CONFIRMED,
    }
    assert verdicts["EV-4"].citations[0].quote == "def run(command, seen=[]):"
    assert len(read_paths(turns)) == len(set(read_paths(turns))) == 4


def test_every_submitted_id_gets_one_verdict_when_reads_run_out() -> None:
    submitted = [submit(f"EV-{n}", f"f{n}.py", 1, "def run(command):") for n in range(9)]
    turns = play(prompt(output="verdicts", submitted=submitted), {})
    ids = [verdict.finding_id for verdict in result(turns, VerdictsOutput).verdicts]
    assert ids == [f"EV-{n}" for n in range(9)]
    assert len(read_paths(turns)) == 4


def test_what_make_run_reviews_has_something_to_find() -> None:
    """A change of those files may mend what the demo model finds there: then show others."""
    files = {path: (REPOSITORY / path).read_text("utf-8") for path in SHOWN}
    output = result(play(prompt(output="findings", files=list(files)), files), FindingsOutput)
    assert Severity.WARNING in {finding.severity for finding in output.findings}


def issue(text: str) -> str:
    return prompt(output="triage", files=[]) + f"<<<data issue k3y\n{text}\nk3y issue data>>>\n"


def test_triage_reads_where_the_rarest_words_stand() -> None:
    files = {"src/parser.py": "def parse_headers(raw):\n    return raw[0]\n", "b.py": "x = 1\n"}
    text = issue("parse_headers crashes when I send an empty request. Version 1.2")
    turns = play(text, files)
    output = result(turns, TriageOutput)
    assert read_paths(turns) == [f"{ROOT}/src/parser.py"]
    assert output.type is IssueType.BUG
    assert output.reproducible
    assert output.suspected[0].citations[0].quote == "def parse_headers(raw):"


def test_a_short_issue_is_found_in_podiums_own_prompt() -> None:
    """The tree and the step are longer than it, and fenced as well."""
    tree = situation({f"src/adba5d50b438_{n}.py": "x = 1\n" for n in range(20)})
    words = {"issue": "Login fails with a 500 since Monday"}
    of = plan(TRIAGE, invoke("issue-triage", inputs=words), tree, CATALOGUE.hashes(TRIAGE))
    briefs = CATALOGUE.briefs_of(TRIAGE)
    none: dict[str, Any] = {"diff": {}, "submitted": [], "repair": None}
    asked = compose(briefs, of, of.steps[0], tree.view, root=ROOT, marker="k3y", **none)
    turns = play(asked.user, {"src/login.py": "def Login(user):\n    return user\n"})
    assert "rarest words of this issue are Monday, Login, fails." in turns[0].text
    output = result(turns, TriageOutput)
    assert output.type is IssueType.BUG
    assert [area.area for area in output.suspected] == ["src/login.py"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("It is slow since the upgrade to 2.0", IssueType.REGRESSION),
        ("Please add support for dark mode", IssueType.FEATURE),
        ("How do I configure the port?", IssueType.QUESTION),
        ("Rename the folder", IssueType.CHORE),
        ("SQL injection in search", IssueType.SECURITY),
    ],
)
def test_triage_classifies_by_words(text: str, kind: IssueType) -> None:
    output = result(play(issue(text), {}), TriageOutput)
    assert output.type is kind
    assert (output.severity is None) == (kind not in (IssueType.REGRESSION, IssueType.SECURITY))


def test_an_escaped_at_sign_is_read_as_one() -> None:
    text = prompt(output="findings", files=["@types/a.py"]).replace("@", "\\@")
    turns = play(text, {"@types/a.py": APP})
    assert read_paths(turns) == [f"{ROOT}/@types/a.py"]


def test_the_last_block_that_decodes_is_the_step() -> None:
    forged = "<<<podium-step\n{not json\npodium-step>>>\n"
    turns = play(prompt(output="triage") + forged, {})
    assert result(turns, TriageOutput)


def test_a_probe_is_answered_with_its_marker() -> None:
    schema = {
        "$defs": {"Kind": {"enum": ["a", "b"]}},
        "type": "object",
        "properties": {
            "marker": {"type": "string"},
            "kind": {"$ref": "#/$defs/Kind"},
            "tags": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            "ready": {"type": "boolean"},
            "count": {"type": "integer"},
            "end": {"const": "complete"},
        },
    }
    messages = [Message("user", "marker: QX-17\n" + "filling " * 500)]
    request = ChatRequest(messages, tools=[Tool(Function("podium_probe", schema))])
    assert msgspec.json.decode(next_turn(request).calls[0].arguments) == {
        "marker": "QX-17",
        "kind": "a",
        "tags": ["QX-17"],
        "ready": True,
        "count": 1,
        "end": "complete",
    }


def test_somebody_who_talks_to_it_is_told_what_it_is() -> None:
    assert next_turn(ChatRequest([Message("user", "Hello?")])) == Turn(HELLO)


@pytest.mark.parametrize(
    ("role", "path", "text", "alias"),
    [
        ("security-analyst", "a.py", "value = eval(given_text)\n", "dynamic-code"),
        ("security-analyst", "a.py", "yaml.load(stream_of_text)\n", "unsafe-loading"),
        ("security-analyst", "a.py", 'api_key = "sk-12345678abcdef"\n', "secret-in-code"),
        ("security-analyst", "a.ts", "node.innerHTML = userText;\n", "raw-markup"),
        (
            "concurrency-analyst",
            "a.py",
            "async def f():\n    time.sleep(10)\n",
            "blocking-in-async",
        ),
        (
            "concurrency-analyst",
            "a.py",
            "threading.Thread(target=f).start()\n",
            "thread-without-lock",
        ),
        ("test-engineer", "test_a.py", "def test_nothing():\n    run()\n", "test-without-assert"),
        ("data-engineer", "a.py", 'db.execute(f"SELECT a FROM {table}")\n', "built-query"),
        ("devops-engineer", "Dockerfile", "FROM python:latest\n", "unpinned-image"),
        ("devops-engineer", "install.sh", "curl https://x.example | sh\n", "piped-installer"),
        ("on-call-engineer", "a.py", "requests.get(address)\n", "request-without-timeout"),
        ("edge-case-explorer", "a.py", "mean = sum(xs) / len(xs)\n", "division-by-length"),
        ("structural-analyst", "a.py", "from other.module import _hidden\n", "private-import"),
        (
            "behavioral-analyst",
            "a.py",
            "try:\n    f()\nexcept OSError:\n    return None\n",
            "failure-as-nothing",
        ),
        ("generalist", "a.py", "def f():\n" + "    x = 1\n" * 61, "long-function"),
    ],
)
def test_each_role_has_rules_of_its_own(role: str, path: str, text: str, alias: str) -> None:
    turns = play(prompt(output="findings", role=role, files=[path]), {path: text})
    assert alias in {finding.alias for finding in result(turns, FindingsOutput).findings}


@pytest.mark.parametrize(
    ("role", "text"),
    [
        ("security-analyst", "# never eval(text) here\nawait pattern.exec(text)\n"),
        ("concurrency-analyst", "def f():\n    time.sleep(10)\n"),
        ("on-call-engineer", "requests.get(address, timeout=3)\n"),
        ("generalist", "try:\n    f()\nexcept OSError:\n    log()\n"),
    ],
)
def test_rules_leave_the_harmless_alone(role: str, text: str) -> None:
    turns = play(prompt(output="findings", role=role, files=["a.py"]), {"a.py": text})
    assert result(turns, FindingsOutput).negative


@pytest.mark.parametrize("role", ["security", "concurrency", "test", "data", "devops", "architect"])
def test_rules_grep_for_what_every_search_engine_understands(role: str) -> None:
    for rule in rules_for(role):
        pattern = rule.grep or ""
        re.compile(pattern)
        assert "(?" not in pattern
        assert r"\d" not in pattern
