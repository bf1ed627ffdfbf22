"""sheepfold.export: what is due, files that are whole or not there, and the moving average."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sheepfold.export.__main__ import parsed
from sheepfold.export.average import Average
from sheepfold.export.exporter import is_due
from sheepfold.export.files import INDEX, Exports, safetensors_file, torch_file

WEIGHTS = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(7, np.int64)}


@pytest.mark.parametrize(
    ("written", "version", "every", "is_over", "due"),
    [
        (-1, -1, 10, False, False),
        (-1, 9, 10, False, False),
        (-1, 10, 10, False, True),
        (10, 19, 10, False, False),
        (10, 23, 10, False, True),
        (23, 29, 10, False, False),
        (23, 30, 10, False, True),
        (-1, 500, 0, False, False),
        (-1, 7, 0, True, True),
        (30, 33, 10, True, True),
        (33, 33, 10, True, False),
    ],
)
def test_a_version_is_due_when_a_multiple_was_passed_or_at_the_end(
    written: int, version: int, every: int, is_over: bool, due: bool
) -> None:
    assert is_due(written, version, every, is_over) is due


# --- files -----------------------------------------------------------------------------------------------


def write(exports: Exports, version: int) -> Path:
    files = {"model.safetensors": safetensors_file(WEIGHTS, {"job": "j"}), "model.pt": torch_file(WEIGHTS)}
    return exports.write(version, {"job": "j"}, files)


def test_an_export_holds_the_weights_for_safetensors_and_for_torch(tmp_path: Path) -> None:
    path = write(Exports(tmp_path, "j"), 12)
    assert path.name == "version-00000012"
    loaded = load_file(path / "model.safetensors")
    state = torch.load(path / "model.pt", weights_only=True)
    for name, value in WEIGHTS.items():
        assert np.array_equal(loaded[name], value)
        assert np.array_equal(state[name].numpy(), value)


def test_the_index_names_the_digest_of_every_file(tmp_path: Path) -> None:
    path = write(Exports(tmp_path, "j"), 12)
    index = json.loads((path / INDEX).read_text())
    assert (index["job"], index["version"]) == ("j", 12)
    for name, digest in index["files"].items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest
    assert index["files"].keys() == {"model.safetensors", "model.pt"}


def test_what_breaks_off_leaves_no_export_and_is_cleared_away_at_the_next_start(tmp_path: Path) -> None:
    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(Exports(tmp_path, "j", rename=killed), 12)
    assert Exports(tmp_path, "j").versions() == []
    assert not list((tmp_path / "j").iterdir())
    assert write(Exports(tmp_path, "j"), 12).exists()


def test_an_export_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    exports = Exports(tmp_path, "j")
    before = os.stat(write(exports, 12) / INDEX).st_mtime_ns
    assert os.stat(write(exports, 12) / INDEX).st_mtime_ns == before


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    exports = Exports(tmp_path, "j")
    for version in (1, 2, 10, 11, 100):
        write(exports, version)
        exports.point("latest", version)
    exports.point("best", 2)
    exports.prune(keep=2)
    assert exports.versions() == [2, 11, 100]
    assert (exports.pointed("best"), exports.pointed("latest")) == (2, 100)


# --- the average -----------------------------------------------------------------------------------------


def weights_at(version: int) -> dict[str, Any]:
    draw = np.random.default_rng(version)
    values = draw.standard_normal(5).astype(np.float32)
    return {"w": values, "n": np.array(version, np.int64), "scalar": np.array(values[0])}


def test_over_every_version_it_is_the_recurrence() -> None:
    average, due = Average(0.9), weights_at(0)["w"].astype(np.float64)
    average.add(0, weights_at(0))
    for version in range(1, 30):
        average.add(version, weights_at(version))
        due = 0.9 * due + 0.1 * weights_at(version)["w"]
    assert np.array_equal(average.weights["w"], due.astype(np.float32))
    assert average.weights["n"] == 29
    assert average.weights["scalar"].shape == ()
    assert average.weights["scalar"] == average.weights["w"][0]


def test_a_version_stands_for_those_before_it_that_were_not_seen() -> None:
    skipping, repeating = Average(0.9), Average(0.9)
    for average in (skipping, repeating):
        average.add(0, weights_at(0))
    skipping.add(4, weights_at(4))
    for version in range(1, 5):
        repeating.add(version, weights_at(4))
    np.testing.assert_allclose(skipping.weights["w"], repeating.weights["w"], rtol=1e-6)


def test_a_version_that_is_not_newer_changes_nothing() -> None:
    average = Average(0.9)
    average.add(3, weights_at(3))
    average.add(3, weights_at(5))
    average.add(2, weights_at(2))
    assert np.array_equal(average.weights["w"], weights_at(3)["w"])


def test_an_average_goes_on_from_what_was_stored() -> None:
    whole, stored = Average(0.9), Average(0.9)
    for version in range(3):
        whole.add(version, weights_at(version))
        stored.add(version, weights_at(version))
    resumed = Average(0.9, stored.weights, stored.version)
    for average in (whole, resumed):
        average.add(3, weights_at(3))
    np.testing.assert_allclose(resumed.weights["w"], whole.weights["w"], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments", [["--every", "0"], ["--every", "x"], ["--keep", "-1"], ["--ema", "1"], ["--ema", "x"]]
)
def test_a_bad_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["--into", "x", *arguments])
    assert "give a number" in capsys.readouterr().err
