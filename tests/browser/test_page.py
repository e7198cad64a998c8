"""The first page, as a person uses it: sign in, launch, watch, read the report, cancel."""

import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from server.demo.app import scripted
from tests.browser.chromium import page
from tests.fakes.model import FakeModel, Gate, serving
from tests.integration.servers import podium
from tests.integration.test_whole_job import endpoint, repository

pytestmark = [pytest.mark.browser, pytest.mark.real_agent, pytest.mark.timeout(180)]

WAIT_MS = 60_000
FARTHEST = """Math.max(...[...document.querySelectorAll("#agents .output")]
    .map((it) => it.scrollHeight - it.scrollTop - it.clientHeight))"""
"""How far any agent's output is from its end, in pixels."""


async def test_a_person_launches_watches_and_reads(tmp_path: Path) -> None:
    project = repository(tmp_path / "shop")
    model = FakeModel(scripted(pace=0))
    async with (
        serving(model.app) as url,
        podium(tmp_path / "data", project, endpoint(url)) as server,
        page() as view,
    ):
        assert server.place is not None
        await view.goto(f"{server.place.url}/#token={server.place.token}")
        await expect(view.locator("#connection")).to_have_text("live", timeout=WAIT_MS)
        await expect(view.locator("#sign-in")).to_be_hidden()
        assert server.place.token not in view.url, "the token leaves the address bar"
        await view.fill("#command", "/code-review small shop")
        await view.dblclick("#go")
        await expect(view.locator("#agents article")).to_have_count(3, timeout=WAIT_MS)
        await expect(view.locator("#agents .tool").first).to_be_visible(timeout=WAIT_MS)
        await expect(view.locator("#report h3")).to_be_visible(timeout=WAIT_MS)
        await expect(view.locator("#demo")).to_be_visible()
        await expect(view.locator("#run-facts")).to_contain_text("completed")
        await expect(view.locator("#runs li")).to_have_count(1)
        await expect(view.locator("#agents-title")).to_have_text(re.compile(r"· \d+ findings?$"))
        assert await view.evaluate(FARTHEST) < 2, "who has not scrolled away sees the end"
        await view.locator(".finding summary").first.click()
        await expect(view.locator("figure.verified").first).to_be_visible()
        shown = await view.locator("#agents").inner_text()
        # After a reload everything comes back from the log.
        await view.reload()
        await expect(view.locator("#report h3")).to_be_visible(timeout=WAIT_MS)
        await expect(view.locator("#agents")).to_have_text(shown, use_inner_text=True)


async def test_cancel_stops_the_agents(tmp_path: Path) -> None:
    project = repository(tmp_path / "shop")
    quick, gate = scripted(pace=0), Gate()
    # The probe makes two calls; the agents' are held.
    model = FakeModel(quick, quick, gate.hold(quick))
    async with (
        serving(model.app) as url,
        podium(tmp_path / "data", project, endpoint(url)) as server,
        page(width=390, height=844) as view,
    ):
        assert server.place is not None
        await view.goto(f"{server.place.url}/#token={server.place.token}")
        await view.fill("#command", "/code-review small shop")
        await view.click("#go")
        await expect(view.locator("#agents .status.running").first).to_be_visible(timeout=WAIT_MS)
        await model.arrived(3)
        later = view.locator("#agents article").filter(has_text="validate")
        await expect(later.get_by_role("button", name="Stop")).to_be_hidden()
        await view.click("#cancel")
        await expect(view.locator("#run-facts")).to_contain_text("cancelled", timeout=WAIT_MS)
        await expect(view.locator("#cancel")).to_be_hidden()
        await expect(view.locator("#report h3")).to_be_visible(timeout=WAIT_MS)
        wide = await view.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not wide, "nothing hangs out of a phone's screen"
