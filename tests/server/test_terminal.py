"""What the terminal shows; text of agents and repositories cannot steer it."""

import io
from typing import Any

import msgspec
from rich.console import Console

from protocol.frames import (
    Channel,
    FlowRunFinding,
    FlowRunPlanned,
    FlowRunReport,
    FlowRunStepDelta,
    FlowRunStepStatus,
    FlowRunStepTool,
    StoredFrame,
    ToolStatus,
)
from protocol.ids import RunId, StepId
from protocol.plan import Endpoint, Seat, Tree
from protocol.report import Confidence, Coverage, Finding, Severity
from protocol.states import StepStatus
from server.commands.plan_lines import plan_lines, tree_lines
from server.commands.terminal import LiveTable, PlainLines, clean, clean_line
from tests.flows.plans import review_shape

PLAN = review_shape()
STEP = PLAN.steps[0].id
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e\u2066\ud800\U000e0041"
FORGED = "12:00:01  run completed after 1.0 s"


REPORT = FlowRunReport(
    run_id=RunId("r"),
    revision=1,
    complete=True,
    coverage=Coverage(complete=True, scope="s", files_reviewed=1, files_in_scope=1, steps=[]),
    headline="Nothing found",
    counts={},
    summary_md="",
    url="",
    read_only=f"Read-only: not proven{ESCAPE}.",
    stale=True,
)


def frames() -> list[StoredFrame]:
    of: dict[str, Any] = {
        "run_id": RunId("r"),
        "step_id": STEP,
        "attempt": 1,
        "at": "2026-01-01T12:00:00.000Z",
    }
    finding = Finding(
        id="SEC-01",
        step_id=StepId(STEP),
        role="security",
        title=f"A title {ESCAPE}\n{FORGED}",
        claim="c",
        category="c",
        severity=Severity.WARNING,
        confidence=Confidence.HIGH,
        impact="i",
        citations=[],
    )
    return [
        FlowRunPlanned(run_id=RunId("r"), plan=PLAN),
        FlowRunStepStatus(**of, status=StepStatus.RUNNING),
        FlowRunStepTool(
            **of, call_id="1", name="n", status=ToolStatus.OK, summary=f"read_file {ESCAPE}x"
        ),
        FlowRunStepDelta(**of, channel=Channel.TEXT, offset=0, text="fresh"),
        FlowRunFinding(**of, finding=finding),
        REPORT,
    ]


def shown(kind: type[PlainLines] | type[LiveTable]) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=200)
    with kind(console) as watcher:
        for frame in frames():
            watcher.show(frame)
    return out.getvalue()


def test_nothing_of_an_agent_reaches_the_terminal_as_a_command() -> None:
    for kind in (PlainLines, LiveTable):
        text = shown(kind)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert not set(text) & set(ESCAPE.replace("]0;owned", "").replace("[2J", ""))
        assert FORGED not in text.splitlines()
    assert "SEC-01 warning: A title" in shown(PlainLines)


def test_a_finding_is_said_again_only_in_other_words() -> None:
    out = io.StringIO()
    found = next(it for it in frames() if isinstance(it, FlowRunFinding))
    critical = msgspec.structs.replace(found.finding, severity=Severity.CRITICAL)
    with PlainLines(Console(file=out, width=200)) as watcher:
        for finding in (found.finding, found.finding, critical):
            watcher.show(msgspec.structs.replace(found, finding=finding))
    assert [line.split()[2] for line in out.getvalue().splitlines()] == ["warning:", "critical:"]


def test_a_tool_call_is_one_line_when_it_has_ended() -> None:
    out = io.StringIO()
    call = next(it for it in frames() if isinstance(it, FlowRunStepTool))
    search = msgspec.structs.replace(call, summary=f"grep_search {'a|' * 200}")
    read = msgspec.structs.replace(call, call_id="2", summary="read_file a.py")
    with PlainLines(Console(file=out, width=200)) as watcher:
        for frame in (search, read):
            watcher.show(msgspec.structs.replace(frame, status=ToolStatus.RUNNING))
        watcher.show(search)
        watcher.show(msgspec.structs.replace(read, status=ToolStatus.DENIED))
    first, second = (line.partition(f"{STEP}: ")[2] for line in out.getvalue().splitlines())
    assert first.startswith("grep_search a|a|")
    assert first.endswith("…")
    assert len(first) == 72
    assert second == "read_file a.py [denied]"


