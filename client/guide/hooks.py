"""MkDocs hooks: documents that stand elsewhere in the repository are pages, and linked files go along.

A page links to a file of the repository by its relative path, which works wherever the repository is read.
In the site that path leads to the page made from the file, or to a copy of it; a folder is its README, or no
link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
OWN = "client/guide/pages/"
PAGES = {
    "client/ADAPTING.md": "adapting.md",
    "client/CONTRACT.md": "contract.md",
    "deploy/README.md": "deploy.md",
    "deploy/monitoring/README.md": "monitoring.md",
    "SECURITY.md": "security.md",
    "server/DECISIONS.md": "decisions.md",
    "server/OPTIMIZERS.md": "settings.md",
}
"""Documents with a place in the navigation, by their path in the repository."""

SHOWN_AS_THEY_ARE = (".md", ".png", ".svg", ".txt")
"""A browser shows these; any other file it shows as text."""

FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LIST = re.compile(r"(?:\A\n|^(?!\s|[*-] |\d+\. ).+\n)(?=[*-] |\d+\. )", re.MULTILINE)
"""What stands right before a list: Markdown needs no empty line there, its Python implementation does."""
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


def place_of(path: str) -> str:
    """Where a file of the repository stands in the site, before Markdown becomes HTML."""
    if path.startswith(OWN):
        return path.removeprefix(OWN)
    shown = path if path.endswith(SHOWN_AS_THEY_ARE) else f"{path}.txt"
    return PAGES.get(path, f"repository/{shown}")


def target_of(path: str, link: str) -> str | None:
    """The file of the repository that a link of the document `path` means; None where it is no such link."""
    if re.match(r"[a-z]+:|#|/", link):
        return None
    found = os.path.normpath(os.path.join(os.path.dirname(path), link.partition("#")[0]))
    if (ROOT / found).is_dir() and (ROOT / found / "README.md").is_file():
        return os.path.join(found, "README.md")
    return found


def outside_of_code(text: str, change: Callable[[str], str]) -> str:
    """`text` with its prose changed, and its code blocks as they are."""
    parts, end = [], 0
    for block in FENCED.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def linked(path: str) -> set[str]:
    """Files of the repository that a document links to."""
    prose = FENCED.sub("", (ROOT / path).read_text("utf-8"))
    targets = (target_of(path, link) for _, link in LINK.findall(prose))
    return {target for target in targets if target is not None and (ROOT / target).is_file()}


def on_files(files: Files, config: Any) -> Files:
    """Bring the documents in, and everything that they link to."""
    due = [OWN + file.src_uri for file in files.documentation_pages()] + list(PAGES)
    known = {OWN + file.src_uri for file in files}
    while due:
        path = due.pop()
        if path not in known:
            known.add(path)
            level = InclusionLevel.INCLUDED if path in PAGES else InclusionLevel.NOT_IN_NAV
            source = str(ROOT / path)
            files.append(File.generated(config, place_of(path), abs_src_path=source, inclusion=level))
        if path.endswith(".md"):
            due += linked(path) - known
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository lead to their places in the site; lists begin after an empty line."""
    by_place = {place_of(path): path for path in PAGES}
    place = page.file.src_uri
    path = by_place.get(place, place.removeprefix("repository/") if "repository/" in place else OWN + place)

    def rewritten(link: re.Match[str]) -> str:
        target = target_of(path, link[2])
        if target is None:
            return link[0]
        if (ROOT / target).is_dir():
            return link[1].strip("[]")
        anchor = "#" + link[2].partition("#")[2] if "#" in link[2] else ""
        return f"{link[1]}({os.path.relpath(place_of(target), os.path.dirname(place))}{anchor})"

    return outside_of_code(markdown, lambda prose: LIST.sub("\\g<0>\n", LINK.sub(rewritten, prose)))
