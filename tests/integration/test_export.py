"""`sheepfold export` beside a running job: real processes, files that load, the best and the last version."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.integration.harness import SmallNet, running_fold, slot_loss, small_data, small_job, weights_of

import sheepfold
from sheepfold.export.exporter import ExportConfig, Exporter
from sheepfold.reader import Reader

pytestmark = pytest.mark.slow


def test_the_command_follows_a_job_to_its_end_and_its_files_load(tmp_path: Path) -> None:
    job = small_job(stop={"steps": 12})
    x, y = small_data()
    with running_fold(2) as fold:
        model = SmallNet()
        run = sheepfold.attach(model, address=fold.address, config=job, threads=1)
        command = [sys.executable, "-m", "sheepfold_server", "export", "small", "--into", str(tmp_path)]
        command += ["--address", fold.address, "--every", "4", "--torch", "--ema", "0.9", "--keep", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for slot in run.slots():
                indices = torch.from_numpy(slot.indices.copy())
                slot.backward(slot_loss(model, x[indices], y[indices]))
                run.step()
                if (slot.step, slot.lease.slot) == (5, 7):
                    first = process.stdout.readline()  # training goes on when an export is there
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
        assert first.split()[1] in ("4", "5", "6")
        run.close()
        final = weights_of(fold.address, "small")
    last = tmp_path / "small" / "version-00000012"
    assert out.splitlines()[-1] == f"version 12 of job small: {last}"
    assert (tmp_path / "small" / "latest").read_text() == "version-00000012\n"
    assert len(list((tmp_path / "small").glob("version-*"))) == 2
    loaded = load_file(last / "model.safetensors")
    assert all(np.array_equal(loaded[name], final[name]) for name in final)
    fresh = SmallNet()
    fresh.load_state_dict(torch.load(last / "model.pt", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))
    average = load_file(last / "ema.safetensors")
    assert not np.array_equal(average["wide"], final["wide"])
    assert json.loads((last / "export.json").read_text())["job"] == "small"


def test_the_best_version_is_written_though_newer_ones_came(tmp_path: Path) -> None:
    job = small_job(stop={"steps": 4, "metric": "accuracy"})
    x, y = small_data()
    said: list[str] = []
    with running_fold(1) as fold:
        model = SmallNet()
        run = sheepfold.attach(model, address=fold.address, config=job, threads=1)
        with (
            Reader("small", address=fold.address) as evaluator,
            Reader("small", address=fold.address) as reader,
        ):
            exporter: Exporter | None = None
            for slot in run.slots():
                if exporter is None:
                    exporter = Exporter(reader, ExportConfig(tmp_path, with_best=True), said.append)
                indices = torch.from_numpy(slot.indices.copy())
                slot.backward(slot_loss(model, x[indices], y[indices]))
                run.step()
                if (slot.step, slot.lease.slot) == (2, 0):
                    best = {n: v.copy() for n, v in evaluator.pull("latest", pin="10min").items()}
                    evaluator.evaluated({"accuracy": 0.9})
                    version = evaluator.version
            assert exporter is not None
            exporter.run(threading.Event())
        run.close()
    assert (tmp_path / "small" / "best").read_text() == f"version-{version:08d}\n"
    loaded = load_file(tmp_path / "small" / f"version-{version:08d}" / "model.safetensors")
    assert all(np.array_equal(loaded[name], best[name]) for name in best)
    assert version == 2
    assert (tmp_path / "small" / "latest").read_text() == "version-00000004\n"
    assert any(f"version {version} is the best" in text for text in said)


def test_a_job_that_is_not_there_is_refused_with_exit_code_78(tmp_path: Path) -> None:
    with running_fold(1) as fold:
        command = [sys.executable, "-m", "sheepfold.export", "--job", "none", "--into", str(tmp_path)]
        done = subprocess.run([*command, "-a", fold.address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert done.stderr.startswith("sheepfold: no job named 'none'")
