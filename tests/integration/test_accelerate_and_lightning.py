"""Accelerate and Lightning around RemoteOptimizer: the same weights as by a plain loop, and an honest end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.integration.harness import RunningFold, running_fold
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sheepfold
from sheepfold import Refused, RemoteOptimizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of packages that others wrote

SAMPLES, STEPS = 32, 6


def job_of(**changes: Any) -> dict[str, Any]:
    """Six steps of two slots of 8 samples, exact on the wire."""
    return {
        "name": "points",
        "batch": {"samples": 16, "slot_samples": 8},
        "data": {"samples": SAMPLES, "seed": 5},
        "optimizer": {"rule": "sgd", "lr": {"peak": 0.1, "schedule": "constant"}, "weight_decay": 0.0},
        "wire": {"up": "fp32"},
        "stop": {"steps": STEPS},
        **changes,
    }


def points() -> TensorDataset:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(SAMPLES, 3, generator=draw)
    return TensorDataset(x, x.sum(1, keepdim=True))


def net() -> nn.Linear:
    torch.manual_seed(4)
    return nn.Linear(3, 1)


@pytest.fixture
def fold() -> Iterator[RunningFold]:
    torch.set_num_threads(1)
    with running_fold(1) as running:
        yield running


def trained_plainly(fold: RunningFold) -> dict[str, Tensor]:
    model = net()
    x, y = points().tensors
    with sheepfold.attach(model, address=fold.address, config=job_of(name="plain")) as run:
        for slot in run.slots():
            chosen = torch.from_numpy(slot.indices.copy())
            slot.backward(F.mse_loss(model(x[chosen]), y[chosen]))
            run.step()
    return model.state_dict()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_accelerate_accumulates_the_slots_mean_and_its_state_goes_round(
    fold: RunningFold, tmp_path: Path
) -> None:
    from accelerate import Accelerator

    plain = net()
    remote = RemoteOptimizer(plain.named_parameters(), address=fold.address, config=job_of())
    loader = DataLoader(points(), batch_sampler=remote.run.batch_sampler(4))
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(plain, remote, loader)
    steps = []
    for x, y in remote.run.batches(loader):
        with accelerator.accumulate(model):
            accelerator.backward(F.mse_loss(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
        steps.append(remote.run.step_number)
    accelerator.save_state(str(tmp_path))
    accelerator.load_state(str(tmp_path))
    assert remote.has_ended
    assert steps == sorted(steps)
    assert_same(plain.state_dict(), trained_plainly(fold))
    remote.run.close()


def module_of(fold: RunningFold, **changes: Any) -> Any:
    from lightning.pytorch import LightningModule

    from sheepfold.lightning_callback import SlotBatches

    class Module(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.steps: list[int] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            self.steps.append(self.trainer.global_step)
            self.indices = torch.from_numpy(self.remote.run.slot.indices.copy())
            return F.mse_loss(self.net(x), y)

        def configure_optimizers(self) -> Any:
            named = self.net.named_parameters()
            self.remote = RemoteOptimizer(named, address=fold.address, config=job_of(**changes))
            return self.remote

        def train_dataloader(self) -> Any:
            run = self.remote.run
            return SlotBatches(run, DataLoader(points(), batch_sampler=run.batch_sampler(4)))

    return Module()


def fit(module: Any, folder: Path, **changes: Any) -> Any:
    from lightning.pytorch import Trainer

    from sheepfold.lightning_callback import JobCallback

    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "accumulate_grad_batches": 2,
        "callbacks": [JobCallback()],
        "default_root_dir": str(folder),
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "max_epochs": 1,
    }
    trainer = Trainer(**{**settings, **changes})
    trainer.fit(module)
    return trainer


def test_lightning_trains_like_a_plain_loop_and_counts_the_jobs_steps(
    fold: RunningFold, tmp_path: Path
) -> None:
    module = module_of(fold)
    trainer = fit(module, tmp_path)
    assert module.steps == [step for step in range(STEPS) for _ in range(4)]  # 2 slots of 2 micro-batches
    assert trainer.global_step == module.remote.run.version == STEPS
    assert fold.fleet.status("points").workers == ()
    assert_same(module.net.state_dict(), trained_plainly(fold))


def test_lightning_states_the_mean_loss_of_each_slot(fold: RunningFold, tmp_path: Path) -> None:
    module = module_of(fold, stop={"steps": 1})
    fit(module, tmp_path)
    assert module.remote.result is not None
    x, y = points().tensors
    expected = F.mse_loss(net()(x[module.indices]), y[module.indices]).item()
    assert module.remote.result.loss == pytest.approx(expected, rel=1e-5)


def test_lightning_ends_at_once_where_the_job_has_ended(fold: RunningFold, tmp_path: Path) -> None:
    fit(module_of(fold), tmp_path)
    late = module_of(fold)
    assert fit(late, tmp_path).global_step == STEPS
    assert late.steps == []


def test_lightning_says_what_is_switched_off(
    fold: RunningFold, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fit(module_of(fold), tmp_path, gradient_clip_val=0.5)
    assert trainer.gradient_clip_val is None
    said = capsys.readouterr().err
    assert "max_epochs, max_steps: it ends with the job, at step 6" in said
    assert "gradient_clip_val 0.5: off, too, in the job" in said


def test_lightning_with_another_accumulation_than_the_slots_is_refused(
    fold: RunningFold, tmp_path: Path
) -> None:
    with pytest.raises(
        Refused, match=r"a slot has 2 micro-batches.*give Trainer\(accumulate_grad_batches=2\)"
    ):
        fit(module_of(fold), tmp_path, accumulate_grad_batches=1)
    assert fold.fleet.status("points").workers == ()
