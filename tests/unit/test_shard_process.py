"""The jobs of a shard process: opened beside its link, which may break meanwhile."""

from __future__ import annotations

import queue
import threading

import sheepfold_wire.messages as m
from sheepfold_server.shell.shard_process import ShardConfig, ShardProcess
from sheepfold_wire.job import parse_job
from sheepfold_wire.manifest import Manifest, TensorSpec

MANIFEST = Manifest((TensorSpec("w", (4, 4), "float32", "parameter"),))
JOB = parse_job(
    {
        "name": "j",
        "batch": {"samples": 4, "slot_samples": 4},
        "data": {"samples": 100},
        "optimizer": {"lr": {"peak": 0.1, "schedule": "constant"}},
        "stop": {"steps": 1},
    }
)


def opening(term: int) -> m.OpenJob:
    return m.OpenJob("j", "lineage", term, 1, MANIFEST.to_json(), JOB.to_json())


def test_opening_that_a_broken_link_asked_for_is_not_answered() -> None:
    """Answered after that of the next link, it would drop parts of leases that were given out since."""
    said: queue.SimpleQueue[m.ShardReport] = queue.SimpleQueue()
    process = ShardProcess(ShardConfig(0, 1), said.put, lambda why: None)
    is_free = threading.Event()
    process._kernel.submit(is_free.wait)  # the first opener waits for it, the others for the first
    try:
        for term in (1, 1, 2):
            process.command(opening(term))
        is_free.set()
        for opener in process._openers:
            opener.join()
        opened = [said.get_nowait()]
        while not said.empty():
            opened.append(said.get_nowait())
    finally:
        is_free.set()
        process.close()
    assert [report.term for report in opened if isinstance(report, m.JobOpened)] == [2]
