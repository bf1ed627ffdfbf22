"""Modes of a job, end to end: delay, staleness, asynchronous, statistics, absent tensors, skips, changes."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from tests.faults.raw import RawWorker
from tests.integration.harness import (
    SmallNet,
    digest_of,
    running_fold,
    slot_loss,
    small_data,
    small_job,
    train,
    train_with,
    until,
    weights_of,
)
from torch import nn

import sheepfold
import sheepfold_wire.messages as m
from sheepfold.transport.grpc import GrpcTransport
from sheepfold_server.shell.encoded import EncodedVersions
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import InvalidError, LeaseEnded, NonFinite, StepClosed, VersionGone
from sheepfold_wire.job import Job
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import Plan

BATCH = {"samples": 32, "slot_samples": 4}


def status(fold: Any, job: Job) -> m.JobStatus:
    return fold.fleet.status(job.name)


def test_delay_of_one_gives_the_same_bits_for_any_number_of_workers_and_shards() -> None:
    """Step t is computed at exactly version max(0, t - 1), so two steps are open at once."""
    job = small_job(batch={**BATCH, "delay": 1})
    digests = set()
    for shards, workers in ((1, 1), (2, 3), (3, 2)):
        with running_fold(shards) as fold:
            train_with(fold.address, job, workers)
            bases = {(s.base_version, r.step) for r in fold.fleet.job("small").reports for s in r.slots}
            assert bases == {(max(0, step - 1), step) for step in range(4)}
            digests.add(digest_of(fold.address, "small"))
    assert len(digests) == 1


def test_bounded_staleness_reports_the_version_each_slot_was_computed_at() -> None:
    job = small_job(batch={**BATCH, "max_staleness": 2}, stop={"steps": 6})
    with running_fold(2) as fold:
        train_with(fold.address, job, workers=3)
        assert status(fold, job).version == 6
        for report in fold.fleet.job("small").reports:
            assert all(report.step - 2 <= slot.base_version <= report.step for slot in report.slots)


def test_asynchronous_job_makes_every_contribution_a_step() -> None:
    job = small_job(batch={"samples": 4, "slot_samples": 4, "max_staleness": "unbounded"}, stop={"steps": 30})
    with running_fold(2) as fold:
        train_with(fold.address, job, workers=3)
        counts = status(fold, job).counts
        assert status(fold, job).version == 30
        assert counts.committed == 30
        assert [r.step for r in fold.fleet.job("small").reports] == list(range(30))


class WithStatistics(nn.Module):
    """BatchNorm has two float buffers and an integer one; one parameter is frozen, one never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first = nn.Linear(420, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 1)
        self.unused = nn.Parameter(torch.full((3,), 0.25))
        self.frozen = nn.Parameter(torch.full((2,), 7.0), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x))).squeeze(1)  # type: ignore[no-any-return]


def train_with_statistics(address: str, job: Job) -> WithStatistics:
    torch.set_num_threads(1)
    model, (x, y) = WithStatistics(), small_data()
    with sheepfold.attach(model, job=job.name, address=address, config=job) as run:
        for slot in run.slots():
            indices = torch.from_numpy(np.array(slot.indices))
            slot.backward(((model(x[indices]) - y[indices]) ** 2).mean())
            run.step()
    return model


def test_statistics_are_averaged_unused_tensors_stay_and_frozen_ones_are_not_sent() -> None:
    job = small_job(statistics={"policy": "mean"})
    digests = set()
    for shards in (1, 3):
        with running_fold(shards) as fold:
            model = train_with_statistics(fold.address, job)
            found = weights_of(fold.address, "small")
            digests.add(digest_of(fold.address, "small"))
    assert len(digests) == 1
    assert "frozen" not in found
    np.testing.assert_array_equal(found["unused"], np.full(3, 0.25, np.float32))
    # Each slot counts one batch from the number it pulled: a step raises the maximum by one.
    assert found["norm.num_batches_tracked"] == 4
    assert 0.1 < float(found["norm.running_var"].mean()) < 10
    np.testing.assert_array_equal(model.norm.running_var.numpy(), found["norm.running_var"])


def test_model_in_bf16_trains_against_fp32_state() -> None:
    """Weights come down in the worker's own dtype; the master stays fp32 on the shards."""
    job = small_job()
    with running_fold(2) as fold:
        model, (x, y) = SmallNet().bfloat16(), small_data()
        with sheepfold.attach(model, job="small", address=fold.address, config=job) as run:
            for slot in run.slots():
                indices = torch.from_numpy(np.array(slot.indices))
                slot.backward(slot_loss(model, x[indices].bfloat16(), y[indices].bfloat16()))
                run.step()
        found = weights_of(fold.address, "small")
    assert model.wide.dtype is torch.bfloat16
    assert torch.equal(model.wide.detach(), torch.from_numpy(found["wide"]).bfloat16())


