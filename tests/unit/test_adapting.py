"""client/ADAPTING.md: counts as in its diffs, job files that are job files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sheepfold_wire.job import parse_job

PAGE = Path(__file__).parents[2] / "client" / "ADAPTING.md"
TEXT = PAGE.read_text()
SECTIONS = [part for part in TEXT.split("\n## ") if "```diff" in part]


def block(section: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)\n```", section, flags=re.S)
    assert found is not None, f"no {language} in {section[:40]}"
    return found[1]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_lines_added_and_removed_are_counted_right(section: str) -> None:
    lines = [line for line in block(section, "diff").splitlines() if not line.startswith(("---", "+++"))]
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    assert f"\n{added} lines added, {removed} removed." in section
    assert f"| {added} | {removed} |" in TEXT
    before, after = 0, 0
    for old, new in re.findall(r"^@@ -\d+,(\d+) \+\d+,(\d+) @@$", "\n".join(lines), flags=re.M):
        before, after = before + int(old), after + int(new)
    kept = sum(not line.startswith(("+", "-", "@@")) for line in lines)
    assert (kept + removed, kept + added) == (before, after)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_every_job_file_is_one(section: str) -> None:
    job = parse_job(tomllib.loads(block(section, "toml")))
    assert f'job="{job.name}"' in block(section, "diff")


def test_there_are_three_scripts() -> None:
    assert len(SECTIONS) == 3
