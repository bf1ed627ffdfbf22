"""sheepfold_server.core.batch"""

from __future__ import annotations

from tests.unit.desk import job_of

from sheepfold_server.core.batch import BatchPlan

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
