"""The page on a connection that is late, lost, refused or set back."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, WebSocketRoute, expect

from tests.browser.chromium import page
from tests.fakes.agent import FakeAgent
from tests.server.harness import TOKEN, House, house
from tests.server.people import admit, shared_house

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

Frame = dict[str, Any]


class Between:
    """What stands between the page and the server: it holds back, changes and adds frames."""

    def __init__(self) -> None:
        self.page: WebSocketRoute | None = None
        self.server: WebSocketRoute | None = None
        self.changed: Callable[[Frame], Frame | None] = lambda frame: frame
        self.asked: list[Frame] = []
        self.comes = asyncio.Event()
        """Set when a connection comes in."""
        self.away = False

    async def route(self, view: Page) -> None:
        await view.route_web_socket("**/api/ws", self._opened)

    def say(self, **frame: Any) -> None:
        assert self.page is not None
        self.page.send(json.dumps(frame))

    async def close(self, code: int) -> None:
        assert self.page is not None
        assert self.server is not None
        await self.server.close()
        await self.page.close(code=code)

    async def _opened(self, route: WebSocketRoute) -> None:
        if self.away:
            await route.close(code=1013)
            return
        self.page = route
        self.comes.set()
        self.server = server = route.connect_to_server()

        def up(data: str | bytes) -> None:
            self.asked.append(json.loads(data))
            server.send(data)

        def down(data: str | bytes) -> None:
            frame = self.changed(json.loads(data))
            if frame is not None:
                route.send(json.dumps(frame))

        route.on_message(up)
        server.on_message(down)


@asynccontextmanager
async def opened(tmp_path: Path, between: Between) -> AsyncIterator[tuple[House, Page]]:
    async with house(tmp_path) as home, page() as view:
        await between.route(view)
        await view.goto(f"{home.url}/#token={TOKEN}")
        yield home, view


async def seen(view: Page, run_id: str) -> None:
    await expect(view.locator("#report h3")).to_be_visible()
    await expect(view.locator("#agents article")).to_have_count(3)
    title = view.locator("#agents article code")
    names = await title.all_inner_texts()
    assert len(set(names)) == len(names), "every agent stands there once"
    assert run_id in view.url


async def test_a_hello_that_comes_late_shows_every_agent_once(tmp_path: Path) -> None:
    between, held = Between(), asyncio.Event()

    def without_hello(frame: Frame) -> Frame | None:
        if frame["type"] != "flow_run_hello":
            return frame
        held.set()
        return None

    between.changed = without_hello
    async with opened(tmp_path, between) as (home, view):
        run_id = await home.launch()
        await home.end_of(run_id)
        await held.wait()
        # The socket is open and the server has greeted; the page does not know it yet.
        await view.evaluate("id => { location.hash = `run=${id}`; }", run_id)
        await expect(view.locator("#run")).to_be_visible()
        between.changed = lambda frame: frame
        between.say(**a_hello())
        await seen(view, run_id)
        asked = [said["run_id"] for said in between.asked if said["type"] == "subscribe"]
        assert asked == [run_id]


def a_hello() -> Frame:
    return {
        "type": "flow_run_hello",
        "user_id": "local",
        "build": "0",
        "server_time": "2026-01-02T03:04:05.678Z",
        "limits": {"heartbeat_seconds": 15.0},
    }


async def test_a_log_that_was_set_back_is_drawn_anew(tmp_path: Path) -> None:
    between = Between()
    async with opened(tmp_path, between) as (home, view):
        run_id = await home.launch()
        await home.end_of(run_id)
        # Its end is held back: an ended run is no longer followed.
        between.changed = lambda frame: None if frame["type"] == "flow_run_finished" else frame
        await view.evaluate("id => { location.hash = `run=${id}`; }", run_id)
        await expect(view.locator("#agents .text").first).to_contain_text("I read the files.")
        between.changed = lambda frame: frame
        between.say(type="flow_run_subscribed", run_id=run_id, gen=2, head=9, **{"from": 3})
        await expect(view.locator("#run-facts")).to_contain_text("completed")
        await seen(view, run_id)
        words = await view.locator("#agents .text").all_inner_texts()
        assert words == ["I read the files."] * len(words)


async def test_frames_that_have_expired_leave_the_report(tmp_path: Path) -> None:
    between = Between()
    async with opened(tmp_path, between) as (home, view):
        run_id = await home.launch()
        await home.end_of(run_id)
        snapshot = (await home.http.get(f"/api/runs/{run_id}")).json()["run"]
        reset = {"reason": "expired", "snapshot": snapshot, "gen": 1, "head": 40}

        def expired(frame: Frame) -> Frame | None:
            if frame["type"] == "flow_run_subscribed":
                return {"type": "flow_run_reset", "run_id": run_id, **reset}
            return None if frame.get("run_id") == run_id and "at" in frame else frame

        between.changed = expired
        await view.evaluate("id => { location.hash = `run=${id}`; }", run_id)
        await expect(view.locator("#report h3")).to_be_visible()
        await expect(view.locator("#agents")).to_contain_text("has expired")
        await expect(view.locator("#run-facts")).to_contain_text("completed")


async def test_a_lost_connection_counts_down_and_can_be_tried_at_once(tmp_path: Path) -> None:
    between = Between()
    async with opened(tmp_path, between) as (home, view):
        connection = view.locator("#connection")
        await expect(connection).to_have_text("live")
        await expect(view.locator("#retry")).to_be_hidden()
        between.away = True
        between.say(type="flow_run_draining", retry_after_ms=50_000)
        await between.close(1012)
        await expect(connection).to_have_text("reconnecting")
        await expect(view.locator("#countdown")).to_have_text(re.compile(r"^in \d\d s$"))
        between.away = False
        await view.click("#retry")
        await expect(connection).to_have_text("live")
        await expect(view.locator("#countdown")).to_be_hidden()
        await home.end_of(await home.launch())
        await expect(view.locator("#runs li")).to_have_count(1)
        await expect(view.locator("#runs .status.completed")).to_be_visible()


async def test_who_is_signed_out_is_told_and_can_sign_in(tmp_path: Path) -> None:
    between = Between()
    async with opened(tmp_path, between) as (_, view):
        await expect(view.locator("#connection")).to_have_text("live")
        between.changed = lambda frame: None if frame["type"] == "flow_run_hello" else frame
        between.comes.clear()
        await between.close(4401)
        await between.comes.wait()
        await between.close(4401)
        await expect(view.locator("#connection")).to_have_text("signed out: sign in again")
        between.changed = lambda frame: frame
        await view.fill("#token", TOKEN)
        await view.click("#sign-in button")
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#sign-in")).to_be_hidden()


async def test_who_is_sent_away_is_told_why(tmp_path: Path) -> None:
    between = Between()
    async with opened(tmp_path, between) as (_, view):
        await expect(view.locator("#connection")).to_have_text("live")
        between.changed = lambda frame: None if frame["type"] == "flow_run_hello" else frame
        between.comes.clear()
        await between.close(1012)
        await between.comes.wait()
        await between.close(4403)
        await expect(view.locator("#connection")).to_contain_text("allowed_origins")
        await expect(view.locator("#reload")).to_be_hidden()


async def test_who_loses_a_project_is_told_so(tmp_path: Path) -> None:
    """The run that was shown may go on: nothing here says that it does, and nothing can stop it."""
    agent = FakeAgent()
    agent.hold()
    async with shared_house(tmp_path, agent=agent) as home, page() as view:
        ann = await admit(home, "ann", home.project_id)
        await view.goto(f"{home.url}/#token={ann.token}")
        await view.fill("#command", "/code-review small src")
        await view.click("#go")
        buttons = view.locator("#cancel, #finish, #agents button")
        await expect(view.locator("#run-facts")).to_have_text("running")
        await expect(view.locator("#cancel")).to_be_visible()
        await expect(view.get_by_role("button", name="Stop").first).to_be_visible()
        await home.http.post("/api/users/ann/projects", json={"remove": [home.project_id]})
        await expect(view.locator("#connection")).to_have_text(
            "You are no longer a member of a project; reload"
        )
        await expect(view.locator("#run-facts")).to_have_text("not followed any more")
        for button in await buttons.all():
            await expect(button).to_be_hidden()
        await expect(view.locator("#retry")).to_be_hidden()
        agent.release()
        await view.click("#reload")
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#project option")).to_have_count(0)
        await expect(view.locator("#runs li")).to_have_count(0)


TICKETED = """async (given) => {
    const { PodiumClient, ticketFrom } = await import(new URL("client.js", location.href));
    const podium = new PodiumClient(undefined, {
        ticket: given ? async () => given : ticketFrom("api/ws-ticket") });
    const states = [];
    const settled = new Promise((done) => podium.addEventListener("state", ({ detail }) => {
        states.push(detail.code ?? detail.state);
        if (detail.state === "live") podium.ping().then(done, done);
        if (detail.state === "refused") done();
    }));
    podium.connect();
    await settled;
    return states;
}"""
"""A client with tickets, in a browser that has podium's cookie, too."""


async def test_a_ticket_beside_the_cookie_is_the_same_users_or_refused(tmp_path: Path) -> None:
    async with shared_house(tmp_path) as home, page() as view:
        ann, ben = await admit(home, "ann"), await admit(home, "ben")
        await view.goto(f"{home.url}/#token={ann.token}")
        await expect(view.locator("#connection")).to_have_text("live")
        assert await view.evaluate(TICKETED, "") == ["connecting", "live"]
        made = await home.http.post("/api/ws-ticket", headers=ben.bearer)
        # It was never live: the hello that came first was ann's.
        assert await view.evaluate(TICKETED, made.json()["ticket"]) == ["connecting", 4403]
