"""A client that keeps `last` and takes `last + 1` only sees every frame once and in order.

The model here plays the store, the shell and the client; hypothesis chooses who moves next. (The
real store, hub and delivery: tests/server/test_delivery_interleaved.py.) A checker that cannot fail
proves nothing: the same model with replay-then-join loses frames, and the last test shows that the
checker sees it.
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


def following_from(sent: int, head: int, *, shown_head: int | None = None) -> Following:
    detail = Detail.FULL if shown_head is None else Detail.OUTLINE
    shown = Seq(head if shown_head is None else shown_head)
    return Following(sent=Seq(sent), head=Seq(head), shown_head=shown, detail=detail)


def test_caught_up_is_said_once_when_the_head_of_the_beginning_is_sent() -> None:
    following = following_from(0, 2)
    following.take(Seq(1), Seq(1))
    assert following.caught_up(RUN_ID) is None
    assert not following.live
    following.take(Seq(3), Seq(3))
    assert following.caught_up(RUN_ID) == FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(3))
    assert following.live
    assert following.caught_up(RUN_ID) is None


def test_with_nothing_to_send_caught_up_names_the_start() -> None:
    assert following_from(5, 5).caught_up(RUN_ID) == FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(5))


def test_in_outline_caught_up_names_the_last_frame_shown() -> None:
    following = following_from(0, 8, shown_head=6)
    following.take(Seq(7), Seq(6))
    assert following.caught_up(RUN_ID) is None
    following.take(Seq(8), None)
    assert following.sent == 8
    assert following.caught_up(RUN_ID) == FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(6))


def test_when_frames_expire_meanwhile_caught_up_names_the_head() -> None:
    following = following_from(0, 8)
    following.take(Seq(3), Seq(3))
    following.skip(Seq(8))
    assert following.caught_up(RUN_ID) == FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(8))
    following.skip(Seq(9))
    assert following.caught_up(RUN_ID) is None


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
    page: Sequence[Entry]
    through: Seq


class Model:
    """One run, one socket. A page may wait on the way while the others move."""

    def __init__(self, detail: Detail, *, page: int) -> None:
        self.log: list[Entry] = []
        self.detail = detail
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
        shown = max((it.seq for it in self.log if it.outline), default=Seq(0))
        self.following = Following(
            sent=Seq(found),
            head=Seq(head),
            shown_head=Seq(head) if self.detail is Detail.FULL else shown,
            detail=self.detail,
        )
        self.client.subscribed(found)

    def begin_read(self) -> None:
        """The shell asks the ring or the log; meanwhile others move."""
        if self.following is not None:
            self.read = Read(self.following, *self._answer(self.following))

    def end_read(self) -> None:
        """The answer arrives; one for a subscription that was replaced is dropped."""
        read, self.read = self.read, None
        if read is None or read.following is not self.following:
            return
        following = read.following
        for entry in read.page:
            self.client.frame(entry.seq)
        following.take(self.through(read), read.page[-1].seq if read.page else None)
        caught_up = following.caught_up(RUN_ID)
        if caught_up is not None:
            self.client.caught_up.append(caught_up.seq)

    def through(self, read: Read) -> Seq:
        """How far a page moves the cursor: to where the log was looked at when it was read."""
        return read.through

    def finish(self) -> None:
        for _ in range(len(self.log) + 2):
            self.begin_read()
            self.end_read()

    def _answer(self, following: Following) -> tuple[Sequence[Entry], Seq]:
        """A page of what lies behind the cursor, without what is not shown, and where it ends."""
        page: list[Entry] = []
        through = following.sent
        for entry in self.log[following.sent :]:
            through = entry.seq
            if entry.outline or not following.outline:
                page.append(entry)
            if len(page) == self.page:
                break
        return page, through


class ReplayThenJoin(Model):
    """A wrong way: replay to the head, and only then begin to hear of what is new."""

    def __init__(self, detail: Detail, *, page: int) -> None:
        super().__init__(detail, page=page)
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
    """A wrong way: a page moves an outline's cursor to the head as it is after the read."""

    def through(self, read: Read) -> Seq:
        return Seq(len(self.log)) if read.following.outline else read.through


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
@given(MOVES, st.sampled_from(Detail), st.integers(1, 5))
@example([("publish", 0), ("begin", 0), ("delta", 0), ("end", 0)], Detail.FULL, 1)
@example([("delta", 0), ("begin", 0), ("publish", 0), ("end", 0)], Detail.OUTLINE, 1)
def test_no_frame_is_lost_doubled_or_out_of_order(
    moves: list[Move], detail: Detail, page: int
) -> None:
    model = Model(detail, page=page)
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
        model = wrong(detail, page=1)
        play(model, moves)
        return not complete(model)

    try:
        moves = find(MOVES, lost, settings=settings(max_examples=5000, database=None))
    except NoSuchExample:
        pytest.fail("the checker accepts the wrong way")
    right = Model(detail, page=1)
    play(right, moves)
    assert complete(right)


def test_a_wrong_way_is_complete_when_nothing_happens_at_the_wrong_moment() -> None:
    model = ReplayThenJoin(Detail.FULL, page=1)
    play(model, [("end", 0), ("publish", 0), ("end", 0), ("publish", 0)])
    assert complete(model)
