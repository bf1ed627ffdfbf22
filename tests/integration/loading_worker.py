"""A worker that loads through run.slots(loader) and tells which samples it was handed.

Arguments: address, job as JSON. One JSON line per slot comes before its push: what counts was told.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from tests.integration.harness import SmallNet, slot_loss, small_data
from torch.utils.data import DataLoader, Dataset

import sheepfold
from sheepfold_wire.job import job_from_json


class Numbers(Dataset[Any]):
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> int:
        return index


def read_file(name: str) -> Iterator[int]:
    return iter(range(24 * int(name), 24 * int(name) + 24))


def main(address: str, job_json: str) -> None:
    job = job_from_json(job_json)
    x, y = small_data()
    model = SmallNet()
    with sheepfold.attach(model, address=address, config=job, threads=1) as run:
        loader: Any
        if job.data.mode == "shards":
            loader = sheepfold.SequentialFiles(read_file, micro_batch=4, collate=torch.tensor)
        elif job.data.mode == "free":
            loader = DataLoader(Numbers(96), batch_size=4)
        else:
            sampler: Any = run.batch_sampler(micro_batch=4)
            loader = DataLoader(Numbers(job.data.samples), batch_sampler=sampler, num_workers=1)
        for slot in run.slots(loader):
            samples: list[int] = []
            for batch in slot:
                samples += batch.tolist()
                chosen = batch % len(x)
                slot.backward(slot_loss(model, x[chosen], y[chosen]), weight=len(batch))
            print(json.dumps({"attempt": list(slot.lease.attempt), "samples": samples}), flush=True)
            run.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
