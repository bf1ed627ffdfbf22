"""Duplicates, late pushes and dead or sleeping workers leave the digest of the undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.faults.raw import RawWorker
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, until

from sheepfold_wire import errors
from sheepfold_wire.job import Job

SHARDS = 2
QUICK_LEASES: dict[str, Any] = {"seconds": 1.0}


def quick_job(**changes: Any) -> Job:
    """The small job with leases of one second."""
    return small_job("quick", **{"leases": QUICK_LEASES, **changes})


def finish(fold: RunningFold, job: Job) -> str:
    """One more worker does what is left; the digest at the end."""
    worker = RawWorker(fold.address, job, "finisher")
    worker.work()
    worker.close()
    status = fold.fleet.status(job.name)
    counts = status.counts
    assert status.samples_committed == job.stop.steps * job.batch.samples
    assert counts.committed == job.stop.steps * job.batch.samples // job.batch.slot_samples
    assert counts.leased == counts.committed + counts.dropped + counts.skipped + counts.outstanding
    return digest_of(fold.address, job.name)


@cache
def golden(slot_samples: int = 4) -> str:
    with running_fold(SHARDS) as fold:
        return finish(fold, quick_job(batch={"samples": 32, "slot_samples": slot_samples}))


def test_duplicate_push_is_answered_but_not_counted() -> None:
    with running_fold(SHARDS) as fold:
        worker = RawWorker(fold.address, quick_job())
        for _ in range(4):
            lease = worker.lease()
            assert lease is not None
            worker.push(lease)
            if not lease.is_init:
                assert worker.push_part(lease, 0).duplicate is True
                assert worker.push_part(lease, 1).duplicate is True
        assert finish(fold, worker.job) == golden()
        worker.close()


def test_duplicate_after_the_commit_is_still_answered() -> None:
    """The reply of a push was lost, and meanwhile its step was committed."""
    with running_fold(SHARDS) as fold:
        worker = RawWorker(fold.address, quick_job(batch={"samples": 32, "slot_samples": 32}))
        init = worker.lease()
        assert init is not None
        worker.push(init)
        lease = worker.lease()
        assert lease is not None
        worker.push(lease)
        until(lambda: fold.fleet.status("quick").version == 1, "version 1")
        assert worker.push_part(lease, 0).duplicate is True
        worker.close()


def test_same_attempt_with_other_bytes_is_a_conflict() -> None:
    with running_fold(SHARDS) as fold:
        worker = RawWorker(fold.address, quick_job())
        init = worker.lease()
        assert init is not None
        worker.push(init)
        lease = worker.lease()
        assert lease is not None
        worker.push_part(lease, 0)
        with pytest.raises(errors.ContributionConflict, match="one attempt is one contribution"):
            worker.push_part(lease, 0, payload_digest=bytes(16))
        worker.push_part(lease, 1)
        assert finish(fold, worker.job) == golden()
        worker.close()


def test_late_push_is_refused_and_its_slot_is_leased_again() -> None:
    with running_fold(SHARDS) as fold:
        worker = RawWorker(fold.address, quick_job(leases={"seconds": 2.0}))
        init = worker.lease()
        assert init is not None
        worker.push(init)
        lease = worker.lease()
        assert lease is not None
        worker.push_part(lease, 0)  # half of the contribution is staged
        until(lambda: fold.fleet.status("quick").counts.dropped == 1, "the lease expires")
        with pytest.raises((errors.LeaseEnded, errors.StepClosed), match="lease"):
            worker.push_part(lease, 1)
        assert finish(fold, quick_job(leases={"seconds": 2.0})) == golden()
        worker.close()


def test_one_worker_does_sixteen_slots_of_a_step() -> None:
    """K = 16: the same state as K = 16 by four workers."""
    job = quick_job(batch={"samples": 32, "slot_samples": 2})
    with running_fold(SHARDS) as fold:
        workers = [RawWorker(fold.address, job, f"w{i}") for i in range(4)]
        for _ in range(20):
            for worker in workers:
                lease = worker.lease(0.2)
                if lease is not None:
                    worker.push(lease)
        for worker in workers:
            worker.close()
        assert finish(fold, job) == golden(2)


# --- real processes -----------------------------------------------------------------------------------

PROGRAM = Path(__file__).with_name("half_push.py")


def start_half_push(fold: RunningFold, job: Job) -> subprocess.Popen[str]:
    """A worker process that stops in the middle of its second push, and says so."""
    command = [sys.executable, str(PROGRAM), fold.address, job.to_json()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half sent\n"
    return process


def test_worker_killed_in_the_middle_of_a_push_costs_nothing() -> None:
    with running_fold(SHARDS) as fold:
        with start_half_push(fold, quick_job()) as process:
            process.kill()
            assert process.wait(20) == -signal.SIGKILL
        assert finish(fold, quick_job()) == golden()
        assert fold.fleet.status("quick").counts.dropped >= 1


def test_worker_stopped_past_its_lease_cannot_count_twice() -> None:
    """It wakes up after its slot was computed by another and pushes the rest: refused, and it ends itself."""
    with running_fold(SHARDS) as fold:
        with start_half_push(fold, quick_job()) as process:
            process.send_signal(signal.SIGSTOP)
            digest = finish(fold, quick_job())
            process.send_signal(signal.SIGCONT)
            said, _ = process.communicate("go on\n", timeout=20)
        assert said.split()[0] in {"STEP_CLOSED", "LEASE_ENDED"}
        assert process.returncode == 0
        assert digest == golden()
        assert digest_of(fold.address, "quick") == golden()
