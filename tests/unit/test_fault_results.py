"""tests/faults/RESULTS.md: as it was generated, and about tests that exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.faults.results import EVENTS, LEVELS, PAGE, Event, page, runs

TESTS = Path(__file__).parents[1]


def test_page_is_what_the_recorded_runs_give() -> None:
    assert PAGE.read_text("utf-8") == page(runs()), "python -m tests.faults.results"


@pytest.mark.parametrize("event", [event for event in EVENTS if event.test], ids=lambda event: event.event)
def test_event_is_shown_by_a_test_that_there_is(event: Event) -> None:
    file, _, function = event.test.partition("::")
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not function or function in names
    assert set(event.costs) <= set(LEVELS)


def test_red_run_stays_on_the_page_and_looks_red() -> None:
    kept = {
        "date": "2026-01-01",
        "commit": "abc",
        "is_changed": True,
        "command": "python -m tests.faults.chaos",
        "is_green": False,
        "bench": "chaos",
        "kills": 2,
        "runs": 1,
        "digest_mismatches": 1,
        "lost_steps": 0,
        "recovery_s": {"p50": 1.0, "p95": 2.0},
    }
    assert "| abc and changes | `python -m tests.faults.chaos` | **red** | 2 kills" in page([kept])
