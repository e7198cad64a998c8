"""A plan as lines for a person: of `podium plan`, and before a run that one watches."""

from math import ceil

from flows.counted import number_of
from protocol.plan import FlowPlan, Scope, Tree


def plan_lines(plan: FlowPlan) -> list[str]:
    """A plan in a few lines: what, where, who and why, and what is left out."""
    scope = plan.scope
    lines = [
        f"{plan.title} · band {plan.band.name.value} ({plan.band.reason})",
        f"scope: {scope.description} · {len(scope.files)} of {number_of(scope.total_files, 'file')}"
        f" · tree {plan.tree.id[:12]}",
        f"model: {plan.endpoint.model} at {plan.endpoint.host}",
    ]
    if plan.demo:
        lines.append("scripted demo model, not a review")
    lines += _not_reviewed(scope)
    lines += [f"  {seat.role}: {seat.reason}{_own_model(plan, seat.role)}" for seat in plan.roster]
    lines += [f"  left out: {seat.role}: {seat.reason}" for seat in plan.omitted]
    files = number_of(plan.tree.files, "file")
    lines.append(f"agents can read: {files}, {ceil(plan.tree.bytes / 1024):,} KiB")
    if plan.tree.left_out:
        counts = ", ".join(f"{count} {why}" for why, count in sorted(plan.tree.left_out.items()))
        lines.append(f"not sent to any agent: {counts}")
    lines += [f"note: {note}" for note in plan.tree.notes]
    lines += [f"note: {warning}" for warning in plan.warnings]
    return lines


def tree_lines(tree: Tree) -> list[str]:
    """What agents can read, by path or counted by folder, and what was left out."""
    lines = [f"  reads {path}" for path in tree.paths]
    lines += [f"  reads {at} ({number_of(files, 'file')})" for at, files in tree.folders.items()]
    lines += [f"  left out {path}" for path in tree.left_out_paths]
    more = sum(tree.left_out.values()) - len(tree.left_out_paths)
    return [*lines, f"  left out: {more} more"] if more > 0 else lines


def _not_reviewed(scope: Scope) -> list[str]:
    """The files in scope that the band's cap leaves out."""
    lines = [f"  not reviewed, over the cap of the band: {path}" for path in scope.left_out]
    more = scope.total_files - len(scope.files) - len(lines)
    return [*lines, f"  not reviewed, over the cap of the band: {more} more"] if more > 0 else lines


def _own_model(plan: FlowPlan, role: str) -> str:
    own = plan.role_endpoints.get(role)
    return f" · {own.model} at {own.host}" if own else ""
