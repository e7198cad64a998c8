"""What came of an agent's tries, from inside its containment, of what it must not be able to do."""

from collections.abc import Mapping

from msgspec import Struct

from protocol.resources import Level, SelfTest


class SelfTests(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The report that preload.mjs sends to the relay before the agent's program starts."""

    write: SelfTest
    network: SelfTest
    processes: SelfTest

    @property
    def by_level(self) -> Mapping[Level, SelfTest]:
        """What was tried, by the level that must make it fail."""
        return dict(zip(Level, (self.write, self.network, self.processes), strict=True))

    def prove(self, levels: tuple[Level, ...]) -> bool:
        """Whether each of the levels was tried and held."""
        return all(self.by_level[level] is SelfTest.FAILED_AS_IT_MUST for level in levels)
