"""What has left for all clients together, and how their connections ended. For /metrics."""

from collections import Counter

from protocol.errors import CloseCode


class Traffic:
    """Counts since the start. One for the whole server: a pane has none of its own."""

    __slots__ = ("bytes", "closes", "frames", "lagging", "rate_limited", "stalled")

    def __init__(self) -> None:
        self.frames = 0
        self.bytes = 0
        self.lagging = 0
        """How often a reader fell out of the ring and was served from the log."""
        self.stalled = 0
        """Sockets that were cut off because they took nothing."""
        self.rate_limited = 0
        """Messages that were refused because more came than a socket may send."""
        self.closes: Counter[CloseCode] = Counter()
        """Sockets that we closed, by code."""
