"""tests/bench/RESULTS.md: as it was generated, with its plots, and red numbers shown as they are."""

from __future__ import annotations

import re

from tests.bench.results import NAMES, PAGE, _portable, kept, page

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


GOODPUT = {
    **ORIGIN,
    "step_s": 1.0,
    "rounds": 2,
    "torchft": None,
    "import_s": {"1": 1.5, "4": 4.0},
    "load": {"least": 0.5, "most": 2.0},
}


def goodput_row(system: str, saves: str, calm: float, goodput: float) -> dict[str, object]:
    return {
        "system": system,
        "workers": 4,
        "spare": 0,
        "saves": saves,
        "mtbf_steps": 10.0,
        "steps_per_s": goodput * calm,
        "steps_per_s_calm": calm,
        "goodput": goodput,
        "kills": 6,
        "lost_steps": 3.0,
        "recovery_s": {"p50": 1.2, "p95": None},
    }


def test_goodput_tells_who_is_faster_while_nobody_dies_and_that_a_peer_was_not_there() -> None:
    rows = [goodput_row("sheepfold", "wal", 0.9, 0.95), goodput_row("torchrun", "every 10", 1.0, 0.3)]
    text = " ".join(page({"goodput": {**GOODPUT, "rows": rows}}).split())
    assert "keep of their own speed: sheepfold 95 %, torchrun, saves every 10 steps 30 %." in text
    assert "in steps a second: torchrun, saves every 10 steps 1.00, sheepfold 0.90." in text
    assert "torchft: not measured here" in text
    assert "| torchrun, saves every 10 steps | 1.00 | 0.30 | 0.30 | 6 | 3.0 | 1.2 s | - |" in text


def test_goodput_tells_the_version_and_the_timeouts_of_torchft() -> None:
    patience = {"join": 10.0, "heartbeat": 1.0, "collective": 1.5}
    run = {**GOODPUT, "torchft": "0.2.0 2.13.0+cpu", "torchft_patience_s": patience}
    rows = [goodput_row("torchft", "nothing", 1.0, 0.7)]
    text = " ".join(page({"goodput": {**run, "rows": rows}}).split())
    assert "torchft 0.2.0 on torch 2.13.0+cpu" in text
    assert "1.5 s for a collective (default 60" in text


def test_paths_of_a_machine_are_not_kept() -> None:
    assert _portable("/somewhere/bin/python") == "python"
    assert _portable("--torchft") == "--torchft"
