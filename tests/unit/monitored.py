"""A job as the coordinator would show it, for tests of what displays it."""

from __future__ import annotations

from dataclasses import replace

import sheepfold_wire.messages as m

COUNTS = m.SlotCounts(leased=40, committed=32, leased_again=2, dropped=3, skipped=0, outstanding=5)

STATUS = m.JobStatus(
    job="lenet",
    state="running",
    why="",
    term=1,
    lineage="abc",
    version=4,
    stop_steps=300,
    open_step=4,
    slots_total=8,
    slots_admitted=3,
    waiting_for="slot 3 of step 4, leased to worker-a 0.4 s ago",
    steps_per_second=2.5,
    samples_per_second=2560.0,
    samples_committed=4096,
    samples_skipped=0,
    manifest_digest="",
    config_json="{}",
    counts=COUNTS,
    workers=(m.WorkerStatus("worker-a", "host-a", 4711, "cpu", 0.4, 32, 4096, 1),),
    shards=(
        m.ShardStatus(0, "127.0.0.1:1", 1, True, 4, "eager/cpu/torch-2", 40_000, 100),
        m.ShardStatus(1, "127.0.0.1:2", 2, False, 4, "eager/cpu/torch-2", 20_000, 100),
    ),
)

_SLOT = m.SlotReport(
    slot=0, worker="worker-a", samples=128, weight=128.0, attempts=1, base_version=0, loss=2.0
)


def step_report(step: int, ratio: float = 1.0, *, is_skip: bool = False) -> m.StepReport:
    """Report of a step of two slots and two slices; the second slice's ratio is twice the first one's."""
    slices = (
        m.SliceFacts(0, "conv1.weight", 2.0, 1.0, 0.5, ratio),
        m.SliceFacts(1, "conv1.bias", 0.0, 0.1, 0.2, ratio * 2, "ratio"),
    )
    return m.StepReport(
        job="lenet",
        step=step,
        version=step + 1,
        is_skip=is_skip,
        skip_reason="a gradient was not finite" if is_skip else "",
        learning_rate=0.01,
        clip_scale=1.0,
        gradient_norm=3.0,
        samples=256,
        weight=256.0,
        wait_seconds=0.2,
        prepare_seconds=0.01,
        apply_seconds=0.02,
        slices=() if is_skip else slices,
        slots=(_SLOT, replace(_SLOT, slot=1)),
        counts=COUNTS,
        bytes_in=1000,
        bytes_out=500,
        loss=1.5,
        lineage="abc",
    )
