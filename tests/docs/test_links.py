"""Links between documents of the repository lead to files, and to headings that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.docs.blocks import FENCED, ROOT

PLACES = ("client", "server", "protos", "deploy", "tests")
LEFT_OUT = {"node_modules", "site"}
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def documents() -> Iterator[Path]:
    yield from sorted(ROOT.glob("*.md"))
    for place in PLACES:
        for folder, folders, files in os.walk(ROOT / place):
            folders[:] = sorted(set(folders) - LEFT_OUT)
            yield from (Path(folder, name) for name in sorted(files) if name.endswith(".md"))


@cache
def prose(document: Path) -> str:
    return FENCED.sub("", document.read_text("utf-8"))


def anchors(document: Path) -> set[str]:
    """Of its headings, as they are made where repositories are read and in the guide."""
    titles = re.findall(r"^#+ (.+)", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def wrong(document: Path) -> Iterator[str]:
    for link in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: no such heading"


@pytest.mark.parametrize("document", list(documents()), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(document: Path) -> None:
    assert list(wrong(document)) == []


def test_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n[a](none.md) [b](#a-title) [c](#nothing) [d](https://127.0.0.1/)\n")
    assert list(wrong(page)) == ["none.md: no such file", "#nothing: no such heading"]
