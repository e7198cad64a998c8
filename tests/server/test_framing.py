"""Frames are framed once, as everybody else frames them, and shared by the readers of a tick."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from protocol.ids import RunId, Seq
from server.channel import hub as hub_module
from server.channel.framing import framed, joined
from server.channel.hub import MAX_RINGS, RING_FRAMES, MemoryHub
from server.ports import PAGE_BYTES, Batch, LogEntry

RUN = RunId("run")
NOBODY = RunId("nobody")


def theirs(payload: bytes) -> bytes:
    return Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[])


@given(st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000]), st.binary(max_size=3))
def test_a_header_is_the_one_of_the_library(size: int, more: bytes) -> None:
    payload = b"x" * size + more
    assert framed(payload) == theirs(payload)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_joined_frames_are_the_single_ones(payloads: list[bytes]) -> None:
    assert joined(payloads) == b"".join(theirs(payload) for payload in payloads)


# --- the ring -------------------------------------------------------------------------------------


def entries(first: int, last: int, *, size: int = 10) -> list[LogEntry]:
    """Frames of which every third is shown in an outline."""
    return [
        LogEntry(RUN, Seq(seq), str(seq).encode().ljust(size), seq % 3 == 0)
        for seq in range(first, last + 1)
    ]


def hub_with(*ticks: list[LogEntry]) -> MemoryHub:
    hub = MemoryHub()
    for tick in ticks:
        hub.publish(tick)
    return hub


def numbers(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [int(payload) for payload in batch.payloads]


def test_the_readers_of_a_tick_share_its_bytes() -> None:
    hub = hub_with(entries(1, 5), entries(6, 9))
    first, second = (hub.after(RUN, Seq(5), outline=False) for _ in range(2))
    assert first is not None
    assert first is second
    assert first.wire == joined(first.payloads)
    # A reader that has everything does not take it from the others.
    assert numbers(hub.after(RUN, Seq(9), outline=False)) == []
    assert hub.after(RUN, Seq(5), outline=False) is first
    hub.publish(entries(10, 10))
    assert numbers(hub.after(RUN, Seq(5), outline=False)) == [6, 7, 8, 9, 10]


def test_an_outline_has_bytes_of_its_own() -> None:
    hub = hub_with(entries(1, 8))
    assert numbers(hub.after(RUN, Seq(0), outline=False)) == list(range(1, 9))
    outline = hub.after(RUN, Seq(0), outline=True)
    assert numbers(outline) == [3, 6]
    assert outline is not None
    assert (outline.shown, outline.last) == (6, 8)
    nothing = hub.after(RUN, Seq(6), outline=True)
    assert nothing is not None
    assert (nothing.shown, nothing.last, nothing.wire) == (None, 8, b"")


@pytest.mark.parametrize("size", [100, 10_000, 70_000])
def test_a_batch_ends_at_so_many_bytes_and_says_so(size: int) -> None:
    large = hub_with(entries(1, 400_000 // size, size=size)).after(RUN, Seq(0), outline=False)
    assert large is not None
    assert large.cut
    assert PAGE_BYTES - 1.1 * size - 20_000 < len(large.wire) <= PAGE_BYTES


def test_a_frame_that_is_larger_comes_alone() -> None:
    alone = hub_with(entries(1, 1, size=2 * PAGE_BYTES)).after(RUN, Seq(0), outline=False)
    assert alone is not None
    assert (alone.last, alone.cut) == (1, False)


@pytest.mark.parametrize(
    "ticks", [[entries(1, 5), entries(7, 8)], [entries(1, 3), [*entries(4, 5), *entries(7, 8)]]]
)
def test_the_ring_never_spans_a_hole(ticks: list[list[LogEntry]]) -> None:
    hub = hub_with(*ticks)
    assert hub.after(RUN, Seq(3), outline=False) is None
    assert hub.after(RUN, Seq(5), outline=False) is None
    assert numbers(hub.after(RUN, Seq(6), outline=False)) == [7, 8]
    assert hub.after(NOBODY, Seq(0), outline=False) is None


def test_runs_that_are_published_together_have_rings_of_their_own() -> None:
    other = [LogEntry(NOBODY, Seq(seq), b"7", outline=False) for seq in (1, 2, 3)]
    hub = hub_with([it for pair in zip(entries(1, 3), other, strict=True) for it in pair])
    assert numbers(hub.after(RUN, Seq(0), outline=False)) == [1, 2, 3]
    assert numbers(hub.after(NOBODY, Seq(1), outline=False)) == [7, 7]


def test_heads_outlive_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rings together are bounded; the log serves those that were quiet the longest."""
    monkeypatch.setattr(hub_module, "RINGS_BYTES", 1_000)
    hub, quiet = hub_with(entries(1, 50)), RunId("quiet")
    hub.publish([LogEntry(quiet, Seq(1), b"x" * 900, outline=False)])
    assert hub.after(RUN, Seq(49), outline=False) is None
    assert hub.after(quiet, Seq(0), outline=False) is not None
    assert [hub.head(RUN, outline=outline) for outline in (False, True)] == [50, 48]
    assert [hub.head(quiet, outline=outline) for outline in (False, True)] == [1, 0]
    assert hub.head(NOBODY, outline=False) == 0
    hub.publish(entries(51, 52))
    assert numbers(hub.after(RUN, Seq(50), outline=False)) == [51, 52]


def test_rings_of_runs_that_nobody_listens_to_go_the_others_stay() -> None:
    hub, wake = hub_with(entries(1, 3)), lambda run_id: None
    hub.listen(RUN, wake)
    for number in range(2 * MAX_RINGS):
        hub.publish([LogEntry(RunId(f"other{number}"), Seq(1), b"x", outline=True)])
    assert hub.head(RUN, outline=False) == 3
    assert hub.head(RunId("other0"), outline=False) == 0
    hub.forget(RUN, wake)
    hub.publish([LogEntry(NOBODY, Seq(1), b"x", outline=True)])
    assert hub.head(RUN, outline=False) == 0


def test_watchers_hear_of_every_run_that_an_outline_shows() -> None:
    hub, heard = MemoryHub(), list[RunId]()
    hub.watch(heard.append)
    hub.publish(entries(1, 1))
    assert heard == []
    hub.publish([*entries(2, 6), LogEntry(NOBODY, Seq(1), b"x", outline=True)])
    assert heard == [RUN, NOBODY]
    hub.unwatch(heard.append)
    hub.publish(entries(7, 9))
    assert heard == [RUN, NOBODY]


@given(
    st.lists(st.integers(1, 400), max_size=20),
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20),
)
def test_from_any_cursor_the_batches_are_the_log(
    ticks: list[int], readers: list[tuple[float, bool]]
) -> None:
    log, hub = entries(1, sum(ticks)), MemoryHub()
    done = 0
    for size in ticks:
        hub.publish(log[done : done + size])
        done += size
    for place, outline in readers:
        start = cursor = int(place * len(log))
        got: list[int] = []
        while (batch := hub.after(RUN, Seq(cursor), outline=outline)) is not None:
            got += numbers(batch)
            cursor = batch.last
            if not batch.cut:
                break
        if not log or start + RING_FRAMES < len(log):
            assert got == []  # the log serves it
        else:
            shown = [int(it.data) for it in log[start:] if it.outline or not outline]
            assert (got, cursor) == (shown, len(log))
