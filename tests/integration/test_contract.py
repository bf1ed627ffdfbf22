"""What a training script may count on, over real gRPC: results, metrics, chores, freezing, sources."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.integration.harness import (
    SmallNet,
    running_fold,
    slot_loss,
    small_data,
    small_job,
    train,
    weights_of,
)
from typer.testing import CliRunner

import sheepfold
import sheepfold_wire.messages as m
from sheepfold.errors import Refused
from sheepfold_server.cli.app import app
from sheepfold_wire.control import Control

pytestmark = pytest.mark.slow


def compute(model: SmallNet, slot: Any) -> None:
    x, y = small_data()
    indices = torch.from_numpy(slot.indices.copy())
    slot.backward(slot_loss(model, x[indices], y[indices]))


# --- results and metrics ---------------------------------------------------------------------------------


def test_a_result_tells_in_time_whether_its_step_was_committed() -> None:
    model, results = SmallNet(), []
    with running_fold(2) as fold, sheepfold.attach(model, address=fold.address, config=small_job()) as run:
        for slot in run.slots():
            compute(model, slot)
            result = run.step()
            assert result.committed is None
            results.append(result)
        assert len(results) == 32
        assert all(result.counted and result.committed for result in results)


def test_a_lost_lease_is_no_exception_and_not_committed() -> None:
    model = SmallNet()
    with running_fold(1) as fold, sheepfold.attach(model, address=fold.address, config=small_job()) as run:
        slot = run.next_slot()
        assert slot is not None
        compute(model, slot)
        fold.fleet.call(m.ReleaseRequest("small", run.worker.name, (slot.lease.attempt,))).result()
        result = run.step()
        assert (result.counted, result.committed, result.version) == (False, False, 0)
        assert "ended" in result.why or "released" in result.why


def test_logged_numbers_are_averaged_and_shown_with_their_version() -> None:
    model = SmallNet()
    with running_fold(1) as fold, sheepfold.attach(model, address=fold.address, config=small_job()) as run:
        for slot in run.slots():
            compute(model, slot)
            run.log({"slot": float(slot.lease.slot), "tensor": torch.tensor(2.0), "nothing": float("nan")})
            run.step()
        with pytest.raises(Refused, match=r"call it before run\.step"):
            run.log({"late": 1.0})
        reports = list(fold.fleet.job("small").reports)
    assert [[(x.name, x.value) for x in report.metrics] for report in reports] == [
        [("slot", 3.5), ("tensor", 2.0)]
    ] * 4


# --- chores ----------------------------------------------------------------------------------------------


def test_a_chore_is_done_by_one_of_two_workers_and_handed_on_by_one_that_leaves() -> None:
    with running_fold(1) as fold:
        train(fold.address, small_job())
        first = sheepfold.attach(SmallNet(), address=fold.address, config=small_job())
        second = sheepfold.attach(SmallNet(), address=fold.address, config=small_job())
        assert [run.chore("eval", every=2) for run in (first, second)] == [True, False]
        first.close()
        assert second.chore("eval", every=2)
        assert not second.chore("eval", every=5)  # version 4: not due yet
        second.close()


# --- freezing --------------------------------------------------------------------------------------------


def test_a_frozen_parameter_stays_to_the_bit_and_the_others_train_on() -> None:
    with running_fold(2) as fold:
        job = small_job()

        def freeze(slot: Any) -> None:
            if (slot.step, slot.lease.slot) == (1, 0):
                with Control(fold.address) as control:
                    changes = json.dumps({"frozen": ["wide"]})
                    control.change(m.ConfigChangeRequest("once", "small", 2, changes, "test"))
            if (slot.step, slot.lease.slot) == (2, 0):
                before.update(weights_of(fold.address, "small"))

        before: dict[str, Any] = {}
        train(fold.address, job, freeze)
        after = weights_of(fold.address, "small")
    assert np.array_equal(before["wide"], after["wide"])
    assert not np.array_equal(before["out"], after["out"])


def test_freezing_by_command_is_listed_with_author_and_old_and_new() -> None:
    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["job", *arguments, "small", "--address", fold.address])
        return (result.stdout + result.stderr).replace("\n", " ").strip()

    def freeze(pattern: str, *more: str) -> str:
        return told("freeze", pattern, *more).removeprefix("job small: ")

    with running_fold(1) as fold, sheepfold.attach(SmallNet(), address=fold.address, config=small_job()):
        assert told("history") == "job small: nothing was changed since it was created"
        assert freeze("wi*", "--at-step", "2") == "frozen from step 2 on: wi*"
        assert freeze("out").endswith("a change from step 2 on is set already; give a step from 2 on")
        assert freeze("out", "--at-step", "2") == "frozen from step 2 on: wi*, out"
        assert "'nothing*' matches no parameter of 4" in freeze("nothing*", "--at-step", "3")
        assert freeze("wi*", "--thaw", "--at-step", "3") == "frozen from step 3 on: out"
        assert "'wi*' is not frozen; frozen are: out" in freeze("wi*", "--thaw")
        assert told("history").endswith(': frozen: ["wi*", "out"] -> ["out"]')


# --- where version 0 comes from --------------------------------------------------------------------------


def test_version_0_comes_from_a_file_under_other_names(tmp_path: Path) -> None:
    source = {f"old.{name}": torch.full_like(value, 0.25) for name, value in SmallNet().state_dict().items()}
    del source["old.bias"]
    save_file(source, tmp_path / "w0.safetensors")
    init = {"from": f"file:{tmp_path / 'w0.safetensors'}", "names": {"*": "old.*"}, "fresh": ["bias"]}
    with running_fold(2) as fold:
        run = sheepfold.attach(SmallNet(), address=fold.address, config=small_job(init=init))
        assert run.next_slot() is not None
        weights = weights_of(fold.address, "small")
        run.close()
    assert all((weights[name] == 0.25).all() for name in ("wide", "out", "scale"))
    assert (weights["bias"] == 0).all()


def test_version_0_comes_from_another_job_of_the_server() -> None:
    with running_fold(2) as fold:
        train(fold.address, small_job("before"))
        final = weights_of(fold.address, "before")
        for version in ("latest", "4"):
            job = small_job(f"tuned-{version}", init={"from": f"before@{version}"})
            run = sheepfold.attach(SmallNet(), address=fold.address, config=job)
            assert run.next_slot() is not None
            run.close()
            weights = weights_of(fold.address, job.name)
            assert all(np.array_equal(weights[name], final[name]) for name in final)
        gone = small_job("tuned-0", init={"from": "before@0"})
        run = sheepfold.attach(SmallNet(), address=fold.address, config=gone)
        with pytest.raises(Refused, match="version 0 is no longer served"):
            run.next_slot()
        run.close()


# --- places ----------------------------------------------------------------------------------------------


def test_a_model_that_is_attached_is_not_attached_again() -> None:
    model = SmallNet()
    with running_fold(1) as fold:
        run = sheepfold.attach(model, address=fold.address, config=small_job())
        with pytest.raises(Refused, match="attached to job small already, at version -1"):
            sheepfold.attach(model, address=fold.address, config=small_job())
        run.close()
        sheepfold.attach(model, address=fold.address, config=small_job()).close()


def test_running_a_notebooks_cell_again_attaches_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell that attaches is interrupted within a slot, and run again with a new model."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with running_fold(1) as fold:
        first = sheepfold.attach(SmallNet(), address=fold.address, config=small_job())
        slot = first.next_slot()
        assert slot is not None
        second = sheepfold.attach(SmallNet(), address=fold.address, config=small_job())
        assert first.is_closed
        again = second.next_slot()
        assert again is not None
        assert again.lease.slot == slot.lease.slot
        second.close()
        assert fold.fleet.status("small").workers == ()
