"""What `podium run` and `podium watch` show: one line per agent on a terminal, plain lines else."""

import re
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.report.meta import STALE
from protocol.frames import (
    FlowRunFinding,
    FlowRunFinished,
    FlowRunPlanned,
    FlowRunReport,
    FlowRunReset,
    FlowRunStatus,
    FlowRunStepDelta,
    FlowRunStepNotice,
    FlowRunStepStatus,
    FlowRunStepTool,
    FlowRunSubscribed,
    ServerFrame,
    StoredFrame,
    ToolStatus,
)
from protocol.ids import StepId
from protocol.plan import PlannedStep, StepKind
from protocol.states import StepStatus
from server.commands.plan_lines import plan_lines

MARKS = {
    StepStatus.PENDING: ("·", "dim"),
    StepStatus.QUEUED: ("…", "yellow"),
    StepStatus.RUNNING: ("▶", "cyan"),
    StepStatus.COMPLETED: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.CANCELLED: ("■", "magenta"),
    StepStatus.SKIPPED: ("–", "dim"),
}
ACTIVITY_WIDTH = 90
CALL_WIDTH = 72
"""Of a tool call in plain lines: what a search looks for can be long."""

_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
    r"\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Text that cannot steer a terminal nor show what it does not say: control characters, changes
    of direction and what no terminal can print become U+FFFD."""
    return _CONTROLS.sub("\ufffd", text)


def clean_line(text: str) -> str:
    """The same in one line: what others name or say cannot pass for a line of ours."""
    return clean(text).replace("\n", "\ufffd")


class Watcher(Protocol):
    """Takes every frame of a run, in order, and what the server says of its log."""

    def show(self, frame: StoredFrame) -> None: ...

    def note(self, event: FlowRunSubscribed | FlowRunReset) -> None:
        """What came after its frame is void and comes anew, or can no longer be shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _Watcher:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class FrameLines(_Watcher):
    """`--json`: every frame as one line."""

    def __init__(
        self, encode: Callable[[ServerFrame], bytes], write: Callable[[str], None]
    ) -> None:
        self._encode = encode
        self._write = write

    def show(self, frame: StoredFrame) -> None:
        self._write(self._encode(frame).decode())

    def note(self, event: FlowRunSubscribed | FlowRunReset) -> None:
        self._write(self._encode(event).decode())


class PlainLines(_Watcher):
    """Without a terminal: one line for each thing worth knowing, no text deltas."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._findings: set[str] = set()

    def note(self, event: FlowRunSubscribed | FlowRunReset) -> None:
        self._print(_note(event))

    def show(self, frame: StoredFrame) -> None:
        for line in _lines(frame):
            if not isinstance(frame, FlowRunFinding) or self._is_new(line):
                self._print(f"{frame.at[11:19]}  {line}")
        if isinstance(frame, FlowRunPlanned):
            for fact in plan_lines(frame.plan):
                self._print(f"          {fact}")

    def _is_new(self, line: str) -> bool:
        """Whether this finding was not said in the same words before: a verdict repeats it."""
        known = line in self._findings
        self._findings.add(line)
        return not known

    def _print(self, line: str) -> None:
        self._console.print(clean_line(line), markup=False, highlight=False, soft_wrap=True)


class LiveTable(_Watcher):
    """On a terminal: one line per step with what it is doing now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=False)
        self._rows: dict[StepId, _Row] = {}
        self._title = ""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def note(self, event: FlowRunSubscribed | FlowRunReset) -> None:
        self._console.print(clean_line(_note(event)), markup=False, highlight=False)

    def show(self, frame: StoredFrame) -> None:
        match frame:
            case FlowRunPlanned():
                self._rows = {step.id: _Row(step) for step in frame.plan.steps}
                for fact in plan_lines(frame.plan):
                    self._console.print(clean_line(fact), markup=False, highlight=False)
            case FlowRunStepStatus():
                row = self._rows[frame.step_id]
                row.status = frame.status
                row.note(frame.message or frame.reason or "")
            case FlowRunStepTool():
                self._rows[frame.step_id].note(frame.summary)
            case FlowRunStepDelta():
                self._rows[frame.step_id].say(frame.text)
            case FlowRunStepNotice():
                self._rows[frame.step_id].note(frame.message)
            case FlowRunFinding():
                self._rows[frame.step_id].findings.add(frame.finding.id)
            case FlowRunReport():
                for line in _report_lines(frame):
                    self._console.print(clean_line(line), markup=False, highlight=False)
            case _:
                pass
        self._live.update(self._table())

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for row in self._rows.values():
            mark, style = MARKS[row.status]
            found = f"{len(row.findings)} found" if row.findings else ""
            table.add_row(
                Text(mark, style=style),
                Text(row.step.id, style="bold" if row.step.kind is StepKind.AGENT else "dim"),
                Text(row.status.value, style=style),
                Text(found),
                Text(clean_line(row.activity)[-ACTIVITY_WIDTH:], style="dim", no_wrap=True),
            )
        return table


