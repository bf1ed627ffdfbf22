"""A running `sheepfold up` and a real browser that looks at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright
from tests.conftest import require
from tests.integration.test_cli_up import Up, eventually

DEADLINE_MS = 20_000
expect.set_options(timeout=DEADLINE_MS)


class Watched:
    """What a test works with. `errors` and `foreign` collect what must not happen."""

    def __init__(self, up: Up, browser: Browser) -> None:
        self.up, self._browser = up, browser
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self._pages: list[Page] = []

    @property
    def base(self) -> str:
        return f"http://{self.up.facts()['dashboard']['address']}"

    def api(self, path: str) -> Any:
        response = self.up.get(f"/api/v1{path}")
        assert response is not None
        assert response.status_code == 200, response.text
        return response.json()

    def api_or_nothing(self, path: str) -> Any:
        """The same; an empty list for what is not there yet."""
        response = self.up.get(f"/api/v1{path}")
        return response.json() if response is not None and response.status_code == 200 else []

    def open(self, hash_: str, width: int = 1360, **options: Any) -> Page:
        """A new page with this view, in a profile of its own."""
        page = self._browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)
        page.goto(f"{self.base}/#{hash_}")
        page.wait_for_selector("main")
        self._pages.append(page)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.base, "blob:")):
            self.foreign.append(request.url)

    def close_pages(self) -> None:
        for page in self._pages:
            page.close()
        self._pages.clear()
        self.errors.clear()
        self.foreign.clear()


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Skips, or fails where it is required, without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        require("browser", "chromium is not installed; `apt-get install chromium`")
    up = Up(folder / "state")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            eventually(lambda: (up.get("/readyz") or up.get("/")) is not None, "the dashboard answers")
            yield Watched(up, browser)
            browser.close()
    finally:
        up.close()
