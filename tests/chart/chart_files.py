"""What the chart holds that stands elsewhere: `make chart-files` renews it, and a test compares.

A chart may not reach outside of its folder, so it has copies of the monitoring's files; the table of its
README is made of the comments in values.yaml.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from tests.chart.rendering import CHART, ROOT

README = CHART / "README.md"
BEGIN, END = "<!-- values: made by `make chart-files` -->\n", "<!-- end of values -->\n"
COPIED = {
    CHART / "files" / name: ROOT / "deploy" / "monitoring" / name for name in ("rules.yaml", "grafana.json")
}
_KEY = re.compile(r"(?P<indent> *)(?P<name>[A-Za-z]+):")


class Undocumented(Exception):
    """A value without a comment of its own."""


def documented_values(text: str) -> Iterator[tuple[str, str]]:
    """(dotted name, meaning) of every value with a comment `# -- ...`, in order."""
    path: list[str] = []
    meaning: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            is_new = stripped.startswith("# -- ")
            if is_new or meaning:
                meaning.append(stripped.removeprefix("# -- ").removeprefix("# "))
            continue
        key = _KEY.match(line)
        if key is not None and len(key["indent"]) // 2 <= len(path):
            path = [*path[: len(key["indent"]) // 2], key["name"]]
            if meaning:
                yield ".".join(path), " ".join(meaning)
        meaning = []


def defaults(values: dict[str, Any], meanings: dict[str, str], place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, default) of every value that has a meaning of its own; raises Undocumented for others."""
    for name, value in values.items():
        path = f"{place}{name}"
        if path in meanings:
            yield path, value
        elif isinstance(value, dict) and any(each.startswith(f"{path}.") for each in meanings):
            yield from defaults(value, meanings, f"{path}.")
        else:
            raise Undocumented(f"{path}: write what it means above it in values.yaml, after `# -- `")


def table(text: str) -> str:
    meanings = dict(documented_values(text))
    rows = [
        f"| `{name}` | `{json.dumps(value)}` | {meanings[name]} |"
        for name, value in defaults(yaml.safe_load(text), meanings)
    ]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows, ""])


def readme() -> str:
    """As it should be."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table((CHART / "values.yaml").read_text()) + END + after


def main() -> None:
    for copy, source in COPIED.items():
        copy.write_text(source.read_text())
    README.write_text(readme())


if __name__ == "__main__":
    main()
