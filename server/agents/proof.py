"""From what was seen of an attempt to its receipt. Pure."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from flows.report.proof import gaps
from protocol.resources import Level, Proof, Receipt, SelfTest
from server.addresses import host_of
from server.agents.containment.cage import Found
from server.agents.containment.self_test import SelfTests
from server.agents.copies.seen import Seen
from server.agents.introduction import Init
from server.ports import ModelEndpoint

UNKNOWN = "unknown"


class Evidence(Struct, frozen=True, kw_only=True):
    """What was seen of one attempt that bears on read-only."""

    version: str
    """Of the agent, as it is installed."""
    endpoint: ModelEndpoint
    init: Init | None
    """None when the agent never said what it is."""
    trusted: bool
    """What it said and did was what was asked for, as far as it came."""
    denials: Sequence[str]
    found: Found
    tests: SelfTests | None
    """None when the agent never reported any."""
    before: Seen
    after: Seen
    ended_at: str


def proof(evidence: Evidence) -> Receipt:
    """The receipt. It is proven only when nothing at all is missing."""
    receipt = _seen(evidence)
    known = evidence.init is not None and evidence.trusted
    proven = Proof.YES if known and not gaps(receipt) else Proof.NO
    return msgspec.structs.replace(receipt, proven=proven)


def _seen(evidence: Evidence) -> Receipt:
    init = evidence.init
    came = evidence.tests.by_level if evidence.tests else {}
    # What is no level was not tried, whatever a program says that no self-test came before.
    tried = {level: came.get(level, SelfTest.NOT_RUN) for level in evidence.found.levels}
    return Receipt(
        agent="qwen",
        agent_version=init.version if init else evidence.version,
        mode=init.mode if init else UNKNOWN,
        tools=list(init.tools) if init else [],
        denials=list(evidence.denials),
        host=host_of(evidence.endpoint.base_url),
        contained=evidence.found.contained,
        levels=list(evidence.found.levels),
        write_probe=tried.get(Level.FILESYSTEM, SelfTest.NOT_RUN),
        network_probe=tried.get(Level.NETWORK, SelfTest.NOT_RUN),
        process_probe=tried.get(Level.PROCESSES, SelfTest.NOT_RUN),
        tree_before=evidence.before.tree,
        tree_after=evidence.after.tree,
        repository_before=evidence.before.repository,
        repository_after=evidence.after.repository,
        ended_at=evidence.ended_at,
        proven=Proof.NO,
    )
