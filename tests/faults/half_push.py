"""A worker program that stops in the middle of a push until a line comes in, then sends the rest.

Arguments: coordinator address, job as JSON, and `shared` for a push through shared memory. Prints `half
sent`, then how the push ended.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.faults.raw import RawWorker

from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.frames import chunk_frames, push_header_frame, push_region_frame
from sheepfold_wire.job import job_from_json


def main(address: str, job_json: str, transport: str = "frames") -> None:
    worker = RawWorker(address, job_from_json(job_json), "half")
    init = worker.lease()
    assert init is not None
    worker.push(init)
    lease = worker.lease()
    assert lease is not None
    payload = worker.payload(lease, 0)

    def frames() -> Iterator[bytes]:
        chunks = list(chunk_frames(payload, 64 << 10))
        if transport == "shared":
            region = worker.region(0, len(payload))
            region.write(payload[: len(payload) // 2])
            chunks = [push_region_frame(region.number)]
        yield push_header_frame(worker.header(lease, 0, payload))
        yield from chunks[: len(chunks) // 2]
        print("half sent", flush=True)
        sys.stdin.readline()
        yield from chunks[len(chunks) // 2 :]

    try:
        worker.send(0, frames())
        print("ACCEPTED", flush=True)
    except SheepfoldError as error:
        print(error.reason, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
