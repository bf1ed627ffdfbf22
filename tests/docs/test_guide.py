"""The user guide builds without a warning, loads nothing from elsewhere, and leaves no public name out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from tests.conftest import require
from tests.docs.blocks import GUIDE

import sheepfold
from sheepfold_wire import errors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
LOADING = {"audio", "embed", "iframe", "img", "input", "script", "source", "track", "video"}
LINKS_THAT_LOAD = {"icon", "manifest", "modulepreload", "preload", "prefetch", "preconnect", "stylesheet"}
# In styles: what a url() names, but for data that is there already.
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?(?!data:)([^"')\s]+)""")
CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.DOTALL)
ELSEWHERE = re.compile(r"(?:[a-z]+:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does, where nothing answers; a warning is an error (--strict)."""
    folder = tmp_path_factory.mktemp("guide") / "site"
    nobody = "http://127.0.0.1:9"  # the discard port: whatever asks a proxy there is refused at once
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", GUIDE / "mkdocs.yml", "-d", folder],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": nobody, "https_proxy": nobody},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser would fetch for a page, links that people click left out."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in LOADING:
            self.found += [given[name] for name in ("src", "srcset", "poster") if name in given]
        if tag == "link" and set(given.get("rel", "").split()) & LINKS_THAT_LOAD:
            self.found.append(given["href"])
        self.found += IN_STYLES.findall(given.get("style", ""))


def test_pages_and_styles_load_nothing_from_elsewhere(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    loaded = {page: Loaded(page).found for page in pages}
    loaded |= {style: IN_STYLES.findall(style.read_text("utf-8")) for style in styles}
    assert len(pages) > 15
    assert all(loaded[page] for page in pages if "404" not in page.name)
    foreign = {(file.name, url) for file, urls in loaded.items() for url in urls if ELSEWHERE.match(url)}
    assert foreign == set()


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_browser_asks_nobody_else_and_finds_what_is_searched(served: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        require("browser", "chromium is not installed; `apt-get install chromium`")
    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        for name in ("index", "api", "dashboard", "contract"):
            page.goto(f"{served}/{name}.html", wait_until="networkidle")
        page.get_by_role("textbox", name="Search").press_sequentially("staleness")
        page.locator(".md-search-result__link").first.wait_for()
        browser.close()
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
    assert said == []


def test_reference_has_every_public_name_and_every_error(site: Path) -> None:
    page = (site / "api.html").read_text("utf-8")
    shown = set(re.findall(r'id="([\w.]+)"', page))
    assert [name for name in sheepfold.__all__ if not {f"sheepfold.{name}", home(name)} & shown] == []
    tree = [found for found in vars(errors).values() if isinstance(found, type)]
    tree = [found for found in tree if issubclass(found, errors.SheepfoldError)]
    assert len(tree) > 20
    assert [found.__name__ for found in tree if f"sheepfold_wire.errors.{found.__name__}" not in shown] == []


def home(name: str) -> str:
    found = getattr(sheepfold, name)
    return f"{found.__module__}.{name}"


def test_lists_right_after_a_line_are_lists(site: Path) -> None:
    """Markdown on Python needs an empty line before them; documents are written for readers without it."""
    assert "<li><code>result.counted</code>" in (site / "contract.html").read_text("utf-8")
    prose = {page: CODE.sub("", page.read_text("utf-8")) for page in site.glob("*.html")}
    assert [
        page.name for page, text in prose.items() if re.search(r"^(?:<p>)?(?:[*-]|\d\.) ", text, re.M)
    ] == []


def test_every_page_has_its_place_and_every_picture_its_page() -> None:
    pages = "".join(path.read_text("utf-8") for path in (GUIDE / "pages").glob("*.md"))
    navigation = (GUIDE / "mkdocs.yml").read_text("utf-8")
    assert [
        path.name for path in (GUIDE / "pages").glob("*.md") if f": {path.name}\n" not in navigation
    ] == []
    assert [p.name for p in (GUIDE / "pages/pictures").iterdir() if f"pictures/{p.name})" not in pages] == []
