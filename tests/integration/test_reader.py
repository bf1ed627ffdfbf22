"""sheepfold.Reader over real gRPC: versions, pins and their budget, evaluations, models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.integration.harness import (
    RunningFold,
    SmallNet,
    running_fold,
    slot_loss,
    small_data,
    small_job,
    train,
)

import sheepfold
from sheepfold.errors import Refused
from sheepfold.reader import Reader, seconds_of

pytestmark = pytest.mark.slow


@pytest.fixture
def fold() -> Iterator[RunningFold]:
    with running_fold(2) as running:
        yield running


def advance(fold: RunningFold, run: sheepfold.Run, versions: int) -> None:
    x, y = small_data()
    model = run_models[run]
    for slot in run.slots():
        indices = torch.from_numpy(slot.indices.copy())
        slot.backward(slot_loss(model, x[indices], y[indices]))
        run.step()
        if fold.fleet.status("small").version >= versions:
            return


run_models: dict[sheepfold.Run, SmallNet] = {}


@pytest.fixture
def run(fold: RunningFold) -> Iterator[sheepfold.Run]:
    job = small_job(batch={"samples": 8, "slot_samples": 4}, stop={"steps": 40, "metric": "accuracy"})
    model = SmallNet()
    attached = sheepfold.attach(model, address=fold.address, config=job, threads=1)
    run_models[attached] = model
    advance(fold, attached, 3)
    yield attached
    attached.close()
    del run_models[attached]


def test_a_pinned_version_gives_the_same_bits_long_after_and_another_of_its_age_is_gone(
    fold: RunningFold, run: sheepfold.Run
) -> None:
    with Reader("small", address=fold.address) as reader, Reader("small", address=fold.address) as other:
        pinned = {name: value.copy() for name, value in reader.pull("latest", pin="10min").items()}
        version = reader.version
        advance(fold, run, version + 10)
        again = other.pull(version)
        assert other.version == version
        assert all(np.array_equal(again[name], pinned[name]) for name in pinned)
        with pytest.raises(Refused, match=rf"version {version + 1} is no longer served, {version}, "):
            other.pull(version + 1)
        reader.unpin()
        with pytest.raises(Refused, match=f"version {version} is no longer served"):
            other.pull(version)


def test_pins_keep_to_their_budget_and_end_with_their_reader(fold: RunningFold, run: sheepfold.Run) -> None:
    readers = [Reader("small", address=fold.address) for _ in range(3)]
    first = readers[0].pin(600)
    advance(fold, run, first + 1)
    second = readers[1].pin("1h")
    advance(fold, run, second + 1)
    with pytest.raises(Refused, match=rf"versions {first}, {second} are pinned.*pinned_versions = 2"):
        readers[2].pull(pin="1h")
    readers[0].close()
    assert readers[2].pull(pin="1h")
    for reader in readers:
        reader.close()


def test_evaluations_find_the_best_version(fold: RunningFold, run: sheepfold.Run) -> None:
    with Reader("small", address=fold.address) as reader:
        reader.pull()
        first = reader.evaluated({"accuracy": 0.5})
        assert (first.is_best, first.best_version) == (True, reader.version)
        advance(fold, run, reader.version + 2)
        reader.pull()
        assert not run.evaluated({"accuracy": 0.4, "loss": 1.0}, reader.version).is_best
        status = reader.status()
        assert (status.best_version, status.best_value) == (first.best_version, 0.5)
        with pytest.raises(Refused, match="'accuracy' is not among what was evaluated: loss"):
            reader.evaluated({"loss": 1.0})


def test_weights_go_into_a_model_and_into_no_other(fold: RunningFold, run: sheepfold.Run) -> None:
    model = SmallNet()
    with Reader("small", address=fold.address) as reader:
        weights = reader.pull()
        reader.load(model)
        assert all(np.array_equal(t.numpy(), weights[n]) for n, t in model.state_dict().items())
        reader.load(torch.compile(SmallNet(), backend="eager"))  # type: ignore[arg-type]
        with pytest.raises(Refused, match="lacks 3 tensors of job small: out, scale, wide"):
            reader.load(torch.nn.Linear(2, 2))
        model.bias = torch.nn.Parameter(torch.zeros(2))
        with pytest.raises(Refused, match=r"bias has shape \(2,\) in the model, \(1,\) in the job"):
            reader.load(model)


def test_a_reader_waits_for_a_version_and_reads_after_the_end(fold: RunningFold) -> None:
    train(fold.address, small_job())
    with Reader("small", address=fold.address) as reader:
        reader.wait(4)
        assert reader.version == 4
        with pytest.raises(Refused, match="has ended at version 4, before version 5"):
            reader.wait(5)
        with pytest.raises(Refused, match='give "latest" or the number'):
            reader.pull("newest")
        with pytest.raises(Refused, match="only the newest can"):
            reader.pull(3, pin="1h")


@pytest.mark.parametrize(
    ("time", "seconds"), [("30s", 30.0), ("10min", 600.0), ("2 h", 7200.0), ("1.5h", 5400.0), (7, 7.0)]
)
def test_times_are_read_with_their_units(time: str | float, seconds: float) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["10", "10m", "-1s", "", "1h30min", True])
def test_a_time_without_a_known_unit_is_refused(time: str) -> None:
    with pytest.raises(Refused, match='give "30s", "10min" or "2h"'):
        seconds_of(time)
