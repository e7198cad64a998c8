"""Signals and bands: what is counted where, and when a run becomes larger."""

from typing import Any

import msgspec
import pytest

from flows import bands, signals
from flows.expressions import Scope
from flows.inputs import with_defaults
from flows.model import Flow, Input, InputType, Over, Signal
from flows.paths import FileKind, PathError, kind_of, matcher, normalise
from protocol.commands import Band
from protocol.plan import ChosenBand
from tests.flows.plans import REVIEW, TRIAGE, situation

FILES = {
    "app/main.py": "import asyncio\nasync def main(): ...\n",
    "app/lock.py": "lock = threading.Lock()\n",
    "docs/async.md": "async def in prose, await, asyncio\n",
    "package-lock.json": "asyncio\n",
}


def count(signal: Signal, files: dict[str, str], **changes: Any) -> int:
    flow = msgspec.structs.replace(REVIEW, signals=[signal])
    inputs = with_defaults(REVIEW, changes.pop("inputs", {}))
    found = signals.count(flow, situation(files, **changes), inputs)
    return found[0].hits if found else 0


def test_globs_count_paths() -> None:
    changed = Signal(id="s", over=[Over.CHANGED_PATHS], globs=["**/*.py"])
    target = Signal(id="s", over=[Over.TARGET_PATHS], globs=["**/*.py"])
    assert count(changed, FILES) == 0
    assert count(changed, FILES, status="modified") == 2
    assert count(changed, {}, deleted=["gone.py"]) == 1
    assert count(target, FILES) == 2


def test_lines_are_counted_in_sources_only() -> None:
    signal = Signal(id="s", over=[Over.TARGET_TEXT], regexes=["asyncio|ASYNC DEF"])
    assert count(signal, FILES) == 2


def test_a_change_is_counted_by_its_added_lines() -> None:
    signal = Signal(id="s", over=[Over.DIFF, Over.TARGET_TEXT], regexes=["async"])
    patch = "--- a/app/main.py\n+++ b/async.py\n@@ -1 +1 @@\n-async old\n async same\n+async new\n"
    assert count(signal, FILES, diff={"app/main.py": patch}) == 1
    assert count(signal, FILES, diff={"docs/async.md": patch}) == 0
    assert count(signal, FILES) == 2


def test_the_question_is_counted() -> None:
    signal = Signal(id="s", over=[Over.QUESTION], regexes=["deadlock"])
    assert count(signal, FILES, inputs={"focus": "is there\na deadlock?"}) == 1
    assert count(signal, FILES, inputs={"focus": "is it fast?"}) == 0


def test_a_document_is_counted() -> None:
    document = Input(name="spec", type=InputType.DOCUMENT, summary="s", position=0)
    flow = msgspec.structs.replace(
        REVIEW,
        inputs=[document],
        signals=[Signal(id="s", over=[Over.DOCUMENT], regexes=["asyncio"])],
    )
    (found,) = signals.count(flow, situation(FILES), {"spec": "docs/async.md"})
    assert found.examples == ["docs/async.md:1"]
    assert signals.count(flow, situation(FILES), {"spec": "missing.md"}) == []
    assert signals.count(flow, situation(FILES), {"spec": None}) == []


def test_many_sources_are_sampled_evenly() -> None:
    files = {f"src/f{number:04}.py": "hit\n" for number in range(signals.MAX_TEXT_FILES * 2 + 1)}
    signal = Signal(id="s", over=[Over.TARGET_TEXT], regexes=["hit"])
    hits = count(signal, files)
    assert signals.MAX_TEXT_FILES // 2 < hits <= signals.MAX_TEXT_FILES


def test_a_signal_below_its_minimum_is_absent() -> None:
    signal = Signal(id="s", over=[Over.TARGET_PATHS], globs=["**"], min_hits=4)
    assert count(signal, FILES) == 4
    assert count(msgspec.structs.replace(signal, min_hits=5), FILES) == 0


def test_examples_are_the_first_places() -> None:
    signal = Signal(id="s", over=[Over.TARGET_TEXT], regexes=["async"])
    flow = msgspec.structs.replace(REVIEW, signals=[signal])
    (found,) = signals.count(flow, situation(FILES), {})
    assert found.examples == ["app/main.py:1", "app/main.py:2"]


