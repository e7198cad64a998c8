"""A client that keeps `last` and takes `last + 1` only sees every frame once and in order.

The model here plays the store, the ring of the hub, the shell and the client; hypothesis chooses
who moves next. A checker that cannot fail proves nothing: the same model with replay-then-join
loses frames, and the last test shows that the checker sees it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import example, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from protocol.commands import Cursor, Detail
from protocol.connection import Following, LogState, start_after
from protocol.errors import BadMessage
from protocol.frames import FlowRunCaughtUp
from protocol.ids import Gen, Seq
from tests.protocol.samples import RUN_ID


class Entry(NamedTuple):
    seq: Seq
    outline: bool


# --- where to start -------------------------------------------------------------------------------


def state(
    head: int, *, gen: int = 1, floor: int = 0, bases: Sequence[tuple[int, int]] = ()
) -> LogState:
    known = [(Gen(each), Seq(base)) for each, base in bases] or [(Gen(1), Seq(0))]
    return LogState(Gen(gen), Seq(head), Seq(floor), known)


def start(
    log: LogState, after: tuple[int, int] | None = None, tail: int | None = None
) -> int | None:
    cursor = None if after is None else Cursor(gen=after[0], seq=after[1])
    return start_after(log, after=cursor, tail=tail)


THREE = [(1, 0), (2, 50), (3, 40)]


@pytest.mark.parametrize(
    ("log", "after", "tail", "expected"),
    [
        (state(0), None, None, 0),
        (state(10), None, None, 0),
        (state(10), (1, 4), None, 4),
        (state(10), (1, 10), None, 10),
        (state(10), (1, 11), None, 10),
        (state(10), None, 3, 7),
        (state(10), None, 0, 10),
        (state(10), None, 99, 0),
        # the smaller of the client's seq and every later base
        (state(90, gen=3, bases=THREE), (1, 45), None, 40),
        (state(90, gen=3, bases=THREE), (1, 30), None, 30),
        (state(90, gen=3, bases=THREE), (2, 80), None, 40),
        (state(90, gen=3, bases=THREE), (3, 80), None, 80),
        # a generation that the log does not know
        (state(10), (2, 5), None, 0),
        # expired
        (state(10, floor=5), None, None, None),
        (state(10, floor=5), (1, 4), None, None),
        (state(10, floor=5), (1, 5), None, 5),
        (state(10, floor=5), (2, 7), None, None),
        (state(10, floor=5), None, 9, 5),
        (state(5, floor=5), None, 0, 5),
    ],
)
def test_where_frames_start(
    log: LogState, after: tuple[int, int] | None, tail: int | None, expected: int | None
) -> None:
    assert start(log, after, tail) == expected


def test_a_cursor_and_a_tail_exclude_each_other() -> None:
    with pytest.raises(BadMessage) as caught:
        start(state(10), (1, 1), 1)
    assert caught.value.field == "tail"


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 100), st.integers(1, 5))
def test_a_start_is_never_past_the_client_or_the_head(
    head: int, floor: int, seq: int, gen: int
) -> None:
    log = state(head, gen=3, floor=min(head, floor), bases=[(1, 0), (2, head // 2), (3, head // 3)])
    found = start(log, (gen, seq))
    if found is not None:
        assert log.floor <= found <= min(seq, head)


# --- what is taken --------------------------------------------------------------------------------


def entries(*seqs: int) -> list[Entry]:
    """Entries of which every third is shown in an outline."""
    return [Entry(Seq(seq), seq % 3 == 0) for seq in seqs]


def taken(following: Following, *seqs: int) -> list[int]:
    return [entry.seq for entry in following.take(entries(*seqs))]


def test_full_detail_takes_what_follows_and_nothing_else() -> None:
    following = Following(sent=Seq(3), target=Seq(6), detail=Detail.FULL)
    assert taken(following, 2, 3, 4, 5) == [4, 5]
    assert taken(following, 4, 5) == []
    assert taken(following, 7, 8) == []
    assert taken(following, 6, 7) == [6, 7]
    assert following.sent == 7


def test_an_outline_takes_only_what_it_shows() -> None:
    following = Following(sent=Seq(0), target=Seq(8), detail=Detail.OUTLINE)
    assert taken(following, 1, 2, 3, 4) == [3]
    assert following.sent == 4
    assert taken(following, 6, 9) == [6, 9]


def test_a_reader_that_stops_halfway_has_taken_no_more_than_it_got() -> None:
    following = Following(sent=Seq(0), target=Seq(8), detail=Detail.FULL)
    reading = following.take(entries(1, 2, 3))
    next(reading)
    assert following.sent == 1
    assert taken(following, 1, 2, 3) == [2, 3]


def test_caught_up_is_said_once_when_the_head_of_the_beginning_is_sent() -> None:
    following = Following(sent=Seq(0), target=Seq(2), detail=Detail.FULL)
    taken(following, 1)
    assert following.caught_up(RUN_ID) is None
    assert not following.live
    taken(following, 2, 3)
    assert following.caught_up(RUN_ID) == FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(3))
    assert following.live
    assert following.caught_up(RUN_ID) is None


def test_with_nothing_to_send_caught_up_names_the_start() -> None:
    following = Following(sent=Seq(5), target=Seq(5), detail=Detail.FULL)
    assert following.caught_up(RUN_ID) == FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(5))


def test_in_outline_caught_up_names_the_last_frame_shown() -> None:
    following = Following(sent=Seq(0), target=Seq(8), detail=Detail.OUTLINE)
    taken(following, 3, 6)
    assert following.caught_up(RUN_ID) is None
    following.skip_to(Seq(8))
    following.skip_to(Seq(1))
    assert following.sent == 8
    assert following.caught_up(RUN_ID) == FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(6))


# --- the whole ------------------------------------------------------------------------------------


class Client:
    """Keeps `last`; in full detail takes `last + 1` only, in outline anything above."""

    def __init__(self, detail: Detail) -> None:
        self.detail = detail
        self.last = 0
        self.seen: list[int] = []
        self.refused: list[int] = []
        self.caught_up: list[int] = []

    def subscribed(self, start: int) -> None:
        self.last = start
        self.seen = [seq for seq in self.seen if seq <= start]

    def frame(self, seq: int) -> None:
        follows = seq == self.last + 1 if self.detail is Detail.FULL else seq > self.last
        if follows:
            self.last = seq
            self.seen.append(seq)
        else:
            self.refused.append(seq)


class Read(NamedTuple):
    """A page under way from the ring or the log."""

    following: Following
    head: Seq
    page: Sequence[Entry]


class Model:
    """One run, one socket. Frames travel in order and may wait on the way."""

    def __init__(self, detail: Detail, *, ring: int, page: int) -> None:
        self.log: list[Entry] = []
        self.detail = detail
        self.ring = ring
        self.page = page
        self.client = Client(detail)
        self.following: Following | None = None
        self.read: Read | None = None

    def publish(self, *, outline: bool) -> None:
        self.log.append(Entry(Seq(len(self.log) + 1), outline))

    def subscribe(self, seq: int) -> None:
        head = len(self.log)
        found = start(state(head), (1, seq))
        assert found is not None
        self.following = Following(sent=Seq(found), target=Seq(head), detail=self.detail)
        self.client.subscribed(found)

    def begin_read(self) -> None:
        """The shell notes the head, then asks the ring or the log; meanwhile others move."""
        if self.following is not None:
            head = Seq(len(self.log))
            self.read = Read(self.following, head, self._answer(self.following))

    def end_read(self) -> None:
        """The answer arrives; one for a subscription that was replaced is dropped."""
        read, self.read = self.read, None
        if read is None or read.following is not self.following:
            return
        following = read.following
        if not read.page and following.outline:
            following.skip_to(self.skip_target(read))
        for entry in following.take(read.page):
            self.client.frame(entry.seq)
        caught_up = following.caught_up(RUN_ID)
        if caught_up is not None:
            self.client.caught_up.append(caught_up.seq)

    def skip_target(self, read: Read) -> Seq:
        """How far an empty outline page lets the cursor skip: the head before it was read."""
        return read.head

    def finish(self) -> None:
        for _ in range(len(self.log) + 2):
            self.begin_read()
            self.end_read()

    def _answer(self, following: Following) -> Sequence[Entry]:
        after = self.log[following.sent :]
        if len(after) <= self.ring:
            return after[: self.page]
        shown = [entry for entry in after if entry.outline or not following.outline]
        return shown[: self.page]


class ReplayThenJoin(Model):
    """A wrong way: replay to the head, and only then begin to hear of what is new."""

    def __init__(self, detail: Detail, *, ring: int, page: int) -> None:
        super().__init__(detail, ring=ring, page=page)
        self.replay: Sequence[Entry] = []
        self.joined: int | None = None

    def subscribe(self, seq: int) -> None:
        super().subscribe(seq)
        self.replay = self.log[self.client.last :]
        self.joined = None

    def end_read(self) -> None:
        new = self.replay if self.joined is None else self.log[self.joined :]
        for entry in new:
            self.client.frame(entry.seq)
        self.joined = len(self.log)


class SkipsToTheNewHead(Model):
    """A wrong way: skip an empty outline page to the head as it is after the read."""

    def skip_target(self, read: Read) -> Seq:
        return Seq(len(self.log))


Move = tuple[str, int]

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["publish", "delta", "subscribe", "begin", "end"]), st.integers(0, 30)
    ),
    max_size=60,
)


def play(model: Model, moves: Sequence[Move]) -> None:
    model.subscribe(0)
    for move, number in moves:
        match move:
            case "publish":
                model.publish(outline=True)
            case "delta":
                model.publish(outline=False)
            case "subscribe":
                model.subscribe(min(number, model.client.last))
            case "begin":
                model.begin_read()
            case _:
                model.end_read()
    model.finish()


def complete(model: Model) -> bool:
    """The checker: every frame that the client should see, once, in order."""
    full = model.detail is Detail.FULL
    expected = [entry.seq for entry in model.log if full or entry.outline]
    return model.client.seen == expected and not model.client.refused


@settings(max_examples=500)
@given(MOVES, st.sampled_from(Detail), st.integers(0, 8), st.integers(1, 5))
@example([("publish", 0), ("begin", 0), ("delta", 0), ("end", 0)], Detail.FULL, 0, 1)
@example([("delta", 0), ("begin", 0), ("publish", 0), ("end", 0)], Detail.OUTLINE, 0, 1)
def test_no_frame_is_lost_doubled_or_out_of_order(
    moves: list[Move], detail: Detail, ring: int, page: int
) -> None:
    model = Model(detail, ring=ring, page=page)
    play(model, moves)
    assert complete(model)
    assert model.client.caught_up
    assert model.client.last >= model.client.caught_up[-1]


@pytest.mark.parametrize(
    ("wrong", "detail"),
    [(ReplayThenJoin, Detail.FULL), (SkipsToTheNewHead, Detail.OUTLINE)],
)
def test_the_checker_sees_what_a_wrong_way_loses(wrong: type[Model], detail: Detail) -> None:
    def lost(moves: list[Move]) -> bool:
        model = wrong(detail, ring=0, page=1)
        play(model, moves)
        return not complete(model)

    try:
        moves = find(MOVES, lost, settings=settings(max_examples=5000, database=None))
    except NoSuchExample:
        pytest.fail("the checker accepts the wrong way")
    right = Model(detail, ring=0, page=1)
    play(right, moves)
    assert complete(right)


def test_a_wrong_way_is_complete_when_nothing_happens_at_the_wrong_moment() -> None:
    model = ReplayThenJoin(Detail.FULL, ring=0, page=1)
    play(model, [("end", 0), ("publish", 0), ("end", 0), ("publish", 0)])
    assert complete(model)
