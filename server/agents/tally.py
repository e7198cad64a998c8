"""What an attempt has cost, as the agent itself reports it line by line.

The last line leaves out the request on which the agent was stopped, and often it never comes: so
every line counts, and the larger figure stands.
"""

from typing import Any

from protocol.resources import Usage


class Tally:
    """Counts requests and tokens of one attempt."""

    def __init__(self) -> None:
        self._lines = Usage()
        self._total = Usage()
        self._requests = 0
        self._in_message = False

    @property
    def usage(self) -> Usage:
        return Usage(
            input_tokens=max(self._lines.input_tokens, self._total.input_tokens),
            output_tokens=max(self._lines.output_tokens, self._total.output_tokens),
            cached_tokens=max(self._lines.cached_tokens, self._total.cached_tokens),
            requests=self._requests,
        )

    def message_began(self) -> None:
        self._requests += 1
        self._in_message = True

    def message_ended(self) -> None:
        self._in_message = False

    def retried(self, *, preserve_text: bool) -> None:
        """One more request: within its message when the text is kept, else as a new message. A
        request that failed before its message began is known by its retry alone."""
        if preserve_text or not self._in_message:
            self._requests += 1
        self._in_message = preserve_text

    def message_cost(self, reported: object) -> None:
        """Add what the line of a message says. (One answer has a line for its text, without
        figures, and one for its tool calls.)"""
        more = _usage(reported)
        self._lines = Usage(
            input_tokens=self._lines.input_tokens + more.input_tokens,
            output_tokens=self._lines.output_tokens + more.output_tokens,
            cached_tokens=self._lines.cached_tokens + more.cached_tokens,
        )

    def attempt_cost(self, reported: object) -> None:
        """Take what the last line says of the whole attempt."""
        self._total = _usage(reported)


def _usage(reported: object) -> Usage:
    fields: dict[str, Any] = reported if isinstance(reported, dict) else {}
    return Usage(
        input_tokens=_count(fields.get("input_tokens")),
        output_tokens=_count(fields.get("output_tokens")),
        cached_tokens=_count(fields.get("cache_read_input_tokens")),
    )


def _count(value: object) -> int:
    """A number of tokens; what is none counts as nothing."""
    return value if type(value) is int and 0 <= value < 2**53 else 0
