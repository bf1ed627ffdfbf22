"""The documents whose code is checked, and every fenced block in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "client" / "guide"
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "client" / "ADAPTING.md",
    ROOT / "client" / "CONTRACT.md",
    ROOT / "deploy" / "README.md",
    ROOT / "deploy" / "monitoring" / "README.md",
    *sorted((GUIDE / "pages").glob("*.md")),
)
FENCED = re.compile(r"^( *)(```+|~~~+)([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r'^--8<-- "([^":]+)(?::(\w+))?"\n', re.MULTILINE)
SECTION = r"<!-- --8<-- \[start:{0}\] -->\n(.*?)<!-- --8<-- \[end:{0}\] -->\n"


@dataclass(frozen=True)
class Block:
    """`kind` is what stands behind the fence, such as sh; `line` where, in its document."""

    document: Path
    line: int
    kind: str
    text: str

    @property
    def name(self) -> str:
        """For people and for pytest."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    """In order; with the text of the files that they include."""
    text = document.read_text("utf-8")
    return [
        Block(document, text.count("\n", 0, found.start()) + 1, found[3].strip(), expanded(found[4]))
        for found in FENCED.finditer(text)
    ]


def expanded(text: str) -> str:
    """With the files of the repository that it includes, as the guide's build puts them in."""
    return SNIPPET.sub(lambda found: included(found[1], found[2]), text)


def included(path: str, section: str | None) -> str:
    text = (ROOT / path).read_text("utf-8")
    if section is None:
        return text
    found = re.search(SECTION.format(section), text, re.DOTALL)
    assert found is not None, f"{path} has no section {section}"
    return found[1]


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def of_kind(kind: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind == kind]
