"""Hugging Face's Trainer as a worker of a job: `attach(trainer, config=JOB)`, then `trainer.train()`.

Trainer believes that one process is the whole training: it clips, schedules, shuffles, counts, evaluates and
saves for itself. `attach` takes over what is the job's and prints what it has switched off. One update of
Trainer is one slot; its `global_step` is the job's step, in logs, progress bar, checkpoints and callbacks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

try:
    from transformers import Trainer
except ImportError as error:
    raise ImportError("sheepfold.hf needs transformers: pip install 'sheepfold[hf]'") from error

from sheepfold.errors import Refused
from sheepfold.hf_callback import JobCallback
from sheepfold.joining import Config
from sheepfold.model_tensors import tensors_of
from sheepfold.optimizer import RemoteOptimizer
from sheepfold.transport import Transport
from sheepfold_wire.job import Job


def attach(
    trainer: Trainer,
    job: str | None = None,
    *,
    address: str | Transport | None = None,
    config: Config | None = None,
) -> RemoteOptimizer:
    """Make a Trainer a worker of a job; the weights of its model are the job's from now on.

    A slot is `per_device_train_batch_size` * `gradient_accumulation_steps` samples. With indexed data they
    are those that the lease names; with free data each worker draws an order of its own. `trainer.train()`
    returns when the job has ended, and leaves it. Raises Refused, and what `sheepfold.attach` raises.
    """
    _check(trainer)
    slot = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    named, buffers = trainer.model.named_parameters(), tensors_of(trainer.model).buffers.items()
    optimizer = RemoteOptimizer(named, job, address=address, config=config, buffers=buffers, weight=slot)
    try:
        _check_slots(optimizer.run.worker.job, slot)
        _take_over(trainer, optimizer)
    except BaseException:
        optimizer.run.close()
        raise
    return optimizer


def _check(trainer: Trainer) -> None:
    """Raises Refused for what cannot be a worker."""
    args = trainer.args
    if args.world_size > 1 or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise Refused(
            f"Trainer runs distributed by itself (world size {args.world_size})",
            remedy="start a plain process for each worker, without RANK and WORLD_SIZE: the server averages",
        )
    if trainer.model_init is not None or args.auto_find_batch_size:
        raise Refused(
            "model_init and auto_find_batch_size begin a training anew, and a job does not",
            remedy="give Trainer model=... and a per_device_train_batch_size that fits",
        )
    for key in ("logging_strategy", "eval_strategy", "save_strategy"):
        chosen = str(getattr(args, key).value)
        if chosen not in ("no", "steps"):
            text = f"{key} = {chosen!r}: a worker sees only its part of an epoch"
            raise Refused(text, field=key, expected="steps", got=chosen, remedy='give "steps" or "no"')


def _check_slots(job: Job, slot: int) -> None:
    sizes = sorted({job.batch.slot_samples, *(stage.slot_samples or slot for stage in job.batch.stage)})
    if sizes != [slot]:
        raise Refused(
            f"slots of job {job.name} have {' or '.join(map(str, sizes))} samples, Trainer's updates {slot}",
            field="batch.slot_samples",
            expected=slot,
            got=sizes[0],
            remedy="make per_device_train_batch_size * gradient_accumulation_steps equal to them",
        )


def _take_over(trainer: Trainer, optimizer: RemoteOptimizer) -> None:
    """Put the job's in the place of Trainer's own, on this object only."""
    args, job = trainer.args, optimizer.run.worker.job
    print(f"job {job.name}: switched off in Trainer, as it is the job's", file=sys.stderr)
    print("\n".join(f"  {line}" for line in switched_off(args, job)), file=sys.stderr)
    args.max_grad_norm, args.max_steps, args.ignore_data_skip = 0.0, job.stop.steps, True
    args.load_best_model_at_end = False
    batches = _Batches(optimizer, _loader(trainer, optimizer))
    trainer.optimizer, trainer.lr_scheduler = optimizer, LambdaLR(optimizer, lambda step: 1.0)
    trainer.get_train_dataloader = lambda: batches
    trainer.get_total_train_batch_size = lambda args: job.batch.samples  # for its samples per second
    trainer._load_from_checkpoint = lambda *args, **kwargs: None  # `resume_from_checkpoint` has older weights
    trainer.add_callback(JobCallback(trainer, optimizer))


def switched_off(args: Any, job: Job) -> list[str]:
    """What of Trainer's arguments has no effect, a line each."""
    order = "the lease names them" if job.data.mode == "indexed" else "each worker draws its own order"
    norm = job.optimizer.clip_norm
    clip = "off, too, in the job" if norm is None else f"the server clips at {norm:g}"
    chores = [key for key in ("eval", "save") if getattr(args, f"{key}_strategy") == "steps"]
    lines = [
        f"max_grad_norm {args.max_grad_norm:g}: {clip}",
        f"optim {args.optim.value}, learning_rate {args.learning_rate:g}, its settings: the job's optimizer",
        f"lr_scheduler_type, warmup: the job's schedule; logs show its peak, {job.optimizer.lr.peak:g}",
        f"num_train_epochs, max_steps: it ends with the job, at step {job.stop.steps}",
        f"order of samples: {order}",
        "weights of resume_from_checkpoint: the job's are newer",
    ]
    if chores:
        lines.append(f"{' and '.join(chores)} in every process: one worker of all does it, none at the end")
    if args.load_best_model_at_end:
        lines.append("load_best_model_at_end: the job's last weights stay")
    return lines


def _loader(trainer: Trainer, optimizer: RemoteOptimizer) -> Any:
    """Trainer's own loader, but with the job's order of samples and without Accelerate's look ahead."""
    made, run = trainer.get_train_dataloader(), optimizer.run
    copied = ("collate_fn", "num_workers", "prefetch_factor", "persistent_workers", "worker_init_fn")
    settings = {key: getattr(made, key) for key in copied}
    settings["pin_memory"] = made.pin_memory and trainer.args.device.type == "cuda"
    micro_batch = trainer.args.train_batch_size
    if run.worker.job.data.mode == "indexed":
        return DataLoader(made.dataset, batch_sampler=run.batch_sampler(micro_batch), **settings)
    if not isinstance(made.dataset, IterableDataset):
        order = torch.Generator()
        order.seed()  # by chance: with Trainer's seed all workers would take the same samples
        settings.update(shuffle=True, drop_last=True, generator=order)
    return DataLoader(made.dataset, batch_size=micro_batch, **settings)


class _Batches:
    """What Trainer iterates over: micro-batches until the job ends. Without a length, `max_steps` counts."""

    def __init__(self, optimizer: RemoteOptimizer, loader: Any) -> None:
        self.dataset = loader.dataset
        self._batches = optimizer.run.batches(loader)

    def __iter__(self) -> Iterator[Any]:
        return self._batches  # an epoch of Trainer's goes on where the last one stopped