@pytest.mark.parametrize("up", ["bf16", "int8"])
def test_slot_that_is_refused_three_times_skips_its_step_on_all_shards(up: str) -> None:
    """Step 0 keeps giving NaN in slot 0: its version advances, weights, moments and counters stay."""
    job = small_job(stop={"steps": 1}, optimizer={"lr": {"peak": 0.02}}, wire={"up": up})
    with running_fold(2) as fold:
        worker = RawWorker(fold.address, job)
        init = worker.lease()
        assert init is not None
        worker.push(init)
        until(lambda: status(fold, job).version == 0, "version 0")
        before = digest_of(fold.address, "small")
        while (lease := worker.lease(1.0)) is not None:
            values = worker.values(lease)
            values[0][0, 0] = np.nan
            for shard in range(2):
                with suppress(NonFinite, LeaseEnded, StepClosed):  # by whichever shard holds the element
                    worker.push_values(lease, shard, values)
        assert status(fold, job).version == 1
        report = fold.fleet.job("small").reports[-1]
        assert report.is_skip
        assert "was refused 3 times" in report.skip_reason
        assert "tensor wide" in report.skip_reason
        assert ("1024 non-finite" if up == "int8" else ": 1 non-finite") in report.skip_reason
        assert digest_of(fold.address, "small") == before
        assert status(fold, job).samples_skipped == 32
        worker.close()


def test_learning_rate_changes_from_the_stated_step_on() -> None:
    """Live keys change by ConfigChange; what was in force at each step is in its report."""
    job = small_job(optimizer={"lr": {"peak": 0.02}})
    with running_fold(1) as fold:
        fold.fleet.create(m.CreateJobRequest("", job.to_json())).result(5)
        change = m.ConfigChangeRequest("c1", "small", 2, json.dumps({"optimizer.lr.peak": 0.5}), "test")
        assert fold.fleet.call(change).result(5) == m.ConfigChangeReply(2)
        model, (x, y) = SmallNet(), small_data()
        with sheepfold.attach(model, job="small", address=fold.address) as run:
            for slot in run.slots():
                indices = torch.from_numpy(np.array(slot.indices))
                slot.backward(slot_loss(model, x[indices], y[indices]))
                run.step()
        rates = [report.learning_rate for report in fold.fleet.job("small").reports]
    assert rates == [0.02, 0.02, 0.5, 0.5]


def test_two_jobs_on_one_fold_do_not_touch_each_other() -> None:
    with running_fold(2) as fold:
        train(fold.address, small_job("alone"))
        alone = digest_of(fold.address, "alone")
    with running_fold(2) as fold:
        train_with(fold.address, small_job("alone"), 2)
        train_with(fold.address, small_job("other", seed=12, data={"samples": 64, "seed": 9}), 2)
        assert digest_of(fold.address, "alone") == alone
        assert digest_of(fold.address, "other") != alone


@pytest.mark.parametrize(("up", "parts"), [("bf16", 2), ("int8", 4)])
def test_window_of_a_few_parts_trains_to_the_same_bits(up: str, parts: int) -> None:
    """Room for so many parts in the job's codec: leases wait, nothing deadlocks, nothing changes."""
    job = small_job(wire={"up": up})
    with running_fold(2) as fold:
        train(fold.address, job)
        golden = digest_of(fold.address, "small")
    with running_fold(2, staging_bytes=600_000) as fold:
        train_with(fold.address, job, workers=3)
        assert min(s.part_slots for s in fold.fleet.status("small").shards) == parts
        assert digest_of(fold.address, "small") == golden


def test_staging_budget_below_two_parts_is_refused_with_numbers() -> None:
    with running_fold(2, staging_bytes=400_000) as fold:
        fold.fleet.create(m.CreateJobRequest("", small_job().to_json())).result(5)
        with pytest.raises(sheepfold.Refused, match="staging budget of shard"):
            train(fold.address, small_job())


class Broken(Exception):
    """Stands for Ctrl-C or a lost server in the middle of a push."""


def test_push_that_is_broken_off_is_never_offered_again_with_other_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """step() fails after one shard has the part; calling it again must neither count nor tear the step."""
    with running_fold(2) as fold:
        model, (x, y) = SmallNet(), small_data()
        transport = GrpcTransport(fold.address)
        push, broken_once = transport.push, iter([True])

        def breaks(address: m.ShardAddress, header: m.PushHeader, payload: Any, brought: Any) -> m.PushReply:
            if address.shard == 1 and header.facts.samples and next(broken_once, False):
                raise Broken
            return push(address, header, payload)

        monkeypatch.setattr(transport, "push", breaks)
        with sheepfold.attach(model, job="small", address=transport, config=small_job()) as run:
            for slot in run.slots():
                indices = torch.from_numpy(np.array(slot.indices))
                for half in indices.split(2):
                    slot.backward(slot_loss(model, x[half], y[half]), weight=len(half))
                try:
                    run.step()
                except Exception as error:
                    assert "Broken" in repr(error)  # noqa: PT017
                    with pytest.raises(sheepfold.Refused, match="no slot is leased"):
                        run.step()
        assert fold.fleet.status("small").counts.dropped == 1
        disturbed = digest_of(fold.address, "small")
    with running_fold(1) as fold:
        train_in_halves(fold.address)
        assert digest_of(fold.address, "small") == disturbed


