"""A worker that is told to stop, or killed: its slot is another's at once, long before its lease expires."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.harness import digest_of, running_fold, small_job, train, until

PROGRAM = Path(__file__).with_name("slow_worker.py")


def test_worker_told_to_stop_hands_its_lease_back_and_another_finishes() -> None:
    job = small_job(leases={"seconds": 1000.0})
    with running_fold(2) as fold:
        train(fold.address, job)
        golden = digest_of(fold.address, "small")
    with running_fold(2) as fold:
        command = [sys.executable, str(PROGRAM), fold.address, job.to_json()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "leased 0\n"
            worker.terminate()
            until(lambda: fold.fleet.status("small").counts.dropped == 1, "the lease is handed back")
            assert worker.wait(20) == 75
        assert fold.fleet.status("small").workers == ()
        train(fold.address, job)
        counts = fold.fleet.status("small").counts
        assert (counts.leased_again, counts.committed, counts.outstanding) == (1, 32, 0)
        assert digest_of(fold.address, "small") == golden


def test_slot_of_a_killed_worker_is_another_workers_at_once() -> None:
    """Its lease would last for twenty minutes, and its silence for an hour: its connection closes."""
    job = small_job(leases={"seconds": 1200.0})
    with running_fold(2) as fold:
        train(fold.address, job)
        golden = digest_of(fold.address, "small")
    with running_fold(2) as fold:
        command = [sys.executable, str(PROGRAM), fold.address, job.to_json()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "leased 0\n"
            worker.kill()
        until(lambda: fold.fleet.status("small").workers == (), "the dead worker is no longer counted")
        assert [drop.reason for drop in fold.fleet.status("small").drops] == ["worker gone"]
        train(fold.address, job)
        counts = fold.fleet.status("small").counts
        assert (counts.leased_again, counts.committed, counts.outstanding) == (1, 32, 0)
        assert digest_of(fold.address, "small") == golden
