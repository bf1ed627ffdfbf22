"""The dashboard's page in a real browser, beside a real run."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from tests.browser.training import LAYERS, ManyLayers, Training
from tests.browser.watched import Watched, watched
from tests.integration.test_cli_up import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
VIEWS = ("overview", "layers", "step", "workers", "shards", "job")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(scope="module")
def training(opened: Watched) -> Iterator[Training]:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6))
    found = Training(opened.up.address, "small", model, 6)
    found.advance(5)
    # Before the dashboard has looked, what a page asks about the job is not found, and the browser logs that.
    eventually(lambda: len(opened.api_or_nothing("/jobs/small/slices")) == 4, "the job on the dashboard")
    yield found
    found.close()


@pytest.fixture
def site(opened: Watched, training: Training) -> Iterator[Watched]:
    yield opened
    opened.close_pages()


def version_of(page: Page) -> int:
    text = page.locator('[data-fact="version"]').inner_text()
    return int(text.split(" of ")[0].replace(",", ""))


def shown_version(page: Page, version: int) -> None:
    """It comes by itself: nobody reloads."""
    expect(page.locator('[data-fact="version"]')).to_have_text(re.compile(rf"^{version} of "))


def as_number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_logs_an_error_or_asks_another_host(site: Watched, view: str, scheme: str) -> None:
    page = site.open(f"job=small&view={view}&slice=0.weight", color_scheme=scheme)
    page.wait_for_selector("section.card")
    page.wait_for_timeout(800)  # what would be asked for late is asked for now
    assert site.errors == []
    assert site.foreign == []


def test_values_on_the_screen_are_those_of_the_api(site: Watched) -> None:
    page = site.open("job=small")
    job = site.api("/jobs/small")
    shown_version(page, job["version"])
    steps = site.api("/jobs/small/steps?limit=1")
    assert as_number(page.locator('[data-fact="loss"]').inner_text()) == pytest.approx(
        steps[0]["loss"], rel=1e-3
    )
    page.keyboard.press("2")
    for row in site.api("/jobs/small/slices"):
        cell = page.locator(f'[data-ratio="{row["name"]}"]')
        assert as_number(cell.inner_text()) == pytest.approx(row["trust_ratio"], rel=1e-3)


def test_the_job_shows_its_tensors_and_which_shard_holds_them(site: Watched) -> None:
    page = site.open("job=small&view=job")
    card, found = page.get_by_role("region", name="Model"), site.api("/jobs/small/model")
    expect(card.get_by_role("heading")).to_contain_text(f"{found['parameters']:,} parameters")
    for tensor in found["tensors"]:
        expect(card.locator("tr", has_text=tensor["name"]).last).to_contain_text(tensor["dtype"])
    expect(card.locator("meter")).to_have_count(len(site.api("/jobs/small/shards")))


def test_new_steps_appear_without_a_reload_also_in_a_chart(site: Watched, training: Training) -> None:
    page = site.open("job=small")
    before = site.api("/jobs/small")["version"]
    shown_version(page, before)
    page.get_by_role("region", name="Loss").get_by_role("button", name="table").click()
    training.advance(3)
    shown_version(page, before + 3)
    newest = page.get_by_role("region", name="Loss").locator("tbody tr").first.locator("td").first
    expect(newest).to_have_text(str(before + 2))


def test_the_stream_goes_on_after_the_dashboard_was_killed(site: Watched, training: Training) -> None:
    page = site.open("job=small")
    before = site.api("/jobs/small")["version"]
    shown_version(page, before)
    old = site.up.facts()["dashboard"]["pid"]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: site.up.facts()["dashboard"]["pid"] != old, "another dashboard")
    eventually(lambda: site.up.get("/readyz"), "that answers")
    training.advance(2)
    shown_version(page, before + 2)
    assert len(site.api("/jobs/small/steps?limit=2000")) == before + 2  # what was known before is known still


def test_keys_do_what_the_list_of_keys_says(site: Watched) -> None:
    page = site.open("job=small")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_have_count(0)
    html = page.locator("html")
    expect(html).to_have_attribute("data-theme", "light")
    page.keyboard.press("t")
    expect(html).to_have_attribute("data-theme", "dark")
    follow, log = (page.get_by_role("button", name=name, exact=True) for name in ("follow", "log"))
    page.keyboard.press("f")
    page.keyboard.press("l")
    expect(follow).to_have_attribute("aria-pressed", "false")
    expect(log).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("/")
    expect(page.locator("#find")).to_be_focused()
    page.keyboard.type("l")  # a letter, while somebody types
    expect(page.locator("#find")).to_have_value("l")
    expect(log).to_have_attribute("aria-pressed", "true")


def test_exported_files_hold_the_numbers_of_the_chart(site: Watched, tmp_path: Path) -> None:
    page = site.open("job=small")
    chart = page.get_by_role("region", name="Loss")
    chart.locator("canvas").wait_for()
    files: dict[str, bytes] = {}
    for name in ("CSV", "JSON", "PNG"):
        with page.expect_download() as download:
            chart.get_by_text(name, exact=True).click()
        target = tmp_path / download.value.suggested_filename
        download.value.save_as(target)
        files[name] = target.read_bytes()
    due = site.api("/jobs/small/series?names=loss&points=800")
    rows = list(csv.DictReader(io.StringIO(files["CSV"].decode())))
    assert [int(row["step"]) for row in rows] == due["step"]
    assert [float(row["loss"]) for row in rows] == pytest.approx(due["series"]["loss"]["mean"])
    assert json.loads(files["JSON"])["series"]["loss"] == due["series"]["loss"]
    assert files["PNG"].startswith(b"\x89PNG")


def test_a_link_shows_another_person_the_same_view(site: Watched) -> None:
    page = site.open("job=small&range=1-3&smooth=0.9&log=1&axis=time&follow=0")
    expect(page.get_by_role("button", name="steps 1 – 3: show all")).to_be_visible()
    page.get_by_role("region", name="Loss").get_by_role("button", name="table").click()
    cells = page.get_by_role("region", name="Loss").locator("tbody tr td:first-child")
    expect(cells).to_have_text(["3", "2", "1"])
    page.keyboard.press("0")
    expect(page.get_by_role("button", name="all steps")).to_be_visible()
    expect(page).not_to_have_url(re.compile("range"))


def test_the_back_button_leads_to_the_view_before_and_not_off_the_page(site: Watched) -> None:
    page = site.open("job=small")
    page.keyboard.press("2")
    expect(page.get_by_role("region", name="Heat map")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("region", name="Progress")).to_be_visible()


def test_zooming_by_the_mouse_reads_that_range_and_keeps_it_while_steps_come(
    site: Watched, training: Training
) -> None:
    page = site.open("job=small")
    box = page.get_by_role("region", name="Loss").locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60, steps=6)
    page.mouse.up()
    zoomed = page.get_by_role("button", name=re.compile(r"^steps \d+ – \d+: show all$"))
    text = zoomed.inner_text()
    version = site.api("/jobs/small")["version"]
    training.advance(2)
    shown_version(page, version + 2)
    assert zoomed.inner_text() == text


@pytest.mark.parametrize("view", VIEWS)
def test_at_360_pixels_nothing_sticks_out(site: Watched, view: str, tmp_path: Path) -> None:
    page = site.open(f"job=small&view={view}", width=360)
    page.wait_for_selector("section.card")
    page.wait_for_timeout(500)
    page.screenshot(path=tmp_path / f"narrow-{view}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_job_that_is_not_there_is_said_once_and_the_others_are_offered(site: Watched) -> None:
    page = site.open("job=nobody&view=job")
    expect(page.locator("main")).to_contain_text("No job named nobody here.")
    assert page.locator("main section").count() == 1
    page.locator("main").get_by_role("button", name="small").click()
    expect(page.get_by_role("region", name="Configuration")).to_be_visible()


def test_a_job_that_stands_still_says_for_how_long_and_names_no_end(site: Watched) -> None:
    page = site.open("job=small")
    expect(page.locator(".waiting")).to_contain_text(re.compile(r"no progress for \d"))
    expect(page.locator('[data-fact="left"]')).to_have_text("–")


def test_an_unknown_slice_is_said_and_breaks_nothing(site: Watched) -> None:
    page = site.open("job=small&view=layers&slice=nowhere")
    expect(page.get_by_text("no slice 'nowhere' here").first).to_be_visible()
    expect(page.get_by_role("region", name="Slices", exact=True).locator("tbody tr")).to_have_count(4)


def test_four_hundred_slices_are_drawn_found_and_sorted(site: Watched, tmp_path: Path) -> None:
    torch.manual_seed(2)
    training = Training(site.up.address, "wide", ManyLayers(), 3)
    try:
        training.advance(3)
        eventually(lambda: len(site.api_or_nothing("/jobs/wide/slices")) == 2 * LAYERS, "its slices")
        page = site.open("job=wide&view=layers", color_scheme="dark")
        table = page.get_by_role("region", name="Slices", exact=True)
        expect(table.locator("tbody tr")).to_have_count(2 * LAYERS)
        page.locator(".heat canvas").wait_for()
        page.screenshot(path=tmp_path / "wide-dark.png")
        page.keyboard.press("/")
        page.keyboard.type("layers.77.")
        expect(table.locator("tbody tr")).to_have_count(2)
        page.locator("#find").fill("")
        table.get_by_role("button", name="ratio", exact=True).click()
        ratios = [as_number(text) for text in table.locator("[data-ratio]").all_inner_texts()]
        assert ratios == sorted(ratios, reverse=True)
        assert site.errors == []
    finally:
        training.close()
