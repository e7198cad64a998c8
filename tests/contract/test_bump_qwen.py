"""The profile is what the real CLI does, and another CLI would be told apart from it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from scripts import dev
from scripts.bump_qwen import DELIVERS, differences, draft, measure, start
from scripts.shell import Stop
from server.agents import installation
from server.agents.installation import Installation
from server.agents.profile import PINNED, decode, encode


@pytest.fixture
def installed() -> Installation:
    return installation.find()


@pytest.mark.real_agent
@pytest.mark.timeout(180)
async def test_the_pinned_profile_is_what_the_real_one_does(installed: Installation) -> None:
    measured = await measure(installed.node, installed.cli, installed.version)
    assert measured.notes == []
    assert differences(PINNED, measured.profile) == []


@pytest.mark.real_agent
@pytest.mark.timeout(180)
async def test_a_tool_that_is_not_excluded_is_seen(installed: Installation) -> None:
    """The guard taken away: the measurement is not blind."""

    def without_one(words: list[str]) -> list[str]:
        return [word.replace("web_fetch,", "") for word in words]

    seen = await start(installed, DELIVERS, change=without_one)
    offered = msgspec.structs.replace(PINNED, tools=seen.init_tools | seen.request_tools)
    assert differences(PINNED, offered) == ["offered although our flags take it away: web_fetch"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        (
            {
                "tools": PINNED.tools | {"evil"},
                "offered_by_default": PINNED.offered_by_default | {"evil"},
            },
            ["offered although our flags take it away: evil"],
        ),
        (
            {"offered_by_default": PINNED.offered_by_default | {"evil", "edit"}},
            ["a new tool by default: edit", "a new tool by default: evil (NOT EXCLUDED YET)"],
        ),
        ({"tools": PINNED.tools - {"glob"}}, ["no longer offered to our agents: glob"]),
        (
            {"flags": PINNED.flags - {"--safe-mode"}},
            ["a flag that is gone, and with it a guard: --safe-mode"],
        ),
        ({"mode": "default"}, ["mode: plan → default"]),
        (
            {"exit_codes": {**PINNED.exit_codes, "turn_limit": 0}},
            ["exit code of turn_limit: 53 → 0"],
        ),
        ({"init_keys": PINNED.init_keys | {"new"}}, ["new in the first line: new"]),
        ({"events": PINNED.events - {"user"}}, ["a line that no longer comes: user"]),
        ({"request_bytes": PINNED.request_bytes + 100}, []),
        (
            {"request_bytes": 60_000},
            [f"the first request: {PINNED.request_bytes} → 60000 bytes"],
        ),
    ],
)  # fmt: skip
def test_each_difference_is_told(changes: dict[str, Any], told: list[str]) -> None:
    assert differences(PINNED, msgspec.structs.replace(PINNED, **changes)) == told


def test_what_is_most_dangerous_comes_first() -> None:
    found = msgspec.structs.replace(
        PINNED, tools=PINNED.tools | {"evil"}, flags=frozenset(), request_bytes=1, mode="yolo"
    )
    assert differences(PINNED, found)[0] == "offered although our flags take it away: evil"


def test_a_draft_never_allows_what_was_not_allowed() -> None:
    found = msgspec.structs.replace(
        PINNED,
        version="0.25.0",
        tools=PINNED.tools | {"evil"},
        offered_by_default=PINNED.offered_by_default | {"worse"},
    )
    made = draft(found)
    assert made.tools == PINNED.tools
    assert {"evil", "worse"} <= set(made.excluded)
    assert decode(encode(made)) == made


# ── the target ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`make bump-qwen` whose measurement and contract tests only say that they were called."""
    called: list[str] = []

    def fails(name: str) -> Callable[..., None]:
        def work(*_: object) -> None:
            called.append(name)
            raise Stop(f"{name} failed")

        return work

    monkeypatch.setattr(dev, "install", lambda arguments: None)
    monkeypatch.setattr(dev, "install_version", lambda venv, place, version: place)
    monkeypatch.setattr(dev, "measure_qwen", fails("measurement"))
    monkeypatch.setattr(dev, "run_contract", fails("contract"))
    return called


@pytest.mark.parametrize("words", [[], ["latest"], ["0.24"], ["--foo=1"], ["0.24.4 evil"]])
def test_a_version_is_exact(target: list[str], words: list[str]) -> None:
    with pytest.raises(Stop, match="which version"):
        dev.bump_qwen(words)
    assert target == []


def test_one_difference_does_not_hide_the_others(target: list[str]) -> None:
    with pytest.raises(Stop, match="measurement failed; contract failed") as failed:
        dev.bump_qwen(["0.24.4"])
    assert failed.value.code == 1
    assert target == ["measurement", "contract"]


def test_what_keeps_the_contract_is_no_failure(
    target: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "measure_qwen", lambda version, package: None)
    monkeypatch.setattr(dev, "run_contract", lambda place, rest: None)
    dev.bump_qwen(["0.24.4"])
    assert target == []
