"""What the page says of read-only: in words, for each agent and for the whole run."""

from pathlib import Path

import msgspec
import pytest
from playwright.async_api import expect

from protocol.resources import Receipt
from server.ports import AgentFailure, AgentOrder
from tests.browser.chromium import page
from tests.fakes.agent import NOTHING_FOUND, FakeAgent
from tests.flows.test_report_proof import BARE, receipt
from tests.server.harness import TOKEN, house

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

PROVEN = receipt()


def of(step_id: str, general: Receipt, security: Receipt) -> Receipt:
    return security if step_id == "review.security" else general


@pytest.mark.parametrize(
    ("security", "badge", "line"),
    [
        (PROVEN, "✓ read-only proven", "Read-only: proven for all 2 attempts"),
        (receipt(**BARE), "– read-only not proven", "Read-only: not proven, 1 of 2 attempts are."),
        (
            msgspec.structs.replace(PROVEN, tree_after="changed"),
            "✗ read-only violated",
            "Read-only: VIOLATED. Review.security: the copy changed while it ran.",
        ),
    ],
)
async def test_each_agent_has_a_badge_in_words(
    tmp_path: Path, security: Receipt, badge: str, line: str
) -> None:
    def answer(order: AgentOrder) -> dict[str, object] | AgentFailure:
        if "violated" in badge and order.ref.step_id == "review.security":
            return AgentFailure(reason="read_only_unproven", message="the copy changed")
        return NOTHING_FOUND

    agent = FakeAgent(answer)
    agent.receipt = lambda order: of(order.ref.step_id, PROVEN, security)
    # The other one ends first: a violation would stop it before its receipt.
    agent.hold("review.security")
    async with house(tmp_path, agent=agent) as home, page() as view:
        await view.goto(f"{home.url}/#token={TOKEN}")
        await view.fill("#command", "/code-review small src")
        await view.click("#go")
        cards = view.locator("#agents article")
        general = cards.filter(has_text="review.general.1").locator(".badge")
        await expect(general).to_have_text("✓ read-only proven")
        suspect = cards.filter(has_text="review.security").locator(".badge")
        await expect(suspect).to_be_hidden()
        agent.release()
        await expect(suspect).to_have_text(badge)
        await expect(view.locator("#read-only")).to_contain_text(line)
        await expect(view.locator("#stale")).to_have_count(0)
        first = await view.locator("#report h4").first.inner_text()
        assert (first == "Read-only") == ("violated" in badge), "a violation leads the report"


async def test_a_stale_report_says_so_above_all(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.receipt = lambda order: receipt(repository_after=order.ref.step_id)
    async with house(tmp_path, agent=agent) as home, page() as view:
        await view.goto(f"{home.url}/#token={TOKEN}")
        await view.fill("#command", "/code-review small src")
        await view.click("#go")
        await expect(view.locator("#stale")).to_contain_text("the repository changed")
        await expect(view.locator("#run-facts")).to_contain_text("completed")
