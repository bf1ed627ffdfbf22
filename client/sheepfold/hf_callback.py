"""What keeps a Trainer in step with a job, while it trains. See sheepfold.hf."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from sheepfold.optimizer import RemoteOptimizer


class JobCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps Trainer's count at the job's step and its losses in proportion, and ends it with the job."""

    def __init__(self, trainer: Trainer, optimizer: RemoteOptimizer) -> None:
        self._trainer, self._optimizer = trainer, optimizer
        self._step = 0
        self._tokens: deque[int] = deque()
        """Labelled tokens of the slot's micro-batches to come, where the job weighs by tokens."""
        self._slot_loss: Tensor | None = None
        self._losses: list[Tensor] = []
        """Of the slots since the job's step last moved."""
        self._compute, self._collect = trainer.training_step, trainer.get_batch_samples
        trainer.training_step, trainer.get_batch_samples = self._training_step, self._batch_samples
        if trainer.compute_loss_func is None and not trainer.loss_is_scaled_for_ga:
            # Models that take num_items_in_batch may ignore it: Trainer then adds means up, undivided.
            trainer.model_accepts_loss_kwargs, trainer.loss_is_scaled_for_ga = False, False

    def _batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of one slot; counts the tokens that its mean is over."""
        batches, items = self._collect(*args, **kwargs)
        if batches and self._optimizer.run.worker.job.batch.weight == "tokens":
            first = 1 if self._trainer._loss_shifts_labels else 0
            self._tokens = deque(int(batch["labels"][..., first:].ne(-100).sum()) for batch in batches)
            self._optimizer.weight = float(sum(self._tokens))
        return batches, items

    def _training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Trainer adds up what this returns and divides by steps; here `_account` adds up instead."""
        if self._tokens:
            tokens = self._tokens.popleft()
            if not tokens:
                return torch.zeros((), device=self._trainer.args.device)
            # What Trainer divides the micro-batch's mean by, for it to have its share in the slot's mean.
            self._trainer.current_gradient_accumulation_steps = (self._optimizer.weight or 0.0) / tokens
        loss: Tensor = self._compute(*args, **kwargs)
        self._slot_loss = loss if self._slot_loss is None else self._slot_loss + loss
        return torch.zeros_like(loss)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, self._step = self._trainer, self._optimizer.run.step_number
        state.global_step = trainer._initial_global_step = trainer._globalstep_last_logged = self._step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        slot = self._optimizer.run.slot
        if slot is not None:  # an evaluation or a loader may have drawn numbers since the slot was leased
            torch.manual_seed(slot.lease.seed)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer.run.worker.note_progress()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer.loss = self._slot_loss

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.global_step = self._optimizer.run.step_number - 1  # Trainer adds 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run, before = self._optimizer.run, self._step
        now = self._step = state.global_step = max(before, state.global_step)
        self._account(now - before)
        job = run.worker.job
        if job.data.samples:
            state.epoch = now * job.batch.samples / job.data.samples
        is_due = now // state.logging_steps > before // state.logging_steps or run.has_ended
        control.should_log = args.logging_strategy == "steps" and is_due
        control.should_evaluate = args.eval_strategy == "steps" and run.chore("evaluate", state.eval_steps)
        control.should_save = args.save_strategy == "steps" and run.chore("save", state.save_steps)
        control.should_training_stop = control.should_training_stop or run.has_ended

    def _account(self, steps: int) -> None:
        """The mean loss of this worker's slots counts once for each step that the job has moved."""
        if self._slot_loss is not None and torch.isfinite(self._slot_loss):
            self._losses.append(self._slot_loss)
        self._slot_loss = None
        if steps and self._losses:
            self._trainer._tr_loss += torch.stack(self._losses).mean() * steps
            self._losses = []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer.run.close()
