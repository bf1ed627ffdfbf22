"""Logging in by the page, in a real browser, beside a real run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from tests.browser.training import Training
from tests.browser.watched import Watched, watched
from tests.integration.test_cli_up import eventually

from sheepfold_server.core.permissions import Caller, Role
from sheepfold_server.shell.certificates import make_security
from sheepfold_server.shell.child import Child
from sheepfold_server.shell.security import read_signer
from sheepfold_server.shell.tokens import Grant, Signer, Use

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Guarded:
    """A dashboard with a login, beside the one of `up`."""

    base: str
    signer: Signer
    log: Path
    watched: Watched
    training: Training

    def token(self, job: str = "*") -> str:
        caller = Caller(Role.READER, job, "test")
        return self.signer.sign(Grant(caller, Use.JOIN, time.time() + 600.0))

    def open(self, path: str, **options: object) -> Page:
        page = self.watched._browser.new_page(viewport={"width": 1360, "height": 900}, **options)  # type: ignore[arg-type]
        page.set_default_timeout(20_000)
        page.goto(f"{self.base}{path}")
        return page


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("login")
    make_security(folder / "tls", ["127.0.0.1"])
    with watched(folder) as found:
        torch.manual_seed(1)
        training = Training(found.up.address, "small", torch.nn.Linear(6, 6), 6)
        training.advance(3)
        child = Child("dashboard", [], folder / "dashboard.log")
        keys = str(folder / "tls" / "token.pub")
        child.start(
            *("dashboard", "--coordinator", found.up.address, "--listen", "127.0.0.1:0"), "--token-keys", keys
        )
        address = eventually(lambda: child.has_announced() and child.address, "the dashboard serves")
        yield Guarded(f"http://{address}", read_signer(folder / "tls/token.key"), child.log, found, training)
        training.close()
        child.terminate()
        child.wait(8.0)


def log_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()


def test_page_is_seen_and_goes_on_by_itself_after_the_login_until_the_logout(guarded: Guarded) -> None:
    token = guarded.token()
    page = guarded.open("/#job=small&axis=time")
    expect(page).to_have_url(re.compile("/login#job=small&axis=time$"))
    log_in(page, token + "x")
    expect(page.get_by_role("alert")).to_contain_text("none of")
    log_in(page, token)
    expect(page).to_have_url(re.compile("/#job=small&axis=time$"))
    version = page.locator('[data-fact="version"]')
    expect(version).to_have_text(re.compile("^3 of "))
    guarded.training.advance(1)
    expect(version).to_have_text(re.compile("^4 of "))  # by the stream: nobody reloads
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="log out").click()
    expect(page).to_have_url(re.compile("/login"))
    page.goto(guarded.base)
    expect(page).to_have_url(re.compile("/login"))
    log = guarded.log.read_text()
    assert token not in log
    assert "sheepfold_session" not in log


def test_page_whose_session_is_over_goes_to_the_login_by_itself(guarded: Guarded) -> None:
    page = guarded.open("/login")
    log_in(page, guarded.token("small"))
    expect(page.locator('[data-fact="version"]')).to_be_visible()
    page.context.clear_cookies()
    expect(page).to_have_url(re.compile("/login(#|$)"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_login_page_breaks_no_policy(guarded: Guarded, scheme: str) -> None:
    page = guarded.watched._browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))  # hints of the browser too
    page.goto(f"{guarded.base}/login")
    expect(page.get_by_label("Token")).to_be_focused()
    assert errors == []
