"""The page of a job that the coordinator does not list: what was kept of it, and a sentence that says so."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import expect
from tests.browser.training import Training
from tests.browser.watched import Watched, watched
from tests.integration.test_cli_up import eventually
from tests.integration.test_dashboard_restart import leave_history_alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
VIEWS = ("overview", "layers", "step", "workers", "shards", "job")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("kept")
    leave_history_alone(folder / "state")
    with watched(folder) as found:
        listed = eventually(lambda: found.api_or_nothing("/jobs"), "the job")
        assert [job["job"] for job in listed] == ["tiny"]
        eventually(lambda: found.api("/jobs/tiny")["state"] == "not listed", "the coordinator's list")
        yield found


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_says_that_the_coordinator_does_not_list_the_job(site: Watched, view: str) -> None:
    page = site.open(f"view={view}")
    expect(page.locator(".badge")).to_have_text("not listed")
    sentence = (
        r"^The coordinator does not list this job \(any more\); what was kept of it until 20.* is shown\.$"
    )
    expect(page.locator(".trouble")).to_have_text(re.compile(sentence))
    page.wait_for_timeout(800)  # what would be asked for late is asked for now
    assert (site.errors, site.foreign) == ([], [])
    site.close_pages()


def test_what_was_kept_is_shown(site: Watched) -> None:
    page = site.open("job=tiny")
    expect(page.locator('[data-fact="version"]')).to_have_text("3")
    page.get_by_role("region", name="Loss").get_by_role("button", name="table").click()
    newest = page.get_by_role("region", name="Loss").locator("tbody tr").first.locator("td").first
    expect(newest).to_have_text("2")
    page.keyboard.press("2")
    expect(page.locator('[data-ratio="weight"]')).not_to_be_empty()
    page.keyboard.press("3")
    expect(page.get_by_role("heading", name="Step 2")).to_be_visible()
    site.close_pages()


def test_an_open_page_says_so_when_the_coordinator_begins_again_without_the_job(site: Watched) -> None:
    training = Training(site.up.address, "lost", torch.nn.Linear(6, 6), 6)
    training.advance(2)
    training.close()
    eventually(lambda: len(site.api_or_nothing("/jobs/lost/steps")) == 2, "its steps")
    page = site.open("job=lost")
    expect(page.locator(".badge")).to_have_text("running")
    (site.up.directory / "coordinator").rename(site.up.directory / "gone")
    os.kill(site.up.facts()["coordinator"]["pid"], signal.SIGKILL)
    eventually(lambda: site.api("/jobs/lost")["state"] == "not listed", "the list of the next one")
    expect(page.locator(".badge")).to_have_text("not listed")
    expect(page.locator('[data-fact="version"]')).to_have_text("2")
