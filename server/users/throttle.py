"""Against guessing: an address that tries many different wrong tokens is heard no more for a while.

A person never meets it. The same wrong token again and again, as a script with an old one sends it,
is no guess and counts once; and a token that was good from an address before is good there still.
"""

from collections import OrderedDict
from ipaddress import ip_address, ip_network
from math import ceil

from server.ports import Clock

GUESSES = 20
"""Different wrong tokens from one address that are taken at once."""
GUESS_SECONDS = 15.0
"""Then one more each."""
MAX_PEERS = 4_096
MAX_KNOWN = 64
"""Tokens of an address that are remembered by their digests."""


class _Peer:
    def __init__(self, now: float) -> None:
        self.left = float(GUESSES)
        self.at = now
        self.wrong: OrderedDict[bytes, None] = OrderedDict()
        self.good: OrderedDict[bytes, None] = OrderedDict()


class Throttle:
    """Remembers the latest MAX_PEERS addresses that have sent a token."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def wait(self, peer: str, digest: bytes) -> int | None:
        """Milliseconds after which this address may try this token, None: it may now."""
        found = self._peers.get(_network(peer))
        if found is None or digest in found.good or digest in found.wrong:
            return None
        self._refill(found)
        return None if found.left >= 1 else ceil((1 - found.left) * GUESS_SECONDS * 1000)

    def wrong(self, peer: str, digest: bytes) -> bool:
        """Take note of a wrong token; False when this address has tried the same one before."""
        found = self._known(peer)
        if digest in found.wrong:
            return False
        self._refill(found)
        found.left = max(0.0, found.left - 1)
        found.good.pop(digest, None)
        _remember(found.wrong, digest)
        return True

    def right(self, peer: str, digest: bytes) -> None:
        """Take note of a good one."""
        found = self._known(peer)
        found.wrong.pop(digest, None)
        _remember(found.good, digest)

    def _known(self, peer: str) -> _Peer:
        name = _network(peer)
        found = self._peers.get(name)
        if found is None:
            found = self._peers[name] = _Peer(self._clock.monotonic())
        self._peers.move_to_end(name)
        while len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return found

    def _refill(self, peer: _Peer) -> None:
        now = self._clock.monotonic()
        peer.left = min(float(GUESSES), peer.left + (now - peer.at) / GUESS_SECONDS)
        peer.at = now


def _remember(known: OrderedDict[bytes, None], digest: bytes) -> None:
    known[digest] = None
    known.move_to_end(digest)
    while len(known) > MAX_KNOWN:
        known.popitem(last=False)


def _network(peer: str) -> str:
    """Whoever has one address of IPv6 has a whole /64 of them."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    return peer if address.version == 4 else str(ip_network((address, 64), strict=False))
