"""From what was seen of an attempt to its receipt. Pure."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from flows.report.proof import gaps
from protocol.resources import Level, Proof, Receipt, SelfTest
from server.addresses import host_of
from server.agents.cage import Found
from server.agents.introduction import Init
from server.agents.receipt import Seen
from server.agents.relay_rules import SelfTests
from server.ports import ModelEndpoint

UNKNOWN = "unknown"
NOTHING_TRIED = SelfTests(
    write=SelfTest.NOT_RUN, network=SelfTest.NOT_RUN, processes=SelfTest.NOT_RUN
)


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
    init, tests = evidence.init, evidence.tests or NOTHING_TRIED
    # What is no level was not tried, whatever a program says that no self-test came before.
    write, network, processes = (
        came if level in evidence.found.levels else SelfTest.NOT_RUN
        for level, came in zip(Level, (tests.write, tests.network, tests.processes), strict=True)
    )
    return Receipt(
        agent="qwen",
        agent_version=init.version if init else evidence.version,
        mode=init.mode if init else UNKNOWN,
        tools=list(init.tools) if init else [],
        denials=list(evidence.denials),
        host=host_of(evidence.endpoint.base_url),
        contained=evidence.found.contained,
        levels=list(evidence.found.levels),
        write_probe=write,
        network_probe=network,
        process_probe=processes,
        tree_before=evidence.before.tree,
        tree_after=evidence.after.tree,
        repository_before=evidence.before.repository,
        repository_after=evidence.after.repository,
        ended_at=evidence.ended_at,
        proven=Proof.NO,
    )
