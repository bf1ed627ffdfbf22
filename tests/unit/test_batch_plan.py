"""sheepfold_server.core.batch"""

from __future__ import annotations

import random

import pytest
from tests.unit.desk import job_of

from sheepfold_server.core.batch import BatchPlan
from sheepfold_wire.messages import SampleRange

STAGES = (
    {"steps": 2},
    {"steps": 3, "samples": 32},
    {"steps": 1, "samples": 32, "slot_samples": 16},
)


def plan(*stages: dict[str, int]) -> BatchPlan:
    return BatchPlan(job_of(batch={"stage": stages}))


def test_without_stages_every_step_is_alike() -> None:
    found = plan()
    assert [(found.samples(t), found.slots(t), found.offset(t)) for t in (0, 1, 1000)] == [
        (16, 4, 0),
        (16, 4, 16),
        (16, 4, 16_000),
    ]


def test_stage_may_grow_the_batch_or_the_slot() -> None:
    found = plan(*STAGES)
    assert [(found.samples(t), found.slots(t)) for t in range(6)] == [
        (16, 4),
        (16, 4),
        (32, 8),
        (32, 8),
        (32, 8),
        (32, 2),
    ]


def test_last_stage_goes_on() -> None:
    found = plan(*STAGES)
    assert (found.samples(100), found.slot_samples(100)) == (32, 16)


def test_slots_of_all_steps_cover_the_stream_without_gap_or_overlap() -> None:
    found = plan(*STAGES)
    position = 0
    for step in range(9):
        for slot in range(found.slots(step)):
            assert found.slot_range(step, slot) == (position, found.slot_samples(step))
            position += found.slot_samples(step)
        assert found.offset(step + 1) == position


def starts(found: BatchPlan, steps: int) -> list[int]:
    return [found.slot_range(t, slot)[0] for t in range(steps) for slot in range(found.slots(t))]


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([(8, 4)], [0, 4, 12, 16, 20, 24, 28, 32]),
        ([(9, 4)], [0, 4, 13, 17, 21, 25, 29, 33]),
        ([(9, 1), (16, 6)], [0, 4, 10, 22, 26, 30, 34, 38]),
        ([(16, 6), (9, 1)], [0, 4, 10, 22, 26, 30, 34, 38]),
        ([(4, 4), (6, 4)], [0, 10, 14, 18, 22, 26, 30, 34]),
        ([(0, 3)], [3, 7, 11, 15, 19, 23, 27, 31]),
    ],
)
def test_slot_that_would_reach_into_a_gap_begins_behind_it(
    gaps: list[tuple[int, int]], expected: list[int]
) -> None:
    found = BatchPlan(job_of(), [SampleRange(*gap) for gap in gaps])
    assert starts(found, 2) == expected


@pytest.mark.parametrize("seed", range(50))
def test_no_slot_covers_a_gap_and_none_covers_a_sample_of_another(seed: int) -> None:
    draw = random.Random(f"gaps {seed}")
    gaps = [SampleRange(draw.randrange(100), draw.randrange(1, 30)) for _ in range(draw.randrange(4))]
    found = BatchPlan(job_of(batch={"stage": STAGES}), gaps)
    covered = [
        sample
        for t in range(8)
        for slot in range(found.slots(t))
        for sample in range(*_bounds(found.slot_range(t, slot)))
    ]
    forbidden = {s for gap in gaps for s in range(gap.start, gap.start + gap.count)}
    assert covered == sorted(set(covered))
    assert not forbidden.intersection(covered)
    wasted = set(range(covered[-1] + 1)).difference(covered, forbidden)
    assert len(wasted) <= len(gaps) * 15, "only the rest of the slot before each gap is lost"


def _bounds(place: tuple[int, int]) -> tuple[int, int]:
    return place[0], sum(place)
