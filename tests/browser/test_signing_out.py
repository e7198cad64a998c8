"""Who is signed in stands on the page; signing out ends the session and leaves nothing of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.chromium import page
from tests.browser.test_connection import Between
from tests.server.harness import TOKEN, House, house
from tests.server.people import Person, admit, shared_house

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

EXPECTED = "401|Failed to load resource|WebSocket connection"
"""What the browser says of requests that nobody signs in, and of those that a test cuts off."""
KEPT = """() => [document.documentElement.outerHTML, location.href, JSON.stringify(history.state),
    JSON.stringify({...localStorage, ...sessionStorage}),
    ...[...document.querySelectorAll("input")].map((it) => it.value)].join("\\n")"""
"""Everything that a page keeps, but for what its scripts hold."""
SIGN_IN = """(token) => fetch("api/session", {method: "POST", body: JSON.stringify({token}),
    headers: {"Content-Type": "application/json"}}).then((answer) => answer.status)"""
"""As another page of the same browser would."""
SAID = "I read the files."
"""What every agent says."""
LONG = "a" + "b" * 90 + "@example"


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[tuple[House, Person, Page]]:
    """A page that ann has opened by her link, on which she has run something."""
    async with shared_house(tmp_path) as home, page(expected=EXPECTED) as view:
        ann = await admit(home, "ann", home.project_id)
        await view.goto(f"{home.url}/#token={ann.token}")
        await run(view)
        yield home, ann, view


async def run(view: Page) -> None:
    await expect(view.locator("#connection")).to_have_text("live")
    await view.fill("#command", "/code-review small src")
    await view.click("#go")
    await expect(view.locator("#run-facts")).to_contain_text("completed")
    await expect(view.locator("#agents .text").first).to_contain_text(SAID)
    await expect(view.locator("#runs li")).to_have_count(1)


async def signed_out(view: Page, says: str) -> None:
    await expect(view.locator("#connection")).to_have_text(says)
    await expect(view.locator("#token")).to_be_focused()
    for hidden in ("#app", "#who"):
        await expect(view.locator(hidden)).to_be_hidden()


async def session_status(view: Page) -> int:
    status: int = await view.evaluate("async () => (await fetch('api/session')).status")
    return status


async def test_signing_out_by_the_keyboard_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (home, ann, view):
        await expect(view.locator("#user")).to_have_text("ann")
        run_id = view.url.partition("#run=")[2]
        traces = [SAID, run_id, "ann</span>", ann.token]
        kept = await view.evaluate(KEPT)
        assert [it in kept for it in traces] == [True, True, True, False], "it would be found"
        (cookie,) = await view.context.cookies()

        button = view.get_by_role("group", name="Signed in").get_by_role("button", name="Sign out")
        await view.locator("h1").click()
        await view.keyboard.press("Tab")
        await expect(button).to_be_focused()
        await view.keyboard.press("Enter")
        await signed_out(view, "signed out")
        kept = await view.evaluate(KEPT)
        assert [it for it in traces if it in kept] == []
        assert await view.context.cookies() == []

        await view.go_back()
        await expect(view.locator("#app")).to_be_hidden()
        assert SAID not in await view.evaluate(KEPT)
        await view.context.add_cookies(
            [{"name": cookie["name"], "value": cookie["value"], "url": home.url}]
        )
        assert await session_status(view) == 401, "whoever kept the cookie has nothing of it"


async def test_a_session_that_cannot_be_ended_is_not_told_as_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, view):

        async def cut(route: Route) -> None:
            if route.request.method == "DELETE":
                await route.abort()
            else:
                await route.continue_()

        await view.route("**/api/session", cut)
        await view.click("#sign-out")
        await expect(view.locator("#problem")).to_contain_text("You are still signed in")
        assert await session_status(view) == 200, "and so it is"
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#agents .text").first).to_contain_text(SAID)
        await view.unroute("**/api/session")
        await view.click("#sign-out")
        await signed_out(view, "signed out")


async def test_the_socket_closes_and_other_pages_of_the_session_forget(tmp_path: Path) -> None:
    async with opened(tmp_path) as (home, _, view):
        other = await view.context.new_page()
        async with other.expect_websocket() as opening:
            await other.goto(view.url)
        socket = await opening.value
        await expect(other.locator("#agents .text").first).to_contain_text(SAID)
        await other.click("#sign-out")
        await signed_out(other, "signed out")
        if not socket.is_closed():
            await socket.wait_for_event("close")
        await signed_out(view, "signed out: sign in again")
        assert SAID not in await view.evaluate(KEPT)
        await view.fill("#token", TOKEN)
        await view.keyboard.press("Enter")
        await expect(view.locator("#user")).to_have_text("local (operator)")
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#runs li")).to_have_count(0)
        assert TOKEN not in await view.evaluate(KEPT)
        assert view.url == f"{home.url}/"


async def test_the_operator_signs_out_and_in_again_by_the_link(tmp_path: Path) -> None:
    async with house(tmp_path) as home, page(expected=EXPECTED) as view:
        link = f"{home.url}/#token={TOKEN}"
        await view.goto(link)
        await expect(view.locator("#user")).to_have_text("local (operator)")
        await view.click("#sign-out")
        await signed_out(view, "signed out")
        await view.goto(link)  # the browser takes it for another place on the same page
        await expect(view.locator("#connection")).to_have_text("live")
        assert TOKEN not in await view.evaluate(KEPT)


async def test_a_page_of_somebody_else_does_not_go_on(tmp_path: Path) -> None:
    between = Between()
    async with shared_house(tmp_path) as home, page(expected=EXPECTED) as view:
        await between.route(view)
        ann = await admit(home, "ann", home.project_id)
        await view.goto(f"{home.url}/#token={ann.token}")
        await run(view)
        await view.evaluate(SIGN_IN, TOKEN)
        await between.close(1012)
        await signed_out(view, "somebody else has signed in: sign in again")
        await view.reload()
        await expect(view.locator("#user")).to_have_text("local (operator)")
        assert SAID not in await view.evaluate(KEPT)


async def test_whom_a_proxy_signs_in_signs_out_there(tmp_path: Path) -> None:
    async with house(tmp_path) as home, page() as view:

        async def by_proxy(route: Route) -> None:
            if route.request.method != "GET":
                return await route.continue_()
            answer = await route.fetch()
            await route.fulfill(response=answer, json={**await answer.json(), "way": "proxy"})

        await view.route("**/api/session", by_proxy)
        await view.goto(f"{home.url}/#token={TOKEN}")
        await expect(view.locator("#user")).to_be_visible()
        await expect(view.locator("#sign-out")).to_be_hidden()


async def test_a_long_name_fits_on_a_phone(tmp_path: Path) -> None:
    async with shared_house(tmp_path) as home, page(width=360, height=740) as view:
        person = await admit(home, LONG, home.project_id)
        await view.goto(f"{home.url}/#token={person.token}")
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#user")).to_have_text(LONG)
        await expect(view.locator("#sign-out")).to_be_in_viewport(ratio=1)
        wide = await view.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not wide, "nothing hangs out of a phone's screen"


async def test_a_cookie_that_has_gone_is_found_out(tmp_path: Path) -> None:
    """The server takes its socket for one that may bring a ticket: only an answer to its hello
    tells. The clock stands still from there on: nobody waits for a connect time to be over."""
    between = Between()
    async with shared_house(tmp_path) as home, page(expected=EXPECTED) as view:
        await view.clock.install()
        await between.route(view)
        ann = await admit(home, "ann", home.project_id)
        await view.goto(f"{home.url}/#token={ann.token}")
        await run(view)
        await view.context.clear_cookies()
        between.comes.clear()
        await view.clock.pause_at(await view.evaluate("Date.now() + 1_000"))
        await between.close(1012)
        # In small steps: one over the back-off may be one over the connect time, too.
        while not between.comes.is_set():
            await view.clock.run_for(25)
        await signed_out(view, "signed out: sign in again")
        assert SAID not in await view.evaluate(KEPT)
