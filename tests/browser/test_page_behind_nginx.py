"""The page behind TLS and below a path, through Debian's nginx, across a restart of podium."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from playwright.async_api import expect

from server.demo.app import scripted
from tests.browser.chromium import page
from tests.fakes.model import FakeModel, serving
from tests.integration.proxies import listener, nginx, reserved
from tests.integration.servers import podium
from tests.integration.test_whole_job import endpoint, repository

pytestmark = [pytest.mark.browser, pytest.mark.real_agent, pytest.mark.timeout(180)]

WAIT_MS = 60_000
AWAY = "502|WebSocket connection"
"""What the browser says about podium while it restarts."""


async def test_a_person_works_through_the_proxy(tmp_path: Path) -> None:
    project = repository(tmp_path / "shop")
    model = FakeModel(scripted(pace=0))
    with closing(listener()) as listening, closing(reserved()) as kept:
        port = kept.getsockname()[1]
        async with serving(model.app) as url, nginx(
            tmp_path / "nginx", listening, f"127.0.0.1:{port}"
        ) as proxy:  # fmt: skip
            settings = {**endpoint(url), "PODIUM_PUBLIC_URL": f"{proxy.origin}/podium/"}
            async with (
                podium(tmp_path / "data", project, settings, port=port) as server,
                page(flags=proxy.browser_flags, expected=AWAY) as view,
            ):
                assert server.place is not None
                assert server.place.page == f"{proxy.origin}/podium"
                await view.goto(f"{server.place.page}/#token={server.place.token}")
                await expect(view.locator("#connection")).to_have_text("live", timeout=WAIT_MS)
                assert server.place.token not in view.url
                (cookie,) = await view.context.cookies()
                assert (cookie["name"], cookie["path"]) == ("__Secure-podium_session", "/podium")
                assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
                assert cookie["sameSite"] == "Strict"

                await view.fill("#command", "/code-review small shop")
                await view.click("#go")
                await expect(view.locator("#agents .tool").first).to_be_visible(timeout=WAIT_MS)
                await expect(view.locator("#report h3")).to_be_visible(timeout=WAIT_MS)
                await expect(view.locator("#run-facts")).to_contain_text("completed")
                shown = await view.locator("#agents").inner_text()

                async with view.expect_download() as saving:
                    await view.get_by_role("link", name="report.json").click()
                report = json.loads((await (await saving.value).path()).read_bytes())
                assert report["citations"]["total"] > 0

                await server.stop()
                await expect(view.locator("#connection")).not_to_have_text("live", timeout=WAIT_MS)
                async with proxy.http() as stranger:
                    assert (await stranger.get("/podium/healthz")).status_code == 502
                await server.start()
                await expect(view.locator("#connection")).to_have_text("live", timeout=WAIT_MS)
                assert await view.locator("#agents").inner_text() == shown

                await view.reload()
                await expect(view.locator("#report h3")).to_be_visible(timeout=WAIT_MS)
                await expect(view.locator("#agents")).to_have_text(shown, use_inner_text=True)
                token = server.place.token
        assert token not in proxy.log("podium.log") + proxy.log("error.log")