class _Row:
    def __init__(self, step: PlannedStep) -> None:
        self.step = step
        self.status = StepStatus.PENDING
        self.activity = ""
        self._speaking = False
        self.findings: set[str] = set()

    def note(self, text: str) -> None:
        """Show something that happened in place of what was said."""
        self.activity = text
        self._speaking = False

    def say(self, text: str) -> None:
        """Keep the end of the current line of what the agent says."""
        line = (self.activity + text if self._speaking else text).rstrip("\n").rpartition("\n")[2]
        self.activity = line[-2 * ACTIVITY_WIDTH :]
        self._speaking = True


def _note(event: FlowRunSubscribed | FlowRunReset) -> str:
    if isinstance(event, FlowRunSubscribed):
        return f"the server has lost what came after frame {event.after}; it goes on from there"
    return f"the frames of this run have expired; it is {event.snapshot.status.value}"


def _lines(frame: StoredFrame) -> list[str]:
    if isinstance(frame, FlowRunReport):
        return _report_lines(frame)
    line = _line(frame)
    return [line] if line else []


def _report_lines(frame: FlowRunReport) -> list[str]:
    """The answer, and how far it can be relied on."""
    lines = [f"report: {frame.headline}"]
    if frame.stale:
        lines.append(STALE)
    if frame.read_only:
        lines.append(frame.read_only)
    return lines


def _line(frame: StoredFrame) -> str | None:
    match frame:
        case FlowRunStatus(status=status, reason=reason):
            return f"run {status.value}" + (f" ({reason})" if reason not in (None, status) else "")
        case FlowRunStepStatus():
            return _step_line(frame)
        case FlowRunStepTool():
            return _call_line(frame)
        case FlowRunStepNotice():
            return f"{frame.step_id}: {frame.message}"
        case FlowRunFinding(finding=finding):
            places = ", ".join(
                f"{c.path}:{c.line_start} {c.state.value}" for c in finding.citations
            )
            return f"{finding.id} {finding.severity.value}: {finding.title} ({places})"
        case FlowRunFinished():
            return f"run {frame.status.value} after {frame.totals.seconds:.1f} s"
        case _:
            return None


def _call_line(frame: FlowRunStepTool) -> str | None:
    """A call once, when it has ended, and how, unless it went well."""
    if frame.status is ToolStatus.RUNNING:
        return None
    text = frame.summary
    shown = text if len(text) <= CALL_WIDTH else f"{text[: CALL_WIDTH - 1]}…"
    ended = "" if frame.status is ToolStatus.OK else f" [{frame.status.value}]"
    return f"{frame.step_id}: {shown}{ended}"


def _step_line(frame: FlowRunStepStatus) -> str:
    parts = [f"{frame.step_id}: {frame.status.value}"]
    if frame.attempt > 1:
        parts.append(f"attempt {frame.attempt}")
    if frame.reused:
        parts.append("reused")
    why = frame.message or frame.reason
    if why and why != frame.status.value:
        parts.append(f"({why})")
    return " ".join(parts)
