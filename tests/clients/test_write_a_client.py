"""`docs/write-a-client.md` is right: its tables are the code's, and what it shows runs."""

import asyncio
import os
import re
import socket
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import expect

from protocol import commands, frames, resources
from protocol.errors import CLOSE_RULES
from server.client.connection import STAY_AWAY
from tests.browser.chromium import page
from tests.clients.runners import CLIENT_JS, RUNNER_JS, ProcessRunner
from tests.clients.scenarios import BY_NAME, SCENARIOS
from tests.clients.script import Answer, App, Expect, Hears, Move, Scenario
from tests.clients.stage import Failed, plays
from tests.server.people import admit, shared_house

PAGE = (Path(__file__).parents[2] / "docs" / "write-a-client.md").read_text("utf-8")
SOURCE = CLIENT_JS.read_text("utf-8")
PORT = "9000"
SNIPPET_JS = RUNNER_JS.parent / "snippet.mjs"


def block(language: str, marker: str) -> str:
    """The code block of a language that has this in it."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (only,) = [code for code in found if marker in code]
    return str(only)


def test_the_close_codes_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d{4}) \| (.*) \| (yes|no) \|$", PAGE, re.MULTILINE)
    told = {int(code): (reason, come_back == "yes") for code, reason, come_back in rows}
    assert told == {int(code): tuple(rule) for code, rule in CLOSE_RULES.items()}


@pytest.mark.parametrize("code", [block("js", "export function follow"), SOURCE])
def test_every_list_of_codes_to_stay_away_at_is_the_same(code: str) -> None:
    (listed,) = re.findall(r"\[(1007, [\d, ]+)\]", code)
    assert {int(each) for each in listed.split(",")} == STAY_AWAY


def test_the_client_knows_every_stored_frame() -> None:
    (listed,) = re.findall(r"const STORED = new Set\(\[(.*?)\]\)", SOURCE, re.DOTALL)
    tags = {str(kind.__struct_config__.tag) for kind in frames.StoredFrame.__args__}
    assert set(re.findall(r'"(\w+)"', listed)) == tags


def test_the_types_that_the_client_names_are_there() -> None:
    """They are generated from the Structs, under the same names."""
    named = set(re.findall(r'import\("\./types\.d\.ts"\)\.(\w+)', SOURCE))
    assert named
    for name in named:
        places = (commands, frames, resources)
        kind = next(getattr(place, name) for place in places if hasattr(place, name))
        assert name == "StoredFrame" or issubclass(kind, msgspec.Struct)


def test_every_action_of_the_scenarios_is_told() -> None:
    used = {move.do for each in SCENARIOS for move in each.moves if isinstance(move, App)}
    assert {f'"do": "{name}"' for name in used | {"start"}} <= set(re.findall(r'"do": "\w+"', PAGE))
    options = {name for each in SCENARIOS for name in each.options}
    (row,) = [line for line in PAGE.splitlines() if '"do": "start"' in line]
    assert options <= set(re.findall(r"`(\w+)", row))


# --- the few lines ------------------------------------------------------------------------------

GETS_ON_WITH = [
    "frames are given once and in order",
    "doubles are left out",
    "a loss at a quiet tail is found by the heads, once it is sure",
    "nothing is taken before the server has said where frames go on",
    "what a server has lost is dropped",
    "frames of runs that are not followed are nobody's",
    "a cut connection comes back to where it was",
]


def following_only(scenario: Scenario) -> Scenario:
    """Without what a reader of one run has not got: pings, states, and other things to hear. It
    connects when it is told to follow."""
    asked = True
    moves = []
    for move in sorted(scenario.moves, key=lambda move: not _follows(move)):
        if isinstance(move, Expect):
            asked = move.fields["type"] != "ping"
        if asked and not (isinstance(move, Hears) or (isinstance(move, App) and move.do == "ping")):
            moves.append(move)
        asked = asked or isinstance(move, Answer)
    heard = [each for each in scenario.heard if each[0] in ("frame", "truncate")]
    return scenario._replace(moves=tuple(moves), heard=heard, states=None, live=False)


def _follows(move: Move) -> bool:
    return isinstance(move, App) and move.do == "follow"


async def test_the_few_lines_get_on_with_the_usual_misbehaviour(tmp_path: Path, node: str) -> None:
    code = tmp_path / "follow.mjs"
    code.write_text(block("js", "export function follow"))
    for name in GETS_ON_WITH:
        runner = ProcessRunner([node, str(SNIPPET_JS), str(code)])
        await plays(runner, following_only(BY_NAME[name]))


async def test_the_few_lines_are_put_to_the_test(tmp_path: Path, node: str) -> None:
    """A reader that takes any frame does not get through the same scenarios."""
    code = tmp_path / "follow.mjs"
    snippet = block("js", "export function follow")
    assert snippet.count(" && it.seq === seq + 1") == 1
    code.write_text(snippet.replace(" && it.seq === seq + 1", ""))
    runner = ProcessRunner([node, str(SNIPPET_JS), str(code)])
    with pytest.raises(Failed, match="heard"):
        await plays(runner, following_only(BY_NAME["doubles are left out"]))


# --- the chat -----------------------------------------------------------------------------------


@asynccontextmanager
async def started(listener: socket.socket, folder: Path, **environment: str) -> AsyncIterator[None]:
    """The chat by the command of the page, on a port that is taken already."""
    (line,) = [it for it in block("sh", "uvicorn").splitlines() if "uvicorn" in it]
    *variables, program, app, option, port = line.split()
    assert [each.partition("=")[0] for each in variables] == list(environment)
    assert (program, option, port) == ("uvicorn", "--port", PORT)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", app, "--fd", str(listener.fileno()), "--log-level=error",
        cwd=folder, env={**os.environ, **environment}, pass_fds=[listener.fileno()],
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.browser
@pytest.mark.timeout(120)
async def test_the_chat_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        allowed = tomllib.loads(block("toml", "allowed_origins"))["allowed_origins"]
        assert allowed == [f"http://127.0.0.1:{PORT}"]
        async with shared_house(tmp_path, allowed_origins=[origin]) as home:
            service = await admit(home, "chat", service=True)
            bearer = (await admit(home, "ann", tmp_path / "project")).bearer
            listed = (await home.http.get("/api/users")).json()["users"]
            (project,) = next(it for it in listed if it["id"] == "ann")["projects"]
            html = block("html", "new PodiumClient")
            assert html.count("http://127.0.0.1:8765") == 2
            html = html.replace("http://127.0.0.1:8765", home.url)
            (tmp_path / "chat.html").write_text(
                re.sub(r'PROJECT = "[^"]*"', f'PROJECT = "{project["id"]}"', html)
            )
            (tmp_path / "chat.py").write_text(block("python", "podium-ticket"))
            given = {"PODIUM_URL": home.url, "PODIUM_SERVICE_TOKEN": service.token}
            async with started(listener, tmp_path, **given), page() as view:
                await view.goto(origin)
                await expect(view.locator("#connection")).to_have_text("live")
                await view.fill("#text", "/code-review small src")
                await view.press("#text", "Enter")
                card = view.locator("#messages li").first
                await expect(card).to_contain_text("review.security: completed")
                assert "review.security: completed" in (await card.inner_text()).splitlines()
                runs = (await home.http.get("/api/runs", headers=bearer)).json()["runs"]
                async with home.socket(**bearer) as wire:
                    await wire.send(type="subscribe", id="s", run_id=runs[0]["id"])
                    assert [frame async for frame in wire.frames_of(runs[0]["id"])]
                place = f"/api/runs/{runs[0]['id']}/report.json"
                report = await home.http.get(place, headers=bearer)
                await expect(card).to_contain_text(report.json()["headline"])
                await view.fill("#text", "/no-such-flow")
                await view.press("#text", "Enter")
                await expect(view.locator("#messages li").last).to_contain_text("no-such-flow")
