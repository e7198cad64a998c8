"""What a run of the benchmarks is asked for."""

from pathlib import Path
from typing import NamedTuple


class Options(NamedTuple):
    passes: int
    """Of what is compared with something beside it."""
    tiny: bool
    """Only to see that all is right: counts are checked, and times mean nothing."""
    place: Path
    """A folder that is thrown away."""

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full


class Missing(Exception):
    """A group cannot be measured here; it says what is missing."""
