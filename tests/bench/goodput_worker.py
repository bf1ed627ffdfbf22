"""A worker whose gradient takes a stated time and no processor, as on an accelerator.

python goodput_worker.py ADDRESS JOB_JSON COMPUTE_SECONDS
"""

from __future__ import annotations

import sys
import time

import numpy as np

import sheepfold
from sheepfold_wire.job import job_from_json

ROWS, COLUMNS = 200, 1024


def main(address: str, job_json: str, compute_seconds: str) -> None:
    values = {"wide": np.full((ROWS, COLUMNS), 0.001, np.float32)}
    job = job_from_json(job_json)
    with sheepfold.Client(job.name, values, address=address, config=job) as worker:
        while worker.lease() is not None:
            time.sleep(float(compute_seconds))
            worker.push(values)


if __name__ == "__main__":
    main(*sys.argv[1:])
