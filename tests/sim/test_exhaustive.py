"""A slice of the exhaustive runs: each fault of a message and each crash alone, with one worker."""

from __future__ import annotations

import pytest
from tests.sim.ablations import ABLATIONS
from tests.sim.exhaustive import OF_MESSAGES, each
from tests.sim.invariants import Violation


@pytest.mark.parametrize(
    ("kind", "least"), [*((kind, 10) for kind in OF_MESSAGES), ("crash", 100)], ids=(*OF_MESSAGES, "crash")
)
def test_every_single_fault_is_survived(kind: str, least: int) -> None:
    assert sum(1 for _ in each(kind, workers=1)) >= least


def test_some_single_crash_shows_that_decisions_must_be_noted() -> None:
    cores, due = ABLATIONS["decisions acted on without a note"]
    with pytest.raises(Violation, match="1 workers, crash:") as found:
        list(each("crash", 1, cores=cores))
    assert found.value.name in due
