"""What the log costs a step: one mean gradient appended, beside the fold and the optimizer step.

    python -m tests.bench.log_append [--parameters 109000000] [--shards 2] [--rounds 9] [--dir DIR] [--fsync]

Appends and steps of one shard are interleaved. Files that are used again are still in the page cache, and
written at memory speed; fresh ones are several times slower. Both are told; the ratio is that of files used
again. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sheepfold_server.optim.kernel import EagerKernel
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_wire.codecs import Codec
from sheepfold_wire.job import parse_job
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import Plan

ROWS = 1024
RECORDS_PER_SEGMENT = 4
FRESH = 3 * RECORDS_PER_SEGMENT
"""Appends before the first file is used again, and some."""


def tensors_of(parameters: int) -> ShardTensors:
    """One shard of a model of square layers, loaded with noise."""
    layers = max(1, parameters // (ROWS * ROWS))
    manifest = Manifest(
        tuple(TensorSpec(f"layer{i}", (ROWS, ROWS), "float32", "parameter") for i in range(layers))
    )
    plan = Plan.of(manifest, 1)
    job = parse_job(
        {
            "name": "bench",
            "batch": {"samples": 1, "slot_samples": 1},
            "optimizer": {"lr": {"peak": 0.01}},
            "data": {"samples": 1},
            "stop": {"steps": 1},
        }
    )
    tensors = ShardTensors(plan, 0, job.optimizer, EagerKernel())
    draw = np.random.default_rng(1)
    tensors.load(draw.random(plan.part_bytes(0, 4) // 4, np.float32).data.cast("B"))
    return tensors


def measure(tensors: ShardTensors, log: RecordLog, part: memoryview, step: int) -> tuple[float, float]:
    """Seconds of (append, fold + finish + both passes)."""
    began = time.perf_counter()
    tensors.begin(step)
    tensors.fold(step, [(part, Codec.FP32, 1.0)])
    tensors.finish(step, 1.0)
    folded = time.perf_counter()
    log.append("mean", tensors.mean_pieces(step))
    appended = time.perf_counter()
    tensors.directions(step, 0.01)
    tensors.apply(step, 0.01)
    log.forget_before(log.next_sequence - RECORDS_PER_SEGMENT)
    return appended - folded, (folded - began) + (time.perf_counter() - appended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parameters", type=int, default=109_000_000)
    parser.add_argument("--shards", type=int, default=2, help="of which one is measured")
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--dir", type=Path, default=Path())
    parser.add_argument("--fsync", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tensors = tensors_of(given.parameters // given.shards)
    size = tensors.layout.plan.part_bytes(0, 4)
    part = np.random.default_rng(2).random(size // 4, np.float32).data.cast("B")
    with tempfile.TemporaryDirectory(dir=given.dir) as directory:
        log = RecordLog(Path(directory), "bench", RECORDS_PER_SEGMENT * (size + (1 << 20)), given.fsync)
        assert not list(log.read())
        measured = [measure(tensors, log, part, step) for step in range(FRESH + given.rounds)]
        log.close()
    fresh, found = measured[1:FRESH], measured[FRESH:]
    append, step = (statistics.median(column) for column in zip(*found, strict=True))
    print(
        json.dumps(
            {
                "bench": "log_append",
                "level": "wal_fsync" if given.fsync else "wal",
                "record_bytes": size,
                "append_fresh_s": round(statistics.median(a for a, _ in fresh), 4),
                "append_s": round(append, 4),
                "step_s": round(step, 4),
                "ratio": round(statistics.median((a + s) / s for a, s in found), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
