"""Builders of trees, situations and plans for the tests of `flows`."""

from collections.abc import Mapping
from typing import Any

from flows.facts import TreeView
from flows.registry import Catalogue, load
from flows.situation import Situation
from flows.slash import Invocation
from protocol.commands import Band
from protocol.ids import PlanId, ProjectId, StepId
from protocol.plan import (
    Caps,
    ChosenBand,
    Endpoint,
    FlowPlan,
    OnFailure,
    PlannedStep,
    Scope,
    ScopeFile,
    StepKind,
    Tree,
)
from tests.flows.trees import MemoryTree

PROJECT = ProjectId("00000000-0000-4000-8000-000000000001")
ENDPOINT = Endpoint(name="local", host="127.0.0.1:8080", model="qwen")
CATALOGUE: Catalogue = load()
REVIEW = CATALOGUE.get("code-review")
TRIAGE = CATALOGUE.get("issue-triage")


def situation(files: Mapping[str, str], *, status: str = "present", **changes: Any) -> Situation:
    """A situation in which all of `files` are under review."""
    view: TreeView = MemoryTree(files)
    fields: dict[str, Any] = {
        "project_id": PROJECT,
        "tree": Tree(id="t" * 40, files=len(files)),
        "view": view,
        "kind": "tree" if status == "present" else "branch",
        "description": "the files of the test",
        "files": [
            ScopeFile(path=path, lines=len(text.splitlines()), status=status)
            for path, text in files.items()
        ],
        "endpoint": ENDPOINT,
    }
    return Situation(**(fields | changes))


def invoke(flow: str = "code-review", **changes: Any) -> Invocation:
    return Invocation(flow=flow, **changes)


def caps(**changes: int) -> Caps:
    fields = dict.fromkeys(Caps.__struct_fields__, 8)
    return Caps(**(fields | changes))


def step(name: str, *needs: str, **changes: Any) -> PlannedStep:
    """A planned agent step; give `function` for a code step."""
    kind = StepKind.CODE if "function" in changes else StepKind.AGENT
    fields: dict[str, Any] = {
        "id": StepId(name),
        "kind": kind,
        "phase": name,
        "title": name,
        "needs": [StepId(need) for need in needs],
        "role": None if kind is StepKind.CODE else name,
        "output": None if kind is StepKind.CODE else "findings",
        "on_failure": OnFailure.DEGRADE,
        "retries": 1,
    }
    return PlannedStep(**(fields | changes))


def plan_of(*steps: PlannedStep, **changes: Any) -> FlowPlan:
    """A plan with these steps and nothing remarkable besides."""
    fields: dict[str, Any] = {
        "plan_id": PlanId("00000000-0000-4000-8000-000000000002"),
        "project_id": PROJECT,
        "flow": "code-review",
        "flow_version": 1,
        "title": "Code review",
        "command": "/code-review",
        "band": ChosenBand(name=Band.SMALL, reason="asked for", source="explicit"),
        "caps": caps(),
        "inputs": {},
        "tree": Tree(id="t" * 40, files=1),
        "scope": Scope(kind="tree", description="the tree", files=[], total_files=0),
        "signals": [],
        "roster": [],
        "omitted": [],
        "steps": list(steps),
        "hashes": {},
        "endpoint": ENDPOINT,
    }
    return FlowPlan(**(fields | changes))


def review_shape() -> FlowPlan:
    """The shape of nearly every flow: a wave, merge, a validator, reconcile, report."""
    return plan_of(
        step("review.general.1"),
        step("review.general.2"),
        step("review.security"),
        step(
            "merge",
            "review.general.1",
            "review.general.2",
            "review.security",
            function="merge",
            when="always()",
            on_failure=OnFailure.FAIL,
        ),
        step(
            "validate",
            "merge",
            output="verdicts",
            when="count(steps.merge.output.corrective) > 0",
        ),
        step(
            "reconcile",
            "merge",
            "validate",
            function="reconcile",
            when="always()",
            on_failure=OnFailure.FAIL,
        ),
        step("report", "reconcile", function="report", when="always()", on_failure=OnFailure.FAIL),
    )
