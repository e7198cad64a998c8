"""The identifiers that cross the wire: strings there, but for `Seq` and `Gen`."""

import re
from typing import NewType

RunId = NewType("RunId", str)
"""A run: a lower-case UUID."""

StepId = NewType("StepId", str)
"""A step's stable name inside its plan, such as `review.security`."""

ProjectId = NewType("ProjectId", str)
"""A project: a lower-case UUID."""

UserId = NewType("UserId", str)
PlanId = NewType("PlanId", str)

Seq = NewType("Seq", int)
"""A frame's place in its run's log: 1, 2, 3 … without a hole."""

Gen = NewType("Gen", int)
"""The log's generation; it goes up when a tail may have been lost."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Say whether `text` is a UUID in its canonical lower-case form."""
    return _UUID.fullmatch(text) is not None