def train_in_halves(address: str) -> None:
    model, (x, y) = SmallNet(), small_data()
    with sheepfold.attach(model, job="small", address=address, config=small_job()) as run:
        for slot in run.slots():
            for half in torch.from_numpy(np.array(slot.indices)).split(2):
                slot.backward(slot_loss(model, x[half], y[half]), weight=len(half))
            run.step()


def test_slot_without_a_token_is_counted_as_nothing() -> None:
    """Its weight is next to nothing, so the step is the mean over the others."""
    job = small_job(batch={**BATCH, "weight": "tokens"}, stop={"steps": 1}, optimizer={"lr": {"peak": 0.02}})
    with running_fold(2) as fold:
        model, (x, y) = SmallNet(), small_data()
        with sheepfold.attach(model, job="small", address=fold.address, config=job) as run:
            for number, slot in enumerate(run.slots()):
                indices = torch.from_numpy(np.array(slot.indices))
                tokens = 0 if number == 3 else len(indices)
                slot.backward(slot_loss(model, x[indices], y[indices]) * (tokens > 0), weight=tokens)
                assert run.step().counted
        report = fold.fleet.job("small").reports[-1]
        assert (report.is_skip, status(fold, job).counts.dropped) == (False, 0)
        assert report.weight == pytest.approx(28.0)


def test_codec_asked_for_late_is_served_at_an_older_version_too() -> None:
    """Everyone pulled fp32 so far; fp16 of the version before the newest is its fp32 copy, rounded."""
    job = small_job(batch={**BATCH, "delay": 1})
    with running_fold(2) as fold:
        train(fold.address, job)
        reader = GrpcTransport(fold.address)
        attached = reader.call(m.AttachRequest("small", "late", "test", 1, "", is_reader=True))
        manifest = Manifest.from_json(attached.manifest_json)
        plan = Plan.of(manifest, 2, job.placement.split_above_bytes)
        for shard in attached.shards:
            target = (shard.shard, shard.incarnation, manifest.digest, plan.digest)
            pulled = {
                codec: reader.pull(shard, m.PullRequest("small", *target, codec, 3, 5.0))
                for codec in ("fp32", "fp16")
            }
            exact = np.frombuffer(pulled["fp32"][1], np.float32)
            np.testing.assert_array_equal(
                np.frombuffer(pulled["fp16"][1], np.float16), exact.astype(np.float16)
            )
            assert pulled["fp16"][0] == 3
            for unknown in ("int8", "int4", ""):
                with pytest.raises(InvalidError, match=f"'{unknown}': weights come down as fp32, bf16, fp16"):
                    reader.pull(shard, m.PullRequest("small", *target, unknown, 3, 5.0))
        reader.close()


def test_newest_version_asked_for_while_the_next_is_made_is_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pull in a codec, of weights that are being written over: one version, and no refusal."""
    asked: list[Any] = []
    overwrite = EncodedVersions.overwrite

    def pull_meanwhile(copies: EncodedVersions, newest: int) -> None:
        if newest == 2 and not asked:
            asked.append(fold.shards[0].process.actor("small").pull(None, Codec.FP16)[1])
            asked.append(fold.shards[0].process.actor("small").pull(2, Codec.BF16)[1])
            copies.retire(3, frozenset())  # as where nobody pulls fp32
        overwrite(copies, newest)

    monkeypatch.setattr(EncodedVersions, "overwrite", pull_meanwhile)
    with running_fold(1) as fold:
        train(fold.address, small_job())
        newest, named = asked
        assert newest.result(5).version == 3
        with pytest.raises(VersionGone, match="version 2 was not asked for in bf16 before version 3"):
            named.result(5)


def test_job_that_cannot_be_opened_is_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a model does not fit into a shard's memory."""
    from sheepfold_server.shell import opened_job

    def too_large(*arguments: Any) -> None:
        raise MemoryError

    with running_fold(2) as fold:
        with monkeypatch.context() as patch:
            patch.setattr(opened_job, "ShardTensors", too_large)
            with pytest.raises(sheepfold.Refused, match=r"cannot be opened here \(MemoryError\)"):
                train(fold.address, small_job("large"))
        train(fold.address, small_job())
        assert status(fold, small_job()).version == 4