@pytest.mark.parametrize(
    ("signal", "path", "text"),
    [
        ("concurrency", "a.py", "async def f():\n    await g()"),
        ("data", "a.py", "db.execute('SELECT id FROM users')"),
        ("data", "migrations/001.sql", "x"),
        ("edge", "a.py", "n = int(argv[1])\nm = json.loads(text)"),
        (
            "behavioral",
            "a.py",
            "try:\n  x\nexcept E:\n  raise\nfinally:\n  retry()\nstate = 1\nemit()",
        ),
        ("oncall", "a.py", "httpx.get(u, timeout=1)\nfor retry in range(3): ...\nqueue.put(x)"),
        ("test", "a.py", "def f(): ...\n" * 10),
        ("structural", "a.py", "import a\nfrom b import c\n" * 4),
    ],
)
def test_the_signals_of_the_review_find_what_they_are_for(
    signal: str, path: str, text: str
) -> None:
    (wanted,) = (it for it in REVIEW.signals if it.id == signal)
    changes: dict[str, Any] = {"status": "modified"} if path.endswith(".sql") else {}
    assert count(wanted, {path: text}, **changes) >= wanted.min_hits
    assert count(wanted, {"a.py": "x = 1\n"}) == 0


@pytest.mark.parametrize("path", ["Dockerfile", "ci/Dockerfile.dev", ".github/workflows/ci.yml"])
def test_the_devops_signal(path: str) -> None:
    (devops,) = (it for it in REVIEW.signals if it.id == "devops")
    assert count(devops, {path: ""}, status="added") == 1
    assert count(devops, {"src/docker.py": ""}, status="added") == 0


# ── bands ────────────────────────────────────────────────────────────────────────────────────────


def pick(flow: Flow, asked: Band | None = None, **hits: int) -> ChosenBand:
    return bands.pick(flow, asked, Scope(signals=hits))


def test_small_is_the_default() -> None:
    chosen = pick(REVIEW)
    assert (chosen.name, chosen.source) == (Band.SMALL, "default")
    assert pick(TRIAGE, data=9).name is Band.SMALL


def test_signals_raise_and_the_border_stays_down() -> None:
    assert pick(REVIEW, changed=5).name is Band.SMALL
    raised = pick(REVIEW, changed=6)
    assert (raised.name, raised.source) == (Band.MEDIUM, "signals")
    assert raised.reason == "signals (changed: 6)"
    assert pick(REVIEW, changed=16).name is Band.MEDIUM
    assert pick(REVIEW, changed=15, data=1).name is Band.MEDIUM
    assert pick(REVIEW, changed=16, data=1).name is Band.LARGE


def test_an_explicit_band_wins() -> None:
    chosen = pick(REVIEW, Band.SMALL, changed=99, data=9)
    assert (chosen.name, chosen.source) == (Band.SMALL, "explicit")
    assert pick(REVIEW, Band.LARGE).name is Band.LARGE


# ── paths ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*.py", ["a.py", "x/y/a.py"], ["a.pyc", "a.py/b"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py", "a/src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/x/y/a.py"], ["a.py"]),
        ("**/k8s/**", ["k8s/a", "x/k8s/y/z"], ["k8s", "ak8s/b"]),
        ("a?.c", ["ab.c"], ["a.c", "a/.c"]),
        ("**", ["a", "a/b"], []),
        ("a+b.txt", ["a+b.txt"], ["aab.txt"]),
    ],
)
def test_globs(glob: str, yes: list[str], no: list[str]) -> None:
    pattern = matcher([glob])
    assert all(pattern.match(path) for path in yes)
    assert not any(pattern.match(path) for path in no)
    assert not matcher([]).match("anything")


def test_kinds() -> None:
    assert kind_of("src/a.PY") is FileKind.SOURCE
    assert kind_of("a/config.toml") is FileKind.CONFIG
    assert kind_of("Makefile") is FileKind.CONFIG
    assert kind_of("README.md") is FileKind.PROSE
    for path in ("uv.lock", "web/node_modules/a.js", "go.sum", "a/x.min.js", "logo.png"):
        assert kind_of(path) is FileKind.NOISE


def test_normal_paths() -> None:
    assert [normalise(path) for path in ("a//b/", "./a/../b", ".", "a/..")] == [
        "a/b",
        "b",
        ".",
        ".",
    ]
    for path in ("/a", "..", "a/../..", "C:/x", "a\nb"):
        with pytest.raises(PathError):
            normalise(path)
