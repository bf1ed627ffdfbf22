"""A running `sheepfold up`, a job that steps when it is told to, and a real browser that looks at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright
from tests.conftest import require
from tests.integration.test_cli_up import Up, eventually

import sheepfold
from sheepfold.run import Run

DEADLINE_MS = 20_000
LAYERS = 200


class ManyLayers(torch.nn.Module):
    """400 parameters of a few elements each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(LAYERS))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            values = values + 0.01 * layer(values)
        return values


class Training:
    """A worker of this process that computes a step when `advance` says so."""

    def __init__(self, address: str, job: str, model: torch.nn.Module, features: int) -> None:
        config = {
            "batch": {"samples": 16, "slot_samples": 8},
            "data": {"samples": 64},
            "optimizer": {"lr": {"peak": 0.02, "schedule": "poly", "warmup_steps": 2}},
            "stop": {"steps": 500},
        }
        self.model, self._features = model, features
        self.run: Run = sheepfold.attach(model, job, address=address, config=config)
        self._slots = self.run.slots()

    def advance(self, steps: int) -> None:
        """Compute so many steps."""
        for _ in range(2 * steps):
            slot = next(self._slots)
            torch.manual_seed(int(slot.indices[0]))
            inputs = torch.randn(slot.samples, self._features)
            loss = (self.model(inputs) - inputs.flip(1)[:, : self._features]).square().mean()
            slot.backward(loss)
            self.run.log({"error": loss.sqrt()})
            self.run.step()

    def close(self) -> None:
        self._slots.close()  # type: ignore[attr-defined]
        self.run.close()


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
