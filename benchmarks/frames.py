"""The message that is published in every server: as long as a delta, with a mark that is counted.

Nothing but the standard library: servers of other environments import this, too.
"""

HEAD = (
    '{"type":"flow_run_step_delta","run_id":"5b0cfe0a-6a0e-4d0c-9b1d-0d9c5f3f7d11","seq":1,'
    '"at":"2026-01-31T12:00:00.000Z","step_id":"review.security","attempt":1,"channel":"text",'
    '"offset":0,"text":"'
)
TAIL = "the caller checks the length before it copies, and " * 2 + '"}'


def payload(number: int) -> bytes:
    """Message `number`, counted from 1."""
    return f"{HEAD}#{number}# {TAIL}".encode()
