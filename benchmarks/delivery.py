"""The rows about a delivery: podium against the limit, and against its peers."""

import statistics
from typing import NamedTuple

from benchmarks import entrants as who
from benchmarks.contest import Results, contest
from benchmarks.entrants import entrants
from benchmarks.native import compiled
from benchmarks.options import Options
from benchmarks.rows import Bound, Row, bounded, told

JOINED = {10: Bound(1.7, 2.5), 100: Bound(1.2, 1.8)}


class Peer(NamedTuple):
    """How much cheaper a delivery must be than a peer's: saturated, and paced."""

    name: str
    saturated: Bound
    paced: Bound | None


def cheaper(target: float, loose: float) -> Bound:
    return Bound(target, loose, least=True)


PEERS = (
    Peer(who.STARLETTE, cheaper(2, 1.6), cheaper(1.6, 1.3)),
    Peer(who.BROADCAST, cheaper(1.5, 1.2), cheaper(1.35, 1.1)),
    Peer(who.NODE, cheaper(1.4, 1.1), cheaper(1.3, 1.1)),
    Peer(who.SOCKET_IO, cheaper(5, 3), cheaper(4, 3)),
    Peer(who.CHANNELS, cheaper(15, 8), None),
    # Level with a C extension: at most 1.4 times as dear.
    Peer(who.PICOWS, cheaper(round(1 / 1.4, 2), 0.5), cheaper(round(1 / 1.4, 2), 0.5)),
)


def delivery_rows(options: Options) -> list[Row]:
    generator = compiled("generator", options.place)
    everyone, absent = entrants(options)
    rows = []
    for panes in (10,) if options.tiny else (10, 100):
        results = contest(options, generator, everyone, panes, paced=panes == 10)
        rows += limit_rows(results) + peer_rows(results)
    return rows + [Row(f"not installed: {name}", "", "`make bench-peers`", True) for name in absent]


def limit_rows(results: Results) -> list[Row]:
    panes = results.panes
    send, batch = (results.microseconds(name) for name in (who.SEND, who.BATCH))
    rows = [
        bounded(
            f"{panes} panes: a ready frame, of C's send()",
            results.ratios(who.READY, who.SEND), Bound(1.15, 1.6),
            more=f"; C: {send:.2f} µs, {results.rate(who.SEND) / 1000:.0f} k/s",
        ),
        bounded(
            f"{panes} panes: joined, whole channel, of C joined",
            results.ratios(who.JOINED, who.BATCH), JOINED[panes],
            more=f"; C: {batch:.2f} µs; podium {results.rate(who.JOINED) / 1000:,.0f} k/s",
        ),
        told(
            f"{panes} panes: frame by frame, whole channel, of C's send()",
            results.ratios(who.EACH, who.SEND),
        ),
    ]  # fmt: skip
    if results.paced:
        paced = results.ratios(who.TICK, who.SEND, paced=True)
        name = f"{panes} panes, 20 k/s: a write per tick, whole channel, of C's send()"
        rows.append(bounded(name, paced, Bound(0.65, 0.85)))
    if on_uvloop := results.ratios(who.UVLOOP, who.JOINED):
        rows.append(told(f"{panes} panes: joined on uvloop, of asyncio's loop", on_uvloop))
    return rows


def peer_rows(results: Results) -> list[Row]:
    """Of podium as it delivers under that load: what is ready together leaves in one write."""
    rows = []
    for peer in PEERS:
        if ratios := results.ratios(peer.name, who.JOINED):
            alone = statistics.median(results.ratios(peer.name, who.READY))
            more = f"; of a ready frame alone {alone:.2f} ×"
            name = f"{results.panes} panes: {peer.name}, of podium joined"
            rows.append(bounded(name, ratios, peer.saturated, more=more))
        paced = results.ratios(peer.name, who.TICK, paced=True)
        if paced and peer.paced:
            name = f"{results.panes} panes, 20 k/s: {peer.name}, of a write per tick"
            rows.append(bounded(name, paced, peer.paced))
    return rows
