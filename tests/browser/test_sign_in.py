"""The form of whoever is not signed in: what it says of a token that is not right, and what is left
of whoever the server has signed out."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from server.users.throttle import GUESSES
from tests.browser.chromium import page
from tests.browser.test_signing_out import EXPECTED, KEPT, SAID, run, signed_out
from tests.server.harness import TOKEN, house
from tests.server.people import admit, shared_house
from tests.server.test_revocation import End, MovedClock, expire, revoke_token, revoke_user

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

REFUSED = "401|429|Failed to load resource"


async def tries(view: Page, token: str) -> None:
    await view.fill("#token", token)
    await view.click("#sign-in button")


async def test_a_link_that_is_no_good_says_why(tmp_path: Path) -> None:
    async with house(tmp_path) as home, page(expected=REFUSED) as view:
        problem = view.locator("#sign-in-problem")
        await view.goto(f"{home.url}/#token=wrong")
        await expect(problem).to_contain_text("the token is not right")
        await expect(problem).to_contain_text("yours may have expired or been revoked")
        await expect(view.locator("#sign-in")).to_contain_text("whoever invited you")
        await tries(view, "another wrong one")
        await expect(problem).to_contain_text("the token is not right")
        await tries(view, TOKEN)
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#sign-in")).to_be_hidden()


async def test_a_link_that_is_no_good_says_whose_page_this_is(tmp_path: Path) -> None:
    """The cookie of somebody who was here goes on, and is not taken for the link's user."""
    async with shared_house(tmp_path) as home, page(expected=REFUSED) as view:
        ann, ben = await admit(home, "ann", home.project_id), await admit(home, "ben")
        told, banner = view.locator("#refused"), view.locator("#refused-link")
        await view.goto(f"{home.url}/#token={ben.token}")
        await expect(view.locator("#user")).to_have_text("ben")
        await expect(banner).to_be_hidden()
        await revoke_token(home, ann)
        await view.goto(f"{home.url}/#token={ann.token}")
        # Ben is in no project: there is no form beside which it could stand.
        await expect(told).to_contain_text("The link's token was refused: the token is not right")
        await expect(told).to_contain_text("You are still signed in as ben. Ask for a new link, or")
        await expect(view.locator("#connection")).to_have_text("live")
        assert ann.token not in await view.evaluate(KEPT)
        await view.get_by_role("button", name="Go on as ben").click()
        await expect(banner).to_be_hidden()
        await expect(view.locator("#user")).to_have_text("ben")


async def test_a_link_that_is_no_good_can_be_left_by_signing_out(tmp_path: Path) -> None:
    async with shared_house(tmp_path) as home, page(expected=EXPECTED) as view:
        ann, ben = await admit(home, "ann"), await admit(home, "ben")
        await view.goto(f"{home.url}/#token={ann.token}")
        await expect(view.locator("#user")).to_have_text("ann")
        await view.goto(f"{home.url}/#token=wrong")
        await expect(view.locator("#refused")).to_be_visible()
        await view.click("#sign-out")
        await signed_out(view, "signed out")
        await expect(view.locator("#refused-link")).to_be_hidden()
        await tries(view, ben.token)
        await expect(view.locator("#user")).to_have_text("ben")
        await expect(view.locator("#refused-link")).to_be_hidden()


async def test_after_many_wrong_tokens_the_form_says_how_long_to_wait(tmp_path: Path) -> None:
    async with house(tmp_path) as home, page(expected=REFUSED) as view:
        for number in range(GUESSES):
            answer = await home.http.post("/api/session", json={"token": f"wrong {number}"})
            assert answer.status_code == 401
        await view.goto(home.url)
        await tries(view, "one more")
        problem = view.locator("#sign-in-problem")
        await expect(problem).to_contain_text("too many wrong tokens from this address")
        await expect(problem).to_have_text(re.compile(r"in \d+ s$"))


@pytest.mark.parametrize("end", [revoke_user, revoke_token, expire])
async def test_the_next_one_in_the_tab_finds_nothing_of_whoever_was_signed_out(
    tmp_path: Path, end: End
) -> None:
    clock = MovedClock()
    async with shared_house(tmp_path, clock=clock) as home, page(expected=EXPECTED) as view:
        ann = await admit(home, "ann", home.project_id, days=1)
        ben = await admit(home, "ben", home.project_id)
        await view.goto(f"{home.url}/#token={ann.token}")
        await run(view)
        await view.fill("#command", "/code-review small what only ann asks")
        run_id = view.url.partition("#run=")[2]
        traces = [SAID, run_id, "ann</span>", "what only ann asks", "<h3>"]
        kept = await view.evaluate(KEPT)
        assert [it for it in traces if it not in kept] == [], "it would be found"

        await end(home, ann)
        await signed_out(view, "signed out: sign in again")
        assert view.url == f"{home.url}/"
        kept = await view.evaluate(KEPT)
        assert [it for it in traces if it in kept] == []

        await tries(view, ben.token)
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#user")).to_have_text("ben")
        await expect(view.locator("#run")).to_be_hidden()
        await run(view)  # it counts the runs of the list: one
        assert run_id not in await view.evaluate(KEPT)


async def test_going_back_from_the_form_asks_for_no_run(tmp_path: Path) -> None:
    """The browser still knows the addresses of whoever was here."""
    async with shared_house(tmp_path) as home, page(expected=EXPECTED) as view:
        ann, ben = await admit(home, "ann", home.project_id), await admit(home, "ben")
        await view.goto(f"{home.url}/#token={ann.token}")
        await run(view)
        run_id = view.url.partition("#run=")[2]
        await revoke_user(home, ann)
        await signed_out(view, "signed out: sign in again")
        await view.evaluate("(id) => { location.hash = `run=${id}`; }", run_id)
        await view.evaluate("() => { location.hash = ''; }")
        asked: list[str] = []
        view.on("websocket", lambda it: it.on("framesent", lambda said: asked.append(str(said))))
        await tries(view, ben.token)
        await expect(view.locator("#connection")).to_have_text("live")
        await expect(view.locator("#run")).to_be_hidden()
        assert [said for said in asked if run_id in said] == []
