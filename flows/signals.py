"""Signals: what the files, the change and the question say about which specialists are needed."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from flows.model import Flow, InputType, Over, Signal
from flows.paths import FileKind, kind_of, matcher
from flows.situation import Situation
from protocol.plan import SignalHits

MAX_TEXT_FILES = 400
MAX_LINES_PER_FILE = 3_000
MAX_LINES = 150_000
"""Of everything a signal reads: some two seconds for all signals of the code review."""
MAX_LINE = 500
"""A signal looks at the head of a longer line: what is longer was not written by a person."""
EXAMPLES = 3

Line = tuple[str, str]
"""Where a line stands, and the line."""


def count(flow: Flow, situation: Situation, inputs: Mapping[str, Any]) -> list[SignalHits]:
    """Return the signals that are present, in the flow's order, each with its first examples.

    Deterministic, and bounded whatever the size of the tree. Line patterns look at source files
    only: a word in prose or in a lock file calls for nobody. A signal over both `diff` and
    `target_text` looks at the added lines when there is a change, else at the files.
    """
    # Read once for all signals: most of the time of a plan is spent on these lines.
    wanted = any(Over.TARGET_TEXT in signal.over for signal in flow.signals)
    target = list(islice(_target_text(situation), MAX_LINES)) if wanted else []
    counted = (_count_one(signal, flow, situation, inputs, target) for signal in flow.signals)
    return [hits for hits in counted if hits is not None]


def _count_one(
    signal: Signal,
    flow: Flow,
    situation: Situation,
    inputs: Mapping[str, Any],
    target: Sequence[Line],
) -> SignalHits | None:
    places = [
        *_path_hits(signal, situation),
        *_line_hits(signal, _lines(signal, flow, situation, inputs, target)),
    ]
    if len(places) < max(1, signal.min_hits):
        return None
    return SignalHits(id=signal.id, hits=len(places), examples=places[:EXAMPLES])


def _path_hits(signal: Signal, situation: Situation) -> list[str]:
    pattern = matcher(signal.globs)
    return [path for path in _paths(signal, situation) if pattern.match(path)]


def _paths(signal: Signal, situation: Situation) -> list[str]:
    found: set[str] = set()
    if Over.CHANGED_PATHS in signal.over:
        found.update(file.path for file in situation.files if file.status != "present")
        found.update(situation.deleted)
    if Over.TARGET_PATHS in signal.over:
        found.update(file.path for file in situation.files)
    return sorted(found)


def _line_hits(signal: Signal, lines: Iterable[Line]) -> list[str]:
    if not signal.regexes:
        return []
    pattern = re.compile("|".join(f"(?:{regex})" for regex in signal.regexes), re.IGNORECASE)
    looked_at = islice(lines, MAX_LINES)
    return [place for place, line in looked_at if pattern.search(line, 0, MAX_LINE)]


def _lines(
    signal: Signal,
    flow: Flow,
    situation: Situation,
    inputs: Mapping[str, Any],
    target: Sequence[Line],
) -> Iterator[Line]:
    """Every line the signal looks at, with the place it stands at."""
    if Over.DIFF in signal.over:
        yield from _added(situation.diff)
    if Over.TARGET_TEXT in signal.over and not (Over.DIFF in signal.over and situation.diff):
        yield from target
    if Over.QUESTION in signal.over:
        yield from _texts(flow, inputs)
    if Over.DOCUMENT in signal.over:
        yield from _documents(flow, situation, inputs)


def _added(diff: Mapping[str, str]) -> Iterator[Line]:
    for path in sorted(diff):
        if kind_of(path) is FileKind.SOURCE:
            for line in diff[path].splitlines():
                if line.startswith("+") and not line.startswith("+++ "):
                    yield path, line[1:]


def _target_text(situation: Situation) -> Iterator[Line]:
    """The lines of the sources, or of an even spread of them when there are too many."""
    sources = sorted(it.path for it in situation.files if kind_of(it.path) is FileKind.SOURCE)
    for path in sources[:: 1 + len(sources) // MAX_TEXT_FILES]:
        yield from _file_lines(situation, path)


def _file_lines(situation: Situation, path: str) -> Iterator[Line]:
    lines = situation.view.lines(path) or ()
    for number, line in enumerate(islice(lines, MAX_LINES_PER_FILE), start=1):
        yield f"{path}:{number}", line


def _texts(flow: Flow, inputs: Mapping[str, Any]) -> Iterator[Line]:
    for declared in flow.inputs:
        if declared.type in (InputType.TEXT, InputType.QUESTION):
            for line in str(inputs.get(declared.name) or "").splitlines():
                yield declared.name, line


def _documents(flow: Flow, situation: Situation, inputs: Mapping[str, Any]) -> Iterator[Line]:
    for declared in flow.inputs:
        if declared.type is InputType.DOCUMENT and inputs.get(declared.name):
            yield from _file_lines(situation, inputs[declared.name])
