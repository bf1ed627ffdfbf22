"""What a worker has agreed to by attaching: about ten lines, every value of the optimizer among them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sheepfold.worker import Worker
from sheepfold_wire.job import Job, LossScale
from sheepfold_wire.optimizer import OptimizerKeys, tensor_settings

SURVIVES = {
    "none": "survives any worker; the loss of a shard or the coordinator ends the job",
    "checkpoint": "the loss of a shard costs the steps since the newest checkpoint",
    "wal": "a committed step survives kill -9 of any process, not a loss of power",
    "wal_fsync": "a committed step survives a loss of power, not that of a disk",
}
"""By level."""


def contract(worker: Worker) -> str:
    """Precisions, owners, batch, data, durability; printed once when a script attaches."""
    job, batch = worker.job, worker.job.batch
    elements = sum(worker.manifest.tensors[index].elements for index in worker.manifest.parameters)
    shards = f"{worker.plan.shard_count} shard" + "s" * (worker.plan.shard_count != 1)
    lines = [
        f"job {job.name}: {elements:,} parameters on {shards}, version {worker.version_at_attach}",
        f"  state: weights and moments fp32 on the server, kernel {job.numerics.kernel}",
        f"  wire: gradients up {worker.up.value}, weights down {worker.down.value}",
        *_wrapped(f"  server owns: learning rate ({_rate(job)}), clip ({_clip(job)}), {_settings(job)}"),
        *(line for group in _groups(worker) for line in _wrapped(group)),
        *([] if job.loss_scale is None else [f"  {_loss_scale(job.loss_scale)}"]),
        f"  batch: {batch.samples:,} samples, K = {slots(job)} slots, weighed by {batch.weight}",
        f"  data: {_data(job)}",
        f"  statistics (model buffers): {_statistics(worker)}",
        f"  durability: {worker.durability}: {SURVIVES.get(worker.durability, 'see its documentation')}",
        f"  ends: at version {job.stop.steps:,}",
    ]
    return "\n".join(lines)


def _loss_scale(scale: LossScale) -> str:
    rule = f"halved by an overflow, doubled by {scale.growth_steps:,} applied steps"
    return f"loss scale: the server's, from {scale.initial:g} on, {rule}"


def slots(job: Job) -> int:
    """K of the first step; a staged batch plan may change it."""
    return job.batch.samples // job.batch.slot_samples


def _rate(job: Job) -> str:
    lr = job.optimizer.lr
    shown = {key: value for key, value in lr.model_dump().items() if value not in (None, ())}
    stages = sum(stage.rewarm for stage in job.batch.stage)
    text = f"peak {lr.peak:g}, {lr.schedule}, " + _pairs(shown, without=("peak", "schedule"))
    return text + (f", begins again at {stages} stages" if stages else "")


def _clip(job: Job) -> str:
    optimizer = job.optimizer
    if optimizer.clip_norm is None:
        return "off"
    place = "of the mean gradient" if optimizer.clip_place == "sum" else "of each slot"
    return f"global norm {place} {optimizer.clip_norm:g}, form {optimizer.clip_form}"


def _settings(job: Job) -> str:
    """Every other value of [optimizer], resolved."""
    shared = OptimizerKeys.model_fields
    return _pairs(job.optimizer.model_dump(), without=tuple(key for key in shared if key != "skipped_step"))


def _groups(worker: Worker) -> Iterator[str]:
    """What names decide: the tensors that differ, counted."""
    manifest, optimizer = worker.manifest, worker.job.optimizer
    names = [manifest.tensors[index].name for index in manifest.parameters]
    for number, group in enumerate(optimizer.groups):
        matched = [n for n in names if any(fnmatchcase(n, pattern) for pattern in group.match)]
        changes = _pairs(group.model_dump(exclude_none=True), without=("match",))
        yield f"  group {number}, {', '.join(group.match)}: {len(matched)} tensors, {changes}"
    settings = tensor_settings(optimizer, names)
    kept = sum(s.weight_decay == 0 for s in settings)
    fixed = sum(not s.adapts for s in settings)
    if 0 < kept < len(names) or 0 < fixed < len(names):
        yield f"  of {len(names)} tensors {kept} are not decayed, {fixed} have no trust ratio"


def _pairs(values: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    return ", ".join(f"{key}={_shown(value)}" for key, value in values.items() if key not in without)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 110, subsequent_indent="    ", break_long_words=False)


def _data(job: Job) -> str:
    if job.data.mode == "free":
        return "free: your own loader; a lease is permission for one slot's samples"
    if job.data.mode == "shards":
        return f"shards: leases name ranges of {len(job.data.files):,} files, {job.data.samples:,} samples"
    return f"indexed: leases name samples of {job.data.samples:,}, seed {job.data.seed}"


def _statistics(worker: Worker) -> str:
    count = len(worker.manifest.statistics)
    return f"{count}, {worker.job.statistics.policy}" if count else "none"
