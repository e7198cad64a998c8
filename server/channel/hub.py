"""The hub of one process: a ring of ready-made frames per live run. The log is the record."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from protocol.ids import RunId, Seq
from server.channel.framing import batch_of, page_of
from server.ports import Batch, LogEntry

RING_FRAMES = 4_096
RING_BYTES = 4 * 1024 * 1024
RINGS_BYTES = 64 * 1024 * 1024
"""Of all rings together; past it those that were quiet the longest are emptied."""
MAX_RINGS = 64
"""Rings kept for runs that nobody listens to; the log serves the others."""


class Ring:
    """The newest frames of one run, without a hole, and its heads."""

    def __init__(self) -> None:
        self.entries: deque[LogEntry] = deque()
        self.bytes = 0
        self.heads = {False: Seq(0), True: Seq(0)}
        """The last frame that was published, by outline. They outlive the frames."""
        self._newest: dict[bool, Batch] = {}
        """What was made last up to the head, by outline: the readers of a tick share it."""

    def add(self, entries: Sequence[LogEntry]) -> None:
        """Take frames that follow each other, at least one."""
        self._newest.clear()
        if self.entries and entries[0].seq != self.entries[-1].seq + 1:
            self.empty()
        self.heads[False] = entries[-1].seq
        for entry in reversed(entries):
            if entry.outline:
                self.heads[True] = entry.seq
                break
        self.entries.extend(entries)
        self.bytes += sum([len(entry.data) for entry in entries])
        while len(self.entries) > RING_FRAMES or self.bytes > RING_BYTES:
            self.bytes -= len(self.entries.popleft().data)

    def empty(self) -> None:
        """Let go of the frames: the log has them."""
        self.entries.clear()
        self._newest.clear()
        self.bytes = 0

    def after(self, seq: Seq, *, outline: bool) -> Batch | None:
        batch = self._newest.get(outline)
        if batch is not None and batch.after == seq:
            return batch
        if not self.entries or self.entries[0].seq > seq + 1:
            return None
        if seq >= self.entries[-1].seq:
            return batch_of(seq, (), outline=outline, cut=False)
        page, cut = page_of(self._since(seq))
        batch = batch_of(seq, page, outline=outline, cut=cut)
        if not cut:
            self._newest[outline] = batch
        return batch

    def _since(self, seq: Seq) -> Iterator[LogEntry]:
        # From the end: another iterator would walk the whole ring to its newest frames.
        newest = islice(reversed(self.entries), self.entries[-1].seq - seq)
        return reversed(list(newest))


class MemoryHub:
    """Keeps no task and no queue per listener: a listener is one function that is called."""

    def __init__(self) -> None:
        self._rings: OrderedDict[RunId, Ring] = OrderedDict()
        self._bytes = 0
        self._listeners: dict[RunId, dict[Callable[[RunId], None], None]] = {}
        self._watchers: dict[Callable[[RunId], None], None] = {}

    def publish(self, entries: Sequence[LogEntry]) -> None:
        by_run = _by_run(entries)
        for run_id, published in by_run.items():
            self._add(run_id, published)
        for run_id in by_run:
            for wake in self._listeners.get(run_id, ()):
                wake(run_id)
        if self._watchers:
            for run_id in dict.fromkeys(entry.run_id for entry in entries if entry.outline):
                for changed in self._watchers:
                    changed(run_id)
        self._drop_idle()

    def after(self, run_id: RunId, seq: Seq, *, outline: bool) -> Batch | None:
        """The frames after `seq`, ready to send; None when the ring does not reach back so far."""
        ring = self._rings.get(run_id)
        return ring.after(seq, outline=outline) if ring else None

    def head(self, run_id: RunId, *, outline: bool) -> Seq:
        ring = self._rings.get(run_id)
        return ring.heads[outline] if ring else Seq(0)

    def listen(self, run_id: RunId, wake: Callable[[RunId], None]) -> None:
        self._listeners.setdefault(run_id, {})[wake] = None

    def forget(self, run_id: RunId, wake: Callable[[RunId], None]) -> None:
        listeners = self._listeners.get(run_id, {})
        listeners.pop(wake, None)
        if not listeners:
            self._listeners.pop(run_id, None)

    def watch(self, changed: Callable[[RunId], None]) -> None:
        self._watchers[changed] = None

    def unwatch(self, changed: Callable[[RunId], None]) -> None:
        self._watchers.pop(changed, None)

    def _add(self, run_id: RunId, entries: Sequence[LogEntry]) -> None:
        ring = self._rings.get(run_id)
        if ring is None:
            ring = self._rings[run_id] = Ring()
        self._rings.move_to_end(run_id)
        before = ring.bytes
        for stretch in _stretches(entries):
            ring.add(stretch)
        self._bytes += ring.bytes - before

    def _drop_idle(self) -> None:
        idle = [run_id for run_id in self._rings if run_id not in self._listeners]
        for run_id in idle[: max(0, len(idle) - MAX_RINGS)]:
            self._bytes -= self._rings.pop(run_id).bytes
        for ring in self._rings.values():
            if self._bytes <= RINGS_BYTES:
                break
            self._bytes -= ring.bytes
            ring.empty()


def _by_run(entries: Sequence[LogEntry]) -> dict[RunId, list[LogEntry]]:
    by_run: dict[RunId, list[LogEntry]] = {}
    for entry in entries:
        by_run.setdefault(entry.run_id, []).append(entry)
    return by_run


def _stretches(entries: Sequence[LogEntry]) -> Iterator[Sequence[LogEntry]]:
    """Those that follow each other without a hole, mostly all of them. `seq` only rises."""
    start = 0
    if entries[-1].seq - entries[0].seq != len(entries) - 1:
        for place in range(1, len(entries)):
            if entries[place].seq != entries[place - 1].seq + 1:
                yield entries[start:place]
                start = place
    yield entries[start:]
