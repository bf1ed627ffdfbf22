"""tests/bench/RESULTS.md: as it was generated, with its plots, and red numbers shown as they are."""

from __future__ import annotations

import re

from tests.bench.results import NAMES, PAGE, kept, page

ROW = {"rate": "1gbit", "workers": 2, "median_s": 0.4, "p95_s": 0.5, "ideal_s": 0.3, "cpu_s": 0.2}
ORIGIN = {
    "date": "2026-01-01",
    "commit": "abc",
    "is_changed": True,
    "machine": "2 cores",
    "command": "python",
}


def test_page_is_what_the_kept_runs_give() -> None:
    runs = {name: run for name in NAMES if (run := kept(name)) is not None}
    assert PAGE.read_text("utf-8") == page(runs), "python -m tests.bench.results"


def test_plots_that_the_page_shows_are_there() -> None:
    for path in re.findall(r"\]\((plots/[^)]+)\)", PAGE.read_text("utf-8")):
        assert (PAGE.parent / path).is_file()


def test_where_all_reduce_wins_is_told_first_and_changes_of_the_tree_are() -> None:
    rows = [
        {**ROW, "system": "allreduce_ours", "shards": 0, "delay": 0, "faster": 1.0},
        {**ROW, "system": "sheepfold", "shards": 1, "delay": 0, "faster": 0.31},
        {**ROW, "system": "sheepfold", "shards": 2, "delay": 1, "faster": 1.02},
    ]
    text = page({"links": {**ORIGIN, "model": "toy", "rows": rows}})
    assert "From 0.31 times all-reduce's speed (1 Gb/s, 2 workers, sheepfold, 1 shard) to 1.02" in text
    assert text.index("All-reduce wins") < text.index("| 1 Gb/s | 2 |")
    assert "at commit abc, with changes, 2 cores." in text
