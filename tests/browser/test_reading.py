"""What the page says of runs: the list, what no section of a report shows, who did not run, and a
run that is not there."""

import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from server.ports import AgentOrder
from tests.browser.chromium import page
from tests.fakes.agent import NOTHING_FOUND, FakeAgent, finding, found
from tests.server.harness import TOKEN, house
from tests.server.people import admit, shared_house

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

QUOTE = "    return undefined_name_here"


def suggests(order: AgentOrder) -> dict[str, object]:
    """One agent finds something that counts, and something that a small review does not show."""
    if order.ref.step_id != "review.general.1":
        return NOTHING_FOUND
    return found(
        finding("src/a.py", 2, QUOTE),
        finding(
            "src/a.py", 2, QUOTE, title="A small thing", category="clarity", severity="suggestion"
        ),
    )


async def test_what_the_headline_counts_can_be_read(tmp_path: Path) -> None:
    async with house(tmp_path, agent=FakeAgent(suggests)) as home, page() as view:
        run_id = await home.launch()
        await home.end_of(run_id)
        report = (await home.http.get(f"/api/runs/{run_id}/report.json")).json()
        told = {it for section in report["sections"] for it in section.get("findings", [])}
        untold = [it["id"] for it in report["findings"] if it["id"] not in told]
        assert untold, "the band shows no suggestions"
        await view.goto(f"{home.url}/#token={TOKEN}&run={run_id}")
        await expect(view.locator("#untold > summary")).to_have_text(f"Not shown ({len(untold)})")
        await expect(view.locator("#untold .finding").first).to_be_hidden()
        await view.click("#untold > summary")
        listed = view.locator("#untold .finding > summary code")
        assert await listed.all_inner_texts() == untold
        await expect(view.locator("#untold")).to_contain_text("A small thing")


async def test_who_never_ran_is_one_line(tmp_path: Path) -> None:
    async with house(tmp_path) as home, page() as view:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        skipped = {it["step_id"] for it in frames if it.get("status") == "skipped"}
        await view.goto(f"{home.url}/#token={TOKEN}&run={run_id}")
        await expect(view.locator("#run-facts")).to_contain_text("completed")
        cards = view.locator("#agents article.idle")
        assert set(await cards.locator("code").all_inner_texts()) & skipped
        for card in await cards.all():
            await expect(card.locator(".status")).to_have_text(re.compile(r"^skipped · .+"))
            box = await card.bounding_box()
            assert box is not None
            assert box["height"] < 60, "one line"
        await expect(view.locator("#plan summary")).to_have_text(re.compile(r"\d files$|1 file$"))


async def test_a_run_that_was_cancelled_says_so_once(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.hold()
    async with house(tmp_path, agent=agent) as home, page() as view:
        run_id = await home.launch(input={"question": "errors", "paths": ["src/a.py"]})
        await view.goto(f"{home.url}/#token={TOKEN}&run={run_id}")
        await agent.started(1)
        await expect(view.locator("#plan summary")).to_contain_text("1 file")
        await expect(view.locator("#plan summary")).not_to_contain_text("1 files")
        await view.click("#cancel")
        facts = view.locator("#run-facts")
        await expect(facts).to_have_text(re.compile("^cancelled"))
        await expect(view.locator("#agents .status.cancelled").first).to_be_visible()
        for said in [facts, *await view.locator("#agents .status").all()]:
            await expect(said).not_to_have_text(re.compile("cancelled · cancelled( |$)"))


async def test_the_list_says_which_run_is_which(tmp_path: Path) -> None:
    command = "/code-review small src/a.py"
    async with house(tmp_path) as home, page() as view:
        await home.end_of(await home.launch())
        await view.goto(f"{home.url}/#token={TOKEN}")
        await view.fill("#command", command)
        await view.click("#go")
        await expect(view.locator("#run-facts")).to_contain_text("completed")
        rows = view.locator("#runs li")
        await expect(rows).to_have_count(2)
        typed = rows.filter(has_text=command)
        await expect(typed).to_contain_text("completed · project")
        await expect(typed.locator("time")).to_contain_text(re.compile(r"\d{4}"))  # the date
        headline = await view.locator("#report h3").inner_text()
        await expect(typed.locator(".headline")).to_have_text(headline)
        by_fields = rows.filter(has_text="/code-review small src errors")
        await expect(by_fields).to_have_count(1)


async def test_a_run_that_is_not_there_is_told_with_the_way_back(tmp_path: Path) -> None:
    async with house(tmp_path) as home, page() as view:
        await home.end_of(await home.launch())
        for name in ("nosuch", "00000000-0000-4000-8000-000000000000"):
            await view.goto(f"{home.url}/#token={TOKEN}&run={name}")
            await expect(view.locator("#no-run")).to_contain_text("There is no such run")
            await expect(view.locator("#run")).to_be_hidden()
            await view.get_by_role("link", name="Back to the runs").click()
            await expect(view.locator("#no-run")).to_be_hidden()
            await view.locator("#runs a").click()
            await expect(view.locator("#report h3")).to_be_visible()
            await expect(view.locator("#no-run")).to_be_hidden()


async def test_who_has_no_project_is_told_whom_to_ask(tmp_path: Path) -> None:
    async with shared_house(tmp_path) as home, page() as view:
        cat = await admit(home, "cat")
        await view.goto(f"{home.url}/#token={cat.token}")
        await expect(view.locator("#no-project")).to_have_text(
            "No project yet: ask the operator to add you to one."
        )
        await expect(view.locator("#launch")).to_be_hidden()
        ann = await admit(home, "ann", home.project_id)
        await view.goto(f"{home.url}/#token={ann.token}")
        await expect(view.locator("#launch")).to_be_visible()
        await expect(view.locator("#no-project")).to_be_hidden()
