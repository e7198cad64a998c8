"""Numbers of things, as a person writes them."""


def number_of(count: int, noun: str) -> str:
    """Return `1 file`, or `3 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
