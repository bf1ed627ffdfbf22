"""Loaders that follow leases, over real gRPC: forked processes, dead workers, every sample once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, train, until
from torch.utils.data import DataLoader, TensorDataset

import sheepfold
from sheepfold_wire.control import Control
from sheepfold_wire.job import Job

PROGRAM = Path(__file__).with_name("loading_worker.py")
# Of a library that another test may have imported into this process; forking is what is tested here.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called")]
SAMPLES = 96


class Reports:
    """What became of the samples, by the server's reports and the workers' own records."""

    def __init__(self, fold: RunningFold, job: str) -> None:
        self.committed: set[tuple[int, int]] = set()
        for report in fold.fleet.job(job).reports:
            if not report.is_skip:
                self.committed.update((s.attempt.term, s.attempt.counter) for s in report.slots)
        self.computed: dict[tuple[int, int], list[int]] = {}

    def read(self, text: str) -> None:
        """Lines of `loading_worker.py`: the attempt and the samples that its loader handed over."""
        for line in text.splitlines():
            if line.startswith("{"):
                said = json.loads(line)
                self.computed[said["attempt"][0], said["attempt"][1]] = said["samples"]

    def count(self) -> Counter[int]:
        missing = self.committed - self.computed.keys()
        assert not missing, f"attempts that no worker told of are committed: {sorted(missing)}"
        return Counter(sample for key in self.committed for sample in self.computed[key])


def start(fold: RunningFold, job: Job) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), fold.address, job.to_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return out


def trained_with_a_death(fold: RunningFold, job: Job) -> list[str]:
    """What three workers printed; one of them is killed with a slot in hand."""
    workers = [start(fold, job) for _ in range(3)]
    try:
        until(lambda: fold.fleet.jobs() == ("small",) and fold.fleet.status("small").version >= 1, "a step")
        workers[0].kill()
        told = workers[0].communicate(timeout=30)[0]
        return [told, *(finished(process) for process in workers[1:])]
    finally:
        for process in workers:
            process.kill()
            process.communicate()


DATA: dict[str, dict[str, Any]] = {
    "indexed": {"samples": SAMPLES, "seed": 5},
    "shards": {"mode": "shards", "files": [{"name": str(i), "samples": 24} for i in range(4)]},
}


@pytest.mark.parametrize("mode", DATA)
def test_every_sample_of_an_epoch_is_committed_once_though_a_worker_dies(mode: str) -> None:
    """Two epochs of 96 samples in steps of 32; one of three workers is killed with a slot in hand."""
    job = small_job(data=DATA[mode], stop={"steps": 6}, leases={"seconds": 3.0})
    with running_fold(2) as fold:
        outputs = trained_with_a_death(fold, job)
        reports = Reports(fold, "small")
        for text in outputs:
            reports.read(text)
        assert reports.count() == Counter({sample: 2 for sample in range(SAMPLES)})
        assert fold.fleet.status("small").skipped_samples == ()


def test_every_contribution_of_free_loaders_counts_once_though_a_worker_dies() -> None:
    """What a free loader reads is its own affair; that each contribution is in one step, whole, is ours."""
    job = small_job(data={"mode": "free"}, stop={"steps": 6}, leases={"seconds": 3.0})
    with running_fold(2) as fold:
        outputs = trained_with_a_death(fold, job)
        reports = Reports(fold, "small")
        for text in outputs:
            reports.read(text)
        assert len(reports.committed) == 6 * 8
        assert sum(reports.count().values()) == 6 * 32 == fold.fleet.status("small").samples_committed


def test_a_loaders_slots_give_the_bits_of_indexing_by_hand() -> None:
    job = small_job()
    with running_fold(2) as fold:
        train(fold.address, job)
        golden = digest_of(fold.address, "small")
    with running_fold(2) as fold:
        finished(start(fold, job.model_copy(update={"data": job.data})))
        assert digest_of(fold.address, "small") == golden


def test_forked_loaders_live_beside_grpc_for_twenty_epochs() -> None:
    """Each epoch forks two processes anew, while channels of the parent are open and busy."""
    job = small_job(batch={"samples": 8, "slot_samples": 4}, stop={"steps": 40})
    model = torch.nn.Linear(3, 1)
    x = torch.randn(64, 3)
    with running_fold(1) as fold, sheepfold.attach(model, address=fold.address, config=job) as run:
        data_set = TensorDataset(x, x.sum(1, keepdim=True))
        slots: Iterator[Any] | None = None
        for _ in range(20):
            loader = DataLoader(data_set, batch_sampler=run.batch_sampler(2), num_workers=2)  # type: ignore[arg-type]
            slots = run.slots(loader)
            for slot in slots:
                for inputs, targets in slot:
                    slot.backward(((model(inputs) - targets) ** 2).mean())
                run.step()
                if run.step_number % 2 == 1 and slot.lease.slot == 1:
                    break
        while (rest := run.next_slot()) is not None:
            for inputs, targets in rest:
                rest.backward(((model(inputs) - targets) ** 2).mean())
            run.step()
        assert run.version == 40


def test_what_a_job_skips_is_listed_with_its_place_in_the_stream() -> None:
    job = small_job(leases={"attempts_max": 1})
    with running_fold(1) as fold:

        def spoil(slot: Any) -> None:
            if slot.step == 2 and slot.lease.slot == 3:
                for parameter in slot._parameters:
                    parameter.grad.fill_(float("nan"))

        train(fold.address, job, spoil)
        with Control(fold.address) as control:
            status = control.status("small")
        assert [(r.start, r.count) for r in status.skipped_samples] == [(64, 32)]
        assert (status.samples_committed, status.samples_skipped) == (96, 32)
