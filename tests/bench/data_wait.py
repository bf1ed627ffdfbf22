"""How long a worker waits for data when loading one micro-batch costs as much time as a whole step.

    .venv/bin/python -m tests.bench.data_wait

Two workers in processes of their own, `run.batch_sampler` and 8 loader processes each. A slot of four
micro-batches "computes" by sleeping, so that the figure does not depend on the machine's cores; loading a
micro-batch sleeps for as long as the slot takes. The share is the wait over the time of all slots after the
first steps, which nobody could load ahead. Beside it: the same with `num_workers = 0`, where each micro-batch
is waited for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from tests.integration.harness import running_fold
from torch.utils.data import DataLoader, Dataset

import sheepfold
from sheepfold_wire.job import Job, job_from_json, parse_job

SAMPLES, MICRO_BATCH = 4_096, 8
STEPS_MEASURED_FROM = 3


class Slow(Dataset[Any]):
    """Loading a micro-batch takes `seconds`, whichever samples it has."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return SAMPLES

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        time.sleep(self.seconds)
        return [torch.full((4,), float(index)) for index in indices]


def work(address: str, job: Job, seconds: float, loaders: int) -> dict[str, float]:
    """One worker to the end of the job; its seconds of waiting and of slots."""
    torch.set_num_threads(1)
    model = torch.nn.Linear(4, 1)
    with sheepfold.attach(model, address=address, config=job, threads=1) as run:
        sampler: Any = run.batch_sampler(MICRO_BATCH)
        loader = DataLoader(Slow(seconds), batch_sampler=sampler, num_workers=loaders)
        began, waited = 0.0, 0.0
        for slot in run.slots(loader):
            if not began and slot.step is not None and slot.step >= STEPS_MEASURED_FROM:
                began, waited = time.perf_counter(), run.data_wait_seconds
            for batch in slot:
                slot.backward(model(batch).mean() * 0.0)
                time.sleep(seconds / 4)
            run.step()
        ended = time.perf_counter()
        return {
            "slots_seconds": ended - began,
            "wait_seconds": run.data_wait_seconds - waited,
            "dropped": float(sampler.dropped),
        }


def measure(steps: int, seconds: float, loaders: int) -> dict[str, Any]:
    job = parse_job(
        {
            "name": f"wait-{loaders}",
            "batch": {"samples": 8 * 4 * MICRO_BATCH, "slot_samples": 4 * MICRO_BATCH},
            "data": {"samples": SAMPLES},
            "optimizer": {"rule": "sgd", "lr": {"peak": 0.01}},
            "stop": {"steps": steps},
        }
    )
    with running_fold(1) as fold:
        command = [sys.executable, "-m", "tests.bench.data_wait", "--worker", fold.address, job.to_json()]
        command += ["--seconds", str(seconds), "--loaders", str(loaders)]
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        found = [json.loads(worker.communicate(timeout=600)[0]) for worker in workers]
    total = {key: sum(one[key] for one in found) for key in found[0]}
    return {
        "loaders": loaders,
        "wait_share": round(total["wait_seconds"] / total["slots_seconds"], 4),
        "dropped_micro_batches": int(total["dropped"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a slot, and of loading a micro-batch")
    parser.add_argument("--loaders", type=int, default=8)
    parser.add_argument("--worker", nargs=2, metavar=("ADDRESS", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        address, job = options.worker
        print(json.dumps(work(address, job_from_json(job), options.seconds, options.loaders)))
        return
    rows = [measure(options.steps, options.seconds, loaders) for loaders in (options.loaders, 0)]
    print(json.dumps({"bench": "data_wait", "slot_seconds": options.seconds, "rows": rows}))


if __name__ == "__main__":
    main()
