"""What the log costs a step: a mean gradient written behind the pass that makes it, and after that pass.

    python -m tests.bench.log_append [--parameters 109000000] [--shards 2] [--rounds 13] [--dir DIR] [--fsync]

Steps of one shard of both kinds and without a log take turns, and a bare write of the same bytes into cached
pages, which no log through the page cache can beat. Files that are used again are still in that cache and
written at memory speed; fresh ones are many times slower, and told apart. Medians of seconds and of paired
ratios. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sheepfold_server.optim.kernel import EagerKernel
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell.shard_log import PayloadAhead
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_wire.codecs import Buffer, Codec
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
    tensors.load(draw.random(plan.part_bytes(0, Codec.FP32) // 4, np.float32).data.cast("B"))
    return tensors


def measure(
    tensors: ShardTensors, log: RecordLog | None, part: memoryview, step: int, writer: Executor | None = None
) -> float:
    """Seconds of a step: fold, finish, both passes; with a log its record, behind the pass with a writer."""
    began, mean = time.perf_counter(), list[Buffer]()
    tensors.begin(step)
    tensors.fold(step, [(part, Codec.FP32, 1.0)])
    ahead = PayloadAhead(log, writer, len(part)) if log is not None and writer is not None else None
    tensors.finish(step, 1.0, mean.append if ahead is None else ahead.take)
    if log is not None:
        log.append("mean", mean if ahead is None else ahead.pieces, ahead and ahead.written())
    tensors.directions(step, 0.01)
    tensors.apply(step, 0.01)
    took = time.perf_counter() - began
    if log is not None:
        log.forget_before(log.next_sequence - RECORDS_PER_SEGMENT)
    return took


def bare_write(path: Path, part: memoryview) -> float:
    """Seconds; the pages of the file are cached from the second call on."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    began = time.perf_counter()
    os.pwrite(fd, part, 0)
    took = time.perf_counter() - began
    os.close(fd)
    return took


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
    size = tensors.layout.plan.part_bytes(0, Codec.FP32)
    part = np.random.default_rng(2).random(size // 4, np.float32).data.cast("B")
    with tempfile.TemporaryDirectory(dir=given.dir) as directory:
        log = RecordLog(Path(directory), "bench", RECORDS_PER_SEGMENT * (size + (1 << 20)), given.fsync)
        assert not list(log.read())
        bare_write(Path(directory) / "bare", part)
        rows = []
        with ThreadPoolExecutor(1) as writer:
            fresh = [measure(tensors, log, part, step) for step in range(FRESH)]
            for round_ in range(given.rounds):
                step = FRESH + 3 * round_
                alone = measure(tensors, None, part, step)
                first, second = (writer, None) if round_ % 2 else (None, writer)
                logged = {
                    way: measure(tensors, log, part, step + 1 + i, way)
                    for i, way in enumerate((first, second))
                }
                after, behind = logged[None], logged[writer]
                rows.append((alone, after, behind, bare_write(Path(directory) / "bare", part)))
        log.close()
    alone, after, behind, bare = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        json.dumps(
            {
                "bench": "log_append",
                "level": "wal_fsync" if given.fsync else "wal",
                "record_bytes": size,
                "step_with_fresh_files_s": round(statistics.median(fresh[1:]), 4),
                "step_without_log_s": round(alone, 4),
                "step_written_after_s": round(after, 4),
                "step_written_behind_s": round(behind, 4),
                "bare_write_s": round(bare, 4),
                "ratio_after": round(statistics.median(a / s for s, a, _, _ in rows), 3),
                "ratio_behind": round(statistics.median(b / s for s, _, b, _ in rows), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
