"""The long form of tests/server/test_delivery_interleaved.py: `make soak`."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.server.arena import Example, Way
from tests.server.test_delivery_interleaved import (
    KINDS,
    READERS,
    Play,
    examples,
    no_blocking_calls,
    play,
)

__all__ = ["no_blocking_calls", "play"]
pytestmark = [pytest.mark.soak, pytest.mark.timeout(7_200)]


@pytest.mark.parametrize("part", range(10))
@settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(example=examples(KINDS, readers=READERS))
def test_every_reader_has_the_log(play: Play, part: int, example: Example) -> None:
    """In parts: what hypothesis keeps of its examples comes to gigabytes otherwise."""
    play(example, Way())
