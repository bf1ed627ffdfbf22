"""A worker program that takes a slot and computes it for ever. Arguments: address, job as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.integration.harness import SmallNet

import sheepfold
from sheepfold_wire.job import job_from_json


def main(address: str, job_json: str) -> None:
    with sheepfold.attach(SmallNet(), address=address, config=job_from_json(job_json)) as run:
        for slot in run.slots():
            print(f"leased {slot.lease.slot}", flush=True)
            sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
