"""The one bucket behind every rate."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.bucket import Bucket


def test_a_burst_then_so_fast() -> None:
    bucket = Bucket(3, 2.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_ms(100.0) == 500
    assert not bucket.take(100.4)
    assert bucket.take(100.5)
    assert not bucket.take(100.5)


def test_it_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(3, 2.0, now=0.0)
    assert bucket.left(1_000.0) == 3
    assert bucket.wait_ms(1_000.0) == 0


@given(st.lists(st.floats(0, 3), max_size=50), st.integers(1, 20), st.floats(0.1, 50))
def test_whoever_waits_as_told_is_not_refused(
    pauses: list[float], burst: int, per_second: float
) -> None:
    now = 0.0
    bucket = Bucket(burst, per_second, now=now)
    for pause in pauses:
        now += pause
        if not bucket.take(now):
            assert bucket.wait_ms(now) > 0
            now += bucket.wait_ms(now) / 1000
            assert bucket.take(now)
