"""sheepfold.hf: what of Hugging Face's Trainer follows the job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import RunningFold, running_fold
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of packages that others wrote

SAMPLES, WIDTH = 32, 4


class Points(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Labels of -100 do not count; sample i has 1 + i % 3 others."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        labels = torch.randint(0, 3, (WIDTH,), generator=draw)
        labels[1 + index % 3 :] = -100
        return {"x": torch.randn(WIDTH, 5, generator=draw), "labels": labels}


class Tagger(nn.Module):
    """Like many models of transformers it takes any keyword and ignores num_items_in_batch."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(6)
        self.weight = nn.Parameter(torch.randn(3, 5, generator=draw))

    def forward(self, x: Tensor, labels: Tensor | None = None, **ignored: Any) -> dict[str, Tensor]:
        logits = x @ self.weight.T
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def job_of(**changes: Any) -> dict[str, Any]:
    """Six steps of two slots of 8 samples, exact on the wire."""
    return {
        "name": "points",
        "batch": {"samples": 16, "slot_samples": 8},
        "data": {"samples": SAMPLES, "seed": 5},
        "optimizer": {"rule": "sgd", "lr": {"peak": 0.5, "schedule": "constant"}, "weight_decay": 0.0},
        "wire": {"up": "fp32"},
        "stop": {"steps": 6},
        **changes,
    }


def trainer_of(folder: Path, **changes: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
    }
    args = TrainingArguments(str(folder), **{**settings, **changes})
    return Trainer(model=Tagger(), args=args, train_dataset=Points(), eval_dataset=Points())


@pytest.fixture
def fold() -> Iterator[RunningFold]:
    torch.set_num_threads(1)
    with running_fold(1) as running:
        yield running


def attached(trainer: Any, fold: RunningFold, **changes: Any) -> Any:
    import sheepfold.hf

    return sheepfold.hf.attach(trainer, address=fold.address, config=job_of(**changes))


def trained_plainly(fold: RunningFold, weight: str) -> Tensor:
    """The same job by a loop without Trainer, one backward for each slot."""
    import sheepfold

    batch = {"samples": 16, "slot_samples": 8, "weight": weight}
    model, points = Tagger(), Points()
    with sheepfold.attach(model, address=fold.address, config=job_of(name="plain", batch=batch)) as run:
        for slot in run.slots():
            rows = [points[int(i)] for i in slot.indices]
            x, labels = (torch.stack([row[key] for row in rows]) for key in ("x", "labels"))
            if weight == "tokens":
                slot.backward(model(x, labels)["loss"], weight=float(labels.ne(-100).sum()))
            else:
                halves = zip(x.split(4), labels.split(4), strict=True)
                torch.stack([model(*half)["loss"] for half in halves]).mean().backward()
            run.step()
    return model.weight.detach()


@pytest.mark.parametrize("weight", ["samples", "tokens"])
def test_accumulated_micro_batches_are_the_slots_mean(fold: RunningFold, tmp_path: Path, weight: str) -> None:
    """Trainer by itself would add up the means of a model that ignores num_items_in_batch."""
    trainer = trainer_of(tmp_path)
    attached(trainer, fold, batch={"samples": 16, "slot_samples": 8, "weight": weight})
    trainer.train()
    torch.testing.assert_close(trainer.model.weight.detach(), trained_plainly(fold, weight))


def test_global_step_is_the_jobs_and_losses_are_means_over_slots(fold: RunningFold, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    optimizer = attached(trainer, fold)
    result = trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4, 5, 6]
    assert logged[-1]["epoch"] == 3.0
    assert all(0.8 < entry["loss"] < 3.0 for entry in logged)
    assert result.training_loss == pytest.approx(sum(entry["loss"] for entry in logged) / 6)
    assert (result.global_step, optimizer.run.version, optimizer.has_ended) == (6, 6, True)
    assert fold.fleet.status("points").workers == ()


def test_a_worker_that_comes_late_counts_from_the_jobs_step(fold: RunningFold, tmp_path: Path) -> None:
    early = attached(trainer_of(tmp_path), fold)
    while early.run.step_number < 4:
        early.param_groups[0]["params"][0].grad = torch.zeros(3, 5)
        early.step()
    early.run.close()
    trainer = trainer_of(tmp_path)
    attached(trainer, fold)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [5, 6]
    assert all(0.8 < entry["loss"] < 3.0 for entry in logged)


def test_an_ended_job_ends_training_at_once(fold: RunningFold, tmp_path: Path) -> None:
    for _ in range(2):
        trainer = trainer_of(tmp_path)
        optimizer = attached(trainer, fold)
        trainer.train()
        assert optimizer.run.version == 6


def test_evaluations_and_checkpoints_are_chores_of_the_job(fold: RunningFold, tmp_path: Path) -> None:
    chores = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 3}
    trainer = trainer_of(tmp_path, **chores)
    attached(trainer, fold)
    trainer.train()
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [2, 4]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_resumed_training_takes_its_state_back_but_the_weights_of_the_job(
    fold: RunningFold, tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path, save_strategy="steps", save_steps=3)
    attached(trainer, fold)
    trainer.train()
    saved = torch.load(tmp_path / "checkpoint-3" / "optimizer.pt", weights_only=True)
    assert (saved["sheepfold"]["job"], saved["sheepfold"]["step"]) == ("points", 3)
    longer = trainer_of(tmp_path)
    optimizer = attached(longer, fold, name="longer")
    seen: list[Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(longer.model.weight.detach().clone()))
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(seen[0], Tagger().weight.detach())
    assert longer.state.global_step == optimizer.run.version == 6


def test_free_data_go_round_until_the_job_ends(fold: RunningFold, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    optimizer = attached(trainer, fold, data={"mode": "free"}, stop={"steps": 9})
    trainer.train()
    assert optimizer.run.version == trainer.state.global_step == 9


def test_what_is_switched_off_is_printed_in_one_list(
    fold: RunningFold, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(tmp_path, max_grad_norm=0.7, learning_rate=0.003)
    optimizer = attached(trainer, fold)
    said = capsys.readouterr().err
    assert "max_grad_norm 0.7: off, too, in the job" in said
    assert "learning_rate 0.003" in said
    assert trainer.args.max_grad_norm == 0
    assert trainer.args.max_steps == 6
    optimizer.run.close()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"per_device_train_batch_size": 3}, r"slots of job points have 8 samples, Trainer's updates 6"),
        ({"eval_strategy": "epoch"}, "eval_strategy = 'epoch'.*give \"steps\""),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
    ],
)
def test_what_does_not_fit_a_job_is_refused_with_the_remedy(
    fold: RunningFold, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    from sheepfold import Refused

    trainer = trainer_of(tmp_path, **changes)
    with pytest.raises(Refused, match=text):
        attached(trainer, fold)
