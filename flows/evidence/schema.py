"""Rule 1: an answer has its schema, and an empty answer says what was searched.

EvidenceError
├── SchemaError     the answer has the wrong form
├── EmptyError      it has no findings and does not say so, or says both
└── VerdictError    not exactly one verdict for each submitted finding
"""

import re

import msgspec

from flows.evidence.text import printable, printable_all
from flows.outputs import OUTPUTS, FindingsOutput, Output

MAX_TOLD = 300
"""Characters of what msgspec says."""
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")


class EvidenceError(ValueError):
    """The answer cannot be taken. The message tells the agent what to correct."""


class SchemaError(EvidenceError):
    def __init__(self, path: str, expected: str) -> None:
        super().__init__(f"{path or 'the answer'}: {expected}")
        self.path = path
        self.expected = expected


class EmptyError(EvidenceError):
    pass


class VerdictError(EvidenceError):
    def __init__(self, *, missing: list[str], extra: list[str], doubled: list[str]) -> None:
        parts = {"without a verdict": missing, "not submitted": extra, "judged twice": doubled}
        told = "; ".join(f"{what}: {', '.join(ids)}" for what, ids in parts.items() if ids)
        super().__init__(f"give exactly one verdict for each submitted id ({told})")
        self.missing = missing
        self.extra = extra
        self.doubled = doubled


def parse_output(name: str, raw: object) -> Output:
    """Return the answer as the output `name` of OUTPUTS, with every text in it printable.

    Raises EvidenceError with a sentence that names the place and what was expected there.
    """
    try:
        answer = msgspec.convert(raw, OUTPUTS[name])
        # Converted twice: the first shows that the answer is shallow enough to walk through, the
        # second that what was taken out of its texts left enough of them.
        answer = msgspec.convert(printable_all(msgspec.to_builtins(answer)), OUTPUTS[name])
    except msgspec.ValidationError as error:
        raise _schema_error(error) from None
    if isinstance(answer, FindingsOutput):
        _require_something_said(answer)
    return answer


def _schema_error(error: msgspec.ValidationError) -> SchemaError:
    message = str(error)
    place = _PLACE.search(message)
    if place is None:
        return SchemaError("", _told(message))
    return SchemaError(_told(place["path"]), _told(message[: place.start()]))


def _told(text: str) -> str:
    """One line of bounded length: a name or a word of the answer stands in it as it came."""
    text = " ".join(printable(text).split())
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}…"


def _require_something_said(answer: FindingsOutput) -> None:
    searched = any(place.strip() for place in answer.searched)
    if answer.findings and answer.negative:
        raise EmptyError("negative: it is true although there are findings; set it to false")
    if not answer.findings and not (answer.negative and searched):
        raise EmptyError(
            "findings: the list is empty; if nothing was found, set `negative` to true and name in"
            " `searched` what was searched and read"
        )
