"""Workers in numbers, in a process of its own: threads with real sessions, and some that misbehave.

    python crowd.py ADDRESS JOB_JSON ROWS HONEST ROGUES SECONDS

Every honest thread takes slots as a worker does, and pushes what it always pushes. Every rogue one sends
whole parts of attempts that it never leased, one after the other. Prints how many pushes were tried, how many
counted, and what went wrong, as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

import sheepfold
import sheepfold_wire.messages as m
from sheepfold.transport.grpc import GrpcTransport
from sheepfold_wire.codecs import Codec
from sheepfold_wire.frames import payload_digest
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.job import Job, job_from_json
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import Plan

COLUMNS = 1024


class Crowd:
    """All threads of this process; `end` is when they stop."""

    def __init__(self, address: str, job: Job, rows: int) -> None:
        self.address, self.job = address, job
        self.values = {"wide": np.full((rows, COLUMNS), 0.001, np.float32)}
        self.is_over = threading.Event()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def work(self) -> None:
        try:
            with sheepfold.Client(
                self.job.name, self.values, address=self.address, config=self.job
            ) as worker:
                self.count("joined")
                while not self.is_over.is_set() and worker.lease() is not None:
                    self.count("tried")
                    self.count("counted" if worker.push(self.values) else "lost")
        except Exception as error:
            self.count(f"worker: {type(error).__name__}: {error}")

    def misbehave(self, number: int) -> None:
        transport = GrpcTransport(self.address)
        attached = transport.call(m.AttachRequest(self.job.name, f"rogue-{number}", "test", 1, ""))
        manifest = Manifest.from_json(attached.manifest_json)
        plan = Plan.of(manifest, len(attached.shards), self.job.placement.split_above_bytes)
        payload = bytes(plan.part_bytes(0, Codec(self.job.wire.up)))
        facts = m.Facts(1, 1.0, 0, b"\x01", 0.5)
        header = m.PushHeader(
            job=self.job.name,
            attempt=AttemptId(attached.term, 0),
            shard=0,
            incarnation=attached.shards[0].incarnation,
            term=attached.term,
            manifest_digest=manifest.digest,
            plan_digest=plan.digest,
            codec=self.job.wire.up,
            payload_bytes=len(payload),
            payload_digest=payload_digest(payload),
            facts=facts,
        )
        counter = 1_000_000 * (number + 1)
        while not self.is_over.is_set():
            counter += 1
            self.count("tried by rogues")
            try:
                never_leased = replace(header, attempt=AttemptId(attached.term, counter))
                transport.push(attached.shards[0], never_leased, payload)
                self.count("TAKEN from rogues")
            except Exception as error:
                self.count(getattr(error, "reason", type(error).__name__))
        transport.close()


def main(address: str, job_json: str, rows: str, honest: str, rogues: str, seconds: str) -> None:
    crowd = Crowd(address, job_from_json(job_json), int(rows))
    threads = [threading.Thread(target=crowd.work, daemon=True) for _ in range(int(honest))]
    threads += [threading.Thread(target=crowd.misbehave, args=(n,), daemon=True) for n in range(int(rogues))]
    with ExitStack() as stack:
        stack.callback(crowd.is_over.set)
        for thread in threads:
            thread.start()
        print("begun", flush=True)
        time.sleep(float(seconds))
    for thread in threads:
        thread.join(15.0)
    print(json.dumps(crowd.counts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
