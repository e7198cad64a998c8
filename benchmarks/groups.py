"""What can be measured: groups of rows by name, in the order of the table."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.agent import agent_rows
from benchmarks.containment import containment_rows
from benchmarks.delivery import delivery_rows
from benchmarks.evidence import evidence_rows
from benchmarks.listing import listing_rows
from benchmarks.many import many_rows
from benchmarks.options import Options
from benchmarks.overhead import overhead_rows
from benchmarks.pane import pane_rows
from benchmarks.pipeline import pipeline_rows
from benchmarks.relay import relay_rows
from benchmarks.replay import replay_rows
from benchmarks.rows import Row
from benchmarks.snapshot import snapshot_rows
from benchmarks.starts import launch_rows, start_rows
from benchmarks.viewers import viewer_rows


class Group(NamedTuple):
    says: str
    measure: Callable[[Options], list[Row]]
    """Raises Missing when it cannot be measured here."""


GROUPS = {
    "delivery": Group("CPU of a delivery, against a limit in C and against peers", delivery_rows),
    "pipeline": Group("an agent's line: parsed, committed, on ten panes", pipeline_rows),
    "many": Group("a thousand watchers of one run, five thousand idle sockets", many_rows),
    "viewers": Group("what readers notice of those who stop reading", viewer_rows),
    "pane": Group("the page while eight agents write", pane_rows),
    "replay": Group("a long run out of the log, to one socket", replay_rows),
    "list": Group("a page of a long run list", listing_rows),
    "start": Group("the server's start, size, stop and imports", start_rows),
    "launch": Group("from a launch to the first agent's process", launch_rows),
    "agent": Group("from what an agent writes to a socket", agent_rows),
    "relay": Group("what the relay adds to the first token", relay_rows),
    "containment": Group("what containing an agent costs", containment_rows),
    "overhead": Group("what podium adds to the CLI's own run", overhead_rows),
    "snapshot": Group("the pinned copy of a large tree", snapshot_rows),
    "evidence": Group("citations against the pinned copy of a large tree", evidence_rows),
}
