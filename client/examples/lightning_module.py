"""A LightningModule whose optimizer is the job's. The Trainer ends with the job.

pip install 'sheepfold[lightning]'
SHEEPFOLD=local: python client/examples/lightning_module.py
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sheepfold
from sheepfold.lightning_callback import JobCallback, SlotBatches

SAMPLES, MICRO_BATCH, ACCUMULATED = 2_048, 32, 2
JOB = {
    "name": "lightning-module",
    "batch": {"samples": 128, "slot_samples": MICRO_BATCH * ACCUMULATED},
    "data": {"samples": SAMPLES, "seed": 1},
    "optimizer": {"lr": {"peak": 0.05, "schedule": "poly", "warmup_steps": 10}, "clip_norm": 1.0},
    "stop": {"steps": 120},
}


class Curve(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
        self.loss = torch.tensor(torch.nan)  # stays so if the job has ended before this worker came

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.mse_loss(self.net(x), y)
        self.loss = loss.detach()
        return loss

    def configure_optimizers(self) -> Any:
        self.remote = sheepfold.RemoteOptimizer(self.named_parameters(), config=JOB)
        return self.remote

    def train_dataloader(self) -> Any:
        x = torch.linspace(-2, 2, SAMPLES).unsqueeze(1)
        run, data = self.remote.run, TensorDataset(x, torch.sin(2 * x))
        return SlotBatches(run, DataLoader(data, batch_sampler=run.batch_sampler(MICRO_BATCH)))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = Trainer(
        accelerator="cpu",
        accumulate_grad_batches=ACCUMULATED,
        callbacks=[JobCallback()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        max_epochs=-1,
    )
    module = Curve()
    trainer.fit(module)
    print(f"version {trainer.global_step}: loss {module.loss.item():.4f}")


if __name__ == "__main__":
    main()
