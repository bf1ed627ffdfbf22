"""What a worker has agreed to by attaching, in at most ten lines."""

from __future__ import annotations

from sheepfold.worker import Worker
from sheepfold_wire.job import Job

DURABILITY = "none: survives any worker; the loss of a shard or the coordinator ends the job"


def contract(worker: Worker) -> str:
    """Precisions, owners, batch, data, durability; printed once when a script attaches."""
    job, batch, decay = worker.job, worker.job.batch, worker.job.optimizer.weight_decay
    elements = sum(worker.manifest.tensors[index].elements for index in worker.manifest.parameters)
    shards = f"{worker.plan.shard_count} shard" + "s" * (worker.plan.shard_count != 1)
    lines = [
        f"job {job.name}: {elements:,} parameters on {shards}, version {worker.version_at_attach}",
        "  state: weights and moments fp32 on the server",
        f"  wire: gradients up {worker.up.value}, weights down {worker.down.value}",
        f"  server owns: learning rate ({_rate(job)}), clip ({_clip(job)}), decay {decay:g}",
        f"  batch: {batch.samples:,} samples, K = {slots(job)} slots, weighed by {batch.weight}",
        f"  data: {_data(job)}",
        f"  statistics (model buffers): {_statistics(worker)}",
        f"  durability: {DURABILITY}",
        f"  ends: at version {job.stop.steps:,}",
    ]
    return "\n".join(lines)


def slots(job: Job) -> int:
    """K of the first step; a staged batch plan may change it."""
    return job.batch.samples // job.batch.slot_samples


def _rate(job: Job) -> str:
    lr = job.optimizer.lr
    return f"peak {lr.peak:g}, {lr.schedule}, {lr.warmup_steps} warm-up steps"


def _clip(job: Job) -> str:
    return "off" if job.optimizer.clip_norm is None else f"global norm {job.optimizer.clip_norm:g}"


def _data(job: Job) -> str:
    if job.data.mode == "free":
        return "free: your own loader; a lease is permission for one slot's samples"
    return f"indexed: leases name samples of {job.data.samples:,}, seed {job.data.seed}"


def _statistics(worker: Worker) -> str:
    count = len(worker.manifest.statistics)
    return f"{count}, {worker.job.statistics.policy}" if count else "none"
