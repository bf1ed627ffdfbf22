"""What workers and shards measure arrives in the job's status and reports, over gRPC."""

from __future__ import annotations

import time

import pytest
import torch
from tests.integration.harness import running_fold, small_job, until

import sheepfold
from sheepfold_wire.codecs import Codec
from sheepfold_wire.control import Control


def test_traffic_and_times_of_a_worker_arrive_with_its_heartbeat() -> None:
    job = small_job("told", leases={"seconds": 1.0})
    torch.manual_seed(1)
    model = torch.nn.Linear(64, 10)
    slots, slept = 9, 0.01
    with running_fold(2) as fold, sheepfold.attach(model, address=fold.address, config=job) as run:
        control = Control(fold.address)
        for _, slot in zip(range(slots), run.slots(), strict=False):
            time.sleep(slept)
            slot.backward(model(torch.ones(slot.samples, 64)).square().mean())
            run.step()
        plan, up, down = run.worker.plan, run.worker.up, run.worker.down
        pushed = [slots * plan.part_bytes(shard, up) for shard in range(2)]
        initial = [plan.part_bytes(shard, Codec.FP32) for shard in range(2)]

        def told() -> bool:
            usage = control.status("told").workers[0].usage
            due = [sum(each) for each in zip(pushed, initial, strict=True)]
            return (
                usage is not None
                and usage.round_trip_seconds > 0
                and [traffic.bytes_up for traffic in usage.traffic] == due
            )

        until(told, "the heartbeat tells all that was pushed")
        worker = control.status("told").workers[0]
        assert worker.usage is not None
        assert worker.usage.slot_seconds >= slots * slept
        assert worker.usage.data_wait_seconds == 0.0
        for traffic in worker.usage.traffic:
            assert traffic.seconds_up > 0
            assert traffic.seconds_down > 0
            assert traffic.bytes_down % plan.part_bytes(traffic.shard, down) == 0
            assert traffic.way == "shared memory"
        assert f"torch {torch.__version__.partition('+')[0]}" in worker.versions
        shards = control.status("told").shards
        assert all(shard.memory_bytes > 10 << 20 for shard in shards)
        control.close()


@pytest.mark.parametrize("shards", [1, 2])
def test_slots_are_compared_with_their_mean_in_the_steps_that_the_job_says(shards: int) -> None:
    """The mean of |g_k| cos_k over equal slots is |G|: their mean projected onto itself."""
    job = small_job("compared", report={"cosines_every": 2}, wire={"up": "fp32"})
    torch.manual_seed(1)
    model = torch.nn.Linear(64, 10)
    with running_fold(shards) as fold, sheepfold.attach(model, address=fold.address, config=job) as run:
        for slot in run.slots():
            torch.manual_seed(int(slot.indices[0]))
            slot.backward(model(torch.randn(slot.samples, 64)).square().mean())
            run.step()
        with Control(fold.address) as control:
            reports = list(control.watch("compared", 1, lambda call: None))
    assert [report.slots[0].cosine is not None for report in reports] == [True, False, True, False]
    for report in reports[::2]:
        cosines = [slot.cosine for slot in report.slots]
        assert all(cosine is not None and -1.0 <= cosine < 1.0 for cosine in cosines)
        projected = [slot.gradient_norm * (slot.cosine or 0.0) for slot in report.slots]
        assert sum(projected) / len(projected) == pytest.approx(report.gradient_norm, rel=1e-6)
