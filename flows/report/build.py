"""The report of a run, from its plan and its facts, at any stage and after any end."""

from typing import Any

import msgspec

from flows.facts import Facts
from flows.model import Flow
from flows.report.answer import headline, next_command, recommendation
from flows.report.draft import gather
from flows.report.sections import sections
from protocol.plan import FlowPlan
from protocol.report import Report
from protocol.states import RunStatus

REPORT_VERSION = 1


def build(
    flow: Flow, plan: FlowPlan, facts: Facts, *, meta: dict[str, Any], status: RunStatus | None
) -> Report:
    """Build the report.

    `status` is how the run ends, or None while it goes on. The same plan, facts and status always
    give the same report but for `meta`. A run that did not deliver what it had to is never
    complete, and never reads as clean.
    """
    draft = gather(flow, plan, facts, status=status)
    return Report(
        version=REPORT_VERSION,
        flow=plan.flow,
        flow_version=plan.flow_version,
        title=plan.title,
        headline=headline(draft),
        recommendation=recommendation(draft),
        complete=draft.coverage.complete,
        tree_id=plan.tree.id,
        scope=plan.scope.description,
        band=plan.band.name.value,
        model=plan.endpoint.model,
        endpoint=plan.endpoint.host,
        demo=plan.demo,
        role_endpoints=plan.role_endpoints,
        counts=draft.counts,
        citations=draft.citations,
        findings=draft.findings,
        sections=sections(draft),
        coverage=draft.coverage,
        deferred=[idea for _, reviewed in draft.reviews for idea in reviewed.deferred],
        cleared=[cleared for _, reviewed in draft.reviews for cleared in reviewed.cleared],
        next=next_command(draft),
        meta=meta,
    )


def to_json(report: Report) -> bytes:
    """Return the report as indented JSON; equal reports have equal bytes."""
    return msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=2)


def same(one: Report, other: Report) -> bool:
    """Whether two reports say the same: they are equal but for `meta`."""
    return _without_meta(one) == _without_meta(other)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of what `to_json` writes."""
    return msgspec.json.schema(Report)


def _without_meta(report: Report) -> Report:
    return msgspec.structs.replace(report, meta={})
