"""Lightning's Trainer as a worker: a callback, and a loader that gives the micro-batches of the job's slots.

    class Module(LightningModule):
        def configure_optimizers(self):
            self.remote = sheepfold.RemoteOptimizer(self.named_parameters(), config=JOB)
            return self.remote

        def train_dataloader(self):
            run = self.remote.run
            return SlotBatches(run, DataLoader(data, batch_sampler=run.batch_sampler(micro_batch=32)))

    Trainer(accumulate_grad_batches=2, callbacks=[JobCallback()]).fit(Module())

Validation, checkpoints and loggers are left as they are: each worker has its own, so leave them to one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor

try:
    from lightning.pytorch import Callback, Trainer
except ImportError as error:
    raise ImportError(f"{__name__} needs lightning: pip install 'sheepfold[lightning]'") from error

from sheepfold.errors import Refused
from sheepfold.optimizer import RemoteOptimizer
from sheepfold.run import Run


class SlotBatches:
    """Micro-batches of a DataLoader until the job ends.

    It has a length, so that Lightning takes no batch before the one before it is computed. That length, an
    epoch of Lightning's, is the job's data set in whole slots, although other workers compute some of them.
    """

    def __init__(self, run: Run, loader: Any) -> None:
        job = run.worker.job
        sampler = getattr(loader, "batch_sampler", None)
        micro_batch = getattr(sampler, "micro_batch", None) or loader.batch_size
        self.per_slot = job.batch.slot_samples // int(micro_batch)
        samples = job.data.samples or len(loader.dataset)
        self._length = max(1, samples // job.batch.slot_samples) * self.per_slot
        self._batches = run.batches(loader)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return self._batches


class JobCallback(Callback):  # type: ignore[misc]
    """Switches off what is the job's, keeps `trainer.global_step` at its step, and ends with it."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Raises Refused for a Trainer that cannot be a worker."""
        job = _remote(trainer).run.worker.job
        if trainer.world_size > 1:
            raise Refused(
                f"this Trainer has {trainer.world_size} processes, which average by themselves",
                remedy="give devices=1 and start a process for each worker: the server averages",
            )
        lines = [f"max_epochs, max_steps: it ends with the job, at step {job.stop.steps}"]
        if trainer.gradient_clip_val:
            norm = job.optimizer.clip_norm
            clip = "off, too, in the job" if norm is None else f"the server clips at {norm:g}"
            lines.append(f"gradient_clip_val {trainer.gradient_clip_val:g}: {clip}")
        if trainer.strategy.lr_scheduler_configs:
            lines.append("lr_scheduler: the job's schedule")
        lines = [f"job {job.name}: switched off in Trainer, as it is the job's", *lines]
        print("\n  ".join(lines), file=sys.stderr)
        trainer.gradient_clip_val, trainer.strategy.lr_scheduler_configs = None, []
        trainer.fit_loop.max_epochs = trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        batches = trainer.train_dataloader
        if isinstance(batches, SlotBatches) and batches.per_slot != trainer.accumulate_grad_batches:
            raise Refused(
                f"a slot has {batches.per_slot} micro-batches, a step of this Trainer "
                f"{trainer.accumulate_grad_batches}",
                field="accumulate_grad_batches",
                expected=batches.per_slot,
                got=trainer.accumulate_grad_batches,
                remedy=f"give Trainer(accumulate_grad_batches={batches.per_slot})",
            )
        self._follow(trainer)

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        """`loss` is divided by the number of micro-batches already."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        _remote(trainer).loss, self._loss = self._loss, None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._follow(trainer)

    def _follow(self, trainer: Trainer) -> None:
        run, loop = _remote(trainer).run, trainer.fit_loop.epoch_loop
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = run.step_number
        loop._batches_that_stepped = run.step_number  # what loggers are told
        trainer.should_stop = trainer.should_stop or run.has_ended

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        _remote(trainer).run.close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, RemoteOptimizer):
                optimizer.run.close()


def _remote(trainer: Trainer) -> RemoteOptimizer:
    if len(trainer.optimizers) == 1 and isinstance(trainer.optimizers[0], RemoteOptimizer):
        return trainer.optimizers[0]
    raise Refused(
        f"configure_optimizers() gave {', '.join(type(o).__name__ for o in trainer.optimizers) or 'none'}",
        remedy="return one sheepfold.RemoteOptimizer",
    )
