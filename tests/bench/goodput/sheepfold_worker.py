"""A worker whose gradient takes a stated time and no processor, as on an accelerator.

python -m tests.bench.goodput.sheepfold_worker ADDRESS JOB_JSON COMPUTE_SECONDS

It imports torch, which it does not need, because a training script does: a restart pays for that.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from tests.bench.goodput.training import COLUMNS, GRADIENT, ROWS

import sheepfold
from sheepfold_wire.job import job_from_json


def main(address: str, job_json: str, compute_seconds: str) -> None:
    torch.set_num_threads(1)
    values = {"wide": np.full((ROWS, COLUMNS), GRADIENT, np.float32)}
    job = job_from_json(job_json)
    with sheepfold.Client(job.name, values, address=address, config=job) as worker:
        while worker.lease() is not None:
            time.sleep(float(compute_seconds))
            worker.push(values)


if __name__ == "__main__":
    main(*sys.argv[1:])
