"""What can be said of a route: how it is asked, and every way in which it answers."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from msgspec import Struct

from protocol.errors import HTTP_STATUS, ErrorCode
from protocol.rest import ErrorBody, InvalidBody, InvalidId, NoSuchRun

JSON = "application/json"
MARKDOWN = "text/markdown"
TEXT = "text/plain"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"

OF_RUN = "/api/runs/{id}"
"""Where the paths of one run begin."""
SIGNED_IN = (
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN,
    ErrorCode.RATE_LIMITED,
    ErrorCode.STORE_UNAVAILABLE,
)
"""What comes of asking as somebody: not known, not from here or not for them, too often."""


class Tag(StrEnum):
    """The parts of the API, in the order in which they are shown."""

    RUNS = "runs"
    LOG = "log"
    FLOWS = "flows"
    PROJECTS = "projects"
    SIGN_IN = "sign-in"
    USERS = "users"
    SERVER = "server"


class Parameter(NamedTuple):
    """One part of a request beside its path and body."""

    name: str
    place: str
    """`query` or `header`."""
    kind: Any
    about: str
    checked: bool = True
    """Whether a wrong value is refused; else it counts as none."""


class Answer(NamedTuple):
    """One way in which a route answers. Several may share a status."""

    status: int
    body: Any = None
    """A Struct; None for an answer without a body, and for a text."""
    about: str = ""
    media: str = JSON
    items: tuple[Any, ...] = ()
    """Of a stream: the Structs, one an event or a line."""
    codes: tuple[ErrorCode, ...] = ()
    """Of an ErrorBody: the codes that come with this status."""


class Route(Struct, frozen=True, kw_only=True):
    """A method on a path. What follows from its other fields is not said in `answers`: see
    `all_answers`."""

    method: str
    path: str
    name: str
    """Names it in clients that are made from the document."""
    tag: Tag
    summary: str
    about: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: type[Struct] | None = None
    or_body: type[Struct] | None = None
    """Another body that it takes as well."""
    answers: tuple[Answer, ...]
    codes: tuple[ErrorCode, ...] = ()
    """Further refusals, each with the status of its code."""
    signed_in: bool = True

    @property
    def all_answers(self) -> tuple[Answer, ...]:
        """Its own answers, and those that follow from how it is asked; by status."""
        return tuple(sorted([*self.answers, *self._refusals()], key=lambda it: it.status))

    @property
    def bodies(self) -> tuple[Any, ...]:
        """Every Struct that it takes or answers."""
        answered = [it for answer in self.all_answers for it in (answer.body, *answer.items)]
        return tuple(it for it in (self.body, self.or_body, *answered) if it is not None)

    def _refusals(self) -> Iterator[Answer]:
        queries = (it for it in self.parameters if it.place == "query" and it.checked)
        if self.body is not None or any(queries):
            yield Answer(400, InvalidBody, "Every fault of the body or the query, at once.")
        if self.path.startswith(OF_RUN):
            yield Answer(400, InvalidId, "The id in the path is no UUID.")
            yield Answer(404, NoSuchRun, "There is no such run, or it is not yours.")
        codes = [*self.codes]
        if self.signed_in:
            codes += SIGNED_IN
        if self.body is not None:
            codes.append(ErrorCode.TOO_LARGE)
            yield refused(415, ErrorCode.BAD_MESSAGE)
        for status in {HTTP_STATUS[code]: None for code in codes}:
            yield refused(status, *(code for code in codes if HTTP_STATUS[code] == status))


def refused(status: int, *codes: ErrorCode) -> Answer:
    """An ErrorBody with one of these codes."""
    return Answer(status, ErrorBody, codes=codes)
