"""The profile is what the real CLI does, and another CLI would be told apart from it."""

from typing import Any

import msgspec
import pytest

from scripts.bump_qwen import DELIVERS, differences, draft, measure, start
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
