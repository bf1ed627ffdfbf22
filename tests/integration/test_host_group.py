"""Ranks of a process group as one worker of real servers, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.harness import (
    RunningFold,
    SmallNet,
    digest_of,
    running_fold,
    slot_loss,
    small_data,
    small_job,
    until,
)

import sheepfold
from sheepfold.exits import EXIT_NEVER_RETRY, EXIT_TRY_AGAIN
from sheepfold.model_tensors import manifest_of, tensors_of
from sheepfold_wire.codecs import Codec
from sheepfold_wire.job import Job
from sheepfold_wire.plan import Plan

RANK = "tests.integration.group_rank"
ROOT = Path(__file__).parents[2]
SECONDS = 90.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@contextmanager
def ranks(
    fold: RunningFold, job: Job, meeting: Path, kinds: tuple[str, ...] = ("small", "small")
) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each rank; none outlives the test."""
    with ExitStack() as stack:
        started = []
        for rank, kind in enumerate(kinds):
            arguments = [str(rank), str(len(kinds)), str(meeting), job.to_json(), kind]
            process = subprocess.Popen(
                [sys.executable, "-m", RANK, *arguments],
                cwd=ROOT,
                env={**os.environ, "SHEEPFOLD": fold.address, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
        yield started


def ended(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """What each rank saw."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        found.append(json.loads(out))
    return found


def version_of(fold: RunningFold, job: str) -> int:
    return fold.fleet.status(job).version if job in fold.fleet.jobs() else -1


def in_halves(fold: RunningFold, job: Job) -> str:
    """The digest of one worker that computes both halves of each slot."""
    model, (x, y) = SmallNet(), small_data()
    torch.set_num_threads(1)
    with sheepfold.attach(model, config=job, address=fold.address) as run:
        for slot in run.slots():
            for half in np.split(slot.indices, 2):
                indices = torch.from_numpy(half.copy())
                slot.backward(slot_loss(model, x[indices], y[indices]), weight=len(half))
            run.step()
    return digest_of(fold.address, job.name)


def test_two_ranks_have_the_bits_of_one_worker_with_two_micro_batches(tmp_path: Path) -> None:
    """And send one gradient: each pushes its own of three shards."""
    shards, (job, alone) = 3, (small_job(name, wire={"up": "bf16"}) for name in ("group", "alone"))
    with running_fold(shards) as fold:
        with ranks(fold, job, tmp_path / "meeting") as processes:
            first, second = ended(processes)
        assert digest_of(fold.address, "group") == in_halves(fold, alone)
    slots = job.stop.steps * job.batch.samples // job.batch.slot_samples
    assert first["counted"] == second["counted"] == slots
    assert first["workers"] == second["workers"] == 1
    assert first["samples"] == second["samples"] == slots * job.batch.slot_samples // 2
    assert first["weights"] == second["weights"]  # though they began with others
    manifest = manifest_of(tensors_of(SmallNet()))
    plan = Plan.of(manifest, shards, job.placement.split_above_bytes)
    sizes = [slots * plan.part_bytes(shard, Codec.BF16) for shard in range(shards)]
    init = [plan.part_bytes(shard, Codec.FP32) for shard in range(shards)]
    own = {shard: sizes[shard] if shard % 2 == 0 else 0 for shard in range(shards)}
    assert first["up"] == {str(shard): init[shard] + own[shard] for shard in range(shards)}
    assert second["up"] == {"1": sizes[1]}


def test_rank_that_is_killed_ends_the_group_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """Nothing is lost or counted twice: the digest is that of an undisturbed worker."""
    job = small_job("group", stop={"steps": 12})
    with running_fold(2) as fold:
        with ranks(fold, job, tmp_path / "first") as processes:
            until(lambda: version_of(fold, "group") >= 2, "it trains", SECONDS)
            processes[1].send_signal(signal.SIGKILL)
            _, err = processes[0].communicate(timeout=SECONDS)
        assert processes[0].returncode == EXIT_TRY_AGAIN, err
        assert "the process group is broken" in err
        assert "start all of them again" in err
        with ranks(fold, job, tmp_path / "second") as processes:
            ended(processes)
        assert digest_of(fold.address, "group") == in_halves(fold, small_job("alone", stop={"steps": 12}))


def test_model_that_differs_is_refused_on_all_ranks(tmp_path: Path) -> None:
    kinds = ("small", "wide")
    with running_fold(1) as fold, ranks(fold, small_job(), tmp_path / "meeting", kinds) as processes:
        for process in processes:
            _, err = process.communicate(timeout=SECONDS)
            assert process.returncode == EXIT_NEVER_RETRY, err
            assert "rank 1 has another model than the job" in err
