"""What the ranks of a host group make of a lease, and of what they found."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from tests.integration.harness import small_job

import sheepfold_wire.messages as m
from sheepfold import host_group
from sheepfold.host_group import (
    GroupWorker,
    combined,
    facts_from,
    facts_text,
    lease_from,
    lease_text,
    share_of,
)
from sheepfold.rounds import Share
from sheepfold_wire.ids import AttemptId

FILES = (m.FileRange("a.tar", 90, 10), m.FileRange("b.tar", 0, 30), m.FileRange("c.tar", 0, 20))


def lease(**changes: Any) -> m.Lease:
    given: dict[str, Any] = {"sample_start": 120, "sample_count": 60, "files": FILES, "step": 2, "slot": 1}
    return m.Lease(AttemptId(1, 7), False, 2, seed=99, lease_seconds=30.0, **{**given, **changes})


def facts(weight: float, loss: float | None = None, present: bytes = b"\x01", **metrics: float) -> m.Facts:
    told = tuple(m.Metric(name, value) for name, value in metrics.items())
    return m.Facts(4, weight, 3, present, loss, told)


def worker_of(ranks: int, digest: str = "the model", **batch: Any) -> GroupWorker:
    """One that is attached, as far as a fit asks."""
    worker = GroupWorker.__new__(GroupWorker)
    worker.job = small_job(batch={"samples": 48, "slot_samples": 12, **batch})
    worker.manifest = SimpleNamespace(digest="the model")  # type: ignore[assignment]
    worker.ranks = SimpleNamespace(share=Share(1, ranks), leads=False)  # type: ignore[assignment]
    return worker


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_of_all_ranks_are_the_slot(count: int) -> None:
    shares = [share_of(lease(), Share(rank, count)) for rank in range(count)]
    samples = [
        s for share in shares for s in range(share.sample_start, share.sample_start + share.sample_count)
    ]
    assert samples == list(range(120, 180))
    read = [
        (file.file, n)
        for share in shares
        for file in share.files
        for n in range(file.first, file.first + file.count)
    ]
    assert read == [(file.file, n) for file in FILES for n in range(file.first, file.first + file.count)]
    assert [sum(file.count for file in share.files) for share in shares] == [60 // count] * count


def test_ranks_draw_different_noise_and_the_first_draws_the_slots_own() -> None:
    seeds = [share_of(lease(), Share(rank, 4)).seed for rank in range(4)]
    assert seeds[0] == 99
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_next_slot_is_guessed_where_the_whole_one_ends() -> None:
    """A loader that reads ahead counts from the beginning of its own share."""
    assert share_of(lease(), Share(1, 2)).stride == 60
    assert share_of(lease(stride=600), Share(1, 2)).stride == 600


def test_facts_are_of_the_mean_over_all_ranks() -> None:
    whole = combined([facts(1.0, 2.0, b"\x01", acc=0.5), facts(3.0, 4.0, b"\x04", acc=0.9, only=7.0)])
    assert (whole.samples, whole.weight, whole.base_version, whole.present) == (8, 4.0, 3, b"\x05")
    assert whole.loss == 3.5
    assert {metric.name: metric.value for metric in whole.metrics} == {"acc": pytest.approx(0.8), "only": 7.0}


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_loss_that_one_rank_does_not_have_is_left_out(loss: float | None) -> None:
    assert combined([facts(1.0, 2.0), facts(1.0, loss)]).loss is None


def test_lease_and_facts_are_told_without_loss() -> None:
    given = facts(1 / 3, 0.1, b"\x07", acc=0.25)
    assert facts_from(facts_text(given)) == given
    assert lease_from(lease_text(lease(loss_scale=8.0, sequence=128))) == lease(loss_scale=8.0, sequence=128)


def test_loader_sees_slots_as_large_as_a_ranks_share() -> None:
    worker = worker_of(3, stage=({"steps": 2, "slot_samples": 6, "samples": 48},))
    own = worker.own_job.batch
    assert own.slot_samples == 4
    assert [stage.slot_samples for stage in own.stage] == [2]
    assert worker.job.batch.slot_samples == 12


@pytest.mark.parametrize(
    ("worker", "digest", "why"),
    [
        (worker_of(5), "the model", "slots of 12 samples cannot be divided among 5 ranks"),
        (worker_of(2, stage=({"steps": 1, "slot_samples": 3},)), "the model", "slots of 3 samples"),
        (worker_of(2), "another", "rank 1 has another model than the job"),
        (worker_of(2), "the model", ""),
    ],
)
def test_what_does_not_fit_is_named(worker: GroupWorker, digest: str, why: str) -> None:
    found = host_group._misfit(worker, digest)
    assert found.startswith(why)
    assert bool(found) == bool(why)