def test_a_reason_that_repeats_the_status_is_not_said() -> None:
    out = io.StringIO()
    of: dict[str, Any] = {"run_id": RunId("r"), "step_id": STEP, "attempt": 1}
    with PlainLines(Console(file=out, width=200)) as watcher:
        for reason in ("cancelled", "crashed"):
            watcher.show(FlowRunStepStatus(**of, status=StepStatus.CANCELLED, reason=reason))
    assert "(cancelled)" not in out.getvalue()
    assert "(crashed)" in out.getvalue()


def test_the_end_says_whether_read_only_is_proven() -> None:
    for kind in (PlainLines, LiveTable):
        text = shown(kind)
        assert "report: Nothing found" in text
        assert "Read-only: not proven\ufffd" in text
        assert "Stale: the repository changed" in text


def test_what_an_agent_says_after_a_tool_begins_anew() -> None:
    last = shown(LiveTable).strip().splitlines()
    row = next(line for line in last if "fresh" in line)
    assert "read_file" not in row
    assert "1 found" in row


def test_no_name_of_a_file_passes_for_a_line_of_ours() -> None:
    assert (
        clean_line("  reads a\n  left out .env: secret") == "  reads a\ufffd  left out .env: secret"
    )


def test_clean_keeps_lines_and_tabs() -> None:
    assert clean("a\tb\nc\x1b[0m\x9b") == "a\tb\nc\ufffd[0m\ufffd"


def test_a_plan_names_the_host_and_model_of_every_role() -> None:
    gpu = Endpoint(name="gpu", host="gpu:8000", model="big", demo=True)
    (first, *others) = PLAN.steps
    role = str(first.role)
    plan = msgspec.structs.replace(
        PLAN,
        steps=[msgspec.structs.replace(first, endpoint=gpu), *others],
        roster=[Seat(role=it, title=it, reason="asked for") for it in (role, "security")],
    )
    lines = plan_lines(plan)
    assert "model: qwen at 127.0.0.1:8080" in lines
    assert f"  {role}: asked for · big at gpu:8000" in lines
    assert "  security: asked for" in lines
    assert "scripted demo model, not a review" in lines, "one scripted role is enough"


def test_a_plan_names_the_files_that_the_cap_leaves_out() -> None:
    scope = msgspec.structs.replace(PLAN.scope, total_files=len(PLAN.scope.files) + 3)
    plan = msgspec.structs.replace(
        PLAN, scope=msgspec.structs.replace(scope, left_out=["a.py", "b.py"])
    )
    told = [line for line in plan_lines(plan) if "not reviewed" in line]
    assert [line.rpartition(": ")[2] for line in told] == ["a.py", "b.py", "1 more"]


def test_a_plan_says_what_is_read_and_what_is_not() -> None:
    tree = Tree(
        id="t" * 40,
        files=3,
        bytes=4_096,
        paths=["a.py", "src/b.py"],
        folders={"src": 2},
        left_out={"secret": 2, "binary": 1},
        left_out_paths=[".env: secret", "logo.png: binary"],
        notes=["submodules are not copied"],
    )
    lines = plan_lines(msgspec.structs.replace(PLAN, tree=tree))
    assert "agents can read: 3 files, 4 KiB" in lines
    assert "not sent to any agent: 1 binary, 2 secret" in lines
    assert "note: submodules are not copied" in lines
    assert tree_lines(tree) == [
        "  reads a.py",
        "  reads src/b.py",
        "  reads src (2 files)",
        "  left out .env: secret",
        "  left out logo.png: binary",
        "  left out: 1 more",
    ]
