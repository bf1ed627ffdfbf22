"""What the API answers. Field descriptions carry the units; they are the reference shown at /docs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(description="seconds")]


class Answer(BaseModel):
    """What all answers have in common: a number that is not finite is null."""

    model_config = ConfigDict(from_attributes=True, ser_json_inf_nan="null")


class SlotCounts(Answer):
    """Where every lease of a slot went: leased = committed + skipped + dropped + outstanding."""

    leased: int = Field(description="leases given out, of any kind")
    committed: int = Field(description="contributions that are part of an applied step")
    leased_again: int = Field(description="leases of a slot that had been leased before")
    dropped: int = Field(description="leases that ended without counting; their slot was leased again")
    skipped: int = Field(description="contributions of steps that were skipped")
    outstanding: int = Field(description="leases and contributions not decided yet")


class Slot(Answer):
    """Who computed one slot of a step."""

    slot: int = Field(description="number of the slot within its step, from 0")
    worker: str = Field(description="name of the worker whose contribution counted")
    samples: int = Field(description="samples in the contribution")
    weight: float = Field(description="weight of the contribution, in the job's unit (samples or tokens)")
    attempts: int = Field(description="leases of this slot, at least 1")
    base_version: int = Field(description="version of the weights the gradient was computed at")
    loss: float | None = Field(description="mean loss the worker reported; null if none")
    host: str = Field(description="host name of the worker; empty if it had left before the commit")
    gradient_norm: float = Field(description="Euclidean norm of the contribution, unclipped; 0 if not known")
    sample_start: int = Field(description="first position in the job's sample stream; 0 where it has none")
    cosine: float | None = Field(
        description="cosine between the contribution and the step's mean; null where not measured"
    )


class Slice(Answer):
    """The layer-wise facts of one slice in one step."""

    slice: int = Field(description="number of the slice in the manifest, from 0")
    name: str = Field(description="name of the slice, as in the model")
    w_norm: float = Field(description="norm of the weights before the step", validation_alias="weight_norm")
    u_norm: float = Field(description="norm of the update direction", validation_alias="update_norm")
    g_norm: float = Field(
        description="Euclidean norm of the mean gradient before clipping", validation_alias="gradient_norm"
    )
    trust_ratio: float = Field(description="factor on the update, by the slice's rule; no unit")
    clamp: str = Field(description="bound that the ratio met in this step: phi, ratio, or empty")


class SliceWithRange(Slice):
    """A slice in the newest step, with the range of its trust ratio over the newest 2,000 steps."""

    trust_ratio_min: float = Field(description="smallest trust ratio over the kept steps")
    trust_ratio_max: float = Field(description="largest trust ratio over the kept steps")
    trust_ratio_drift: float = Field(
        description="trust ratio in the newest step over its median in the kept ones, beyond 512 of them the "
        "median of means of 16; 1 means none"
    )
    steps_clamped: int = Field(description="newest steps in a row in which the ratio met a bound")
    noise_scale: float | None = Field(
        description="gradient noise scale of this slice alone, in samples; null while it is not known"
    )


class Metric(Answer):
    """A number that scripts logged beside the loss."""

    name: str = Field(description="name that the script gave it")
    value: float = Field(description="mean over the step's slots that have it, by weight")


class Step(Answer):
    """One committed or skipped step."""

    step: int = Field(description="number of the step, from 0")
    version: int = Field(description="version of the weights that the step made: step + 1")
    is_skip: bool = Field(description="true if weights and moments were left as they were")
    skip_reason: str = Field(description="why the step was skipped; empty if it was not")
    learning_rate: float = Field(description="learning rate of the step")
    loss: float | None = Field(description="mean of the workers' losses by weight; null if none reported one")
    gradient_norm: float = Field(description="Euclidean norm of the mean gradient before clipping")
    clip_scale: float = Field(description="factor the gradient was clipped by; 1 means not clipped")
    samples: int = Field(description="samples in the step")
    wait_seconds: Seconds = Field(
        description="seconds from opening the step until all its slots were admitted"
    )
    prepare_seconds: Seconds = Field(
        description="seconds until all shards had the sum complete and it was decided"
    )
    apply_seconds: Seconds = Field(description="seconds until all shards had applied the decision")
    bytes_in: int = Field(description="bytes of gradients received by all shards since the step before")
    bytes_out: int = Field(description="bytes of weights sent by all shards since the step before")
    metrics: list[Metric] = Field(description="numbers that scripts logged, means by weight, by name")
    commit_seconds: Seconds = Field(
        description="seconds from the decision until its record was durable; part of apply_seconds"
    )
    loss_scale: float = Field(description="factor on the loss of float16 workers; 0 if the job has none")
    committed_at: float = Field(
        description="unix time, in seconds, at which the version was published; 0 if not known"
    )
    slot_gradient_norm: float = Field(
        description="root of the mean over the slots of their squared norms; 0 if not known"
    )
    staleness_steps: int = Field(
        description="steps by which the weights of the oldest contribution were behind"
    )


class ShardStep(Answer):
    """What one shard spent on a step."""

    shard: int = Field(description="number of the shard, from 0")
    fold_seconds: Seconds = Field(description="seconds its kernel folded contributions")
    apply_seconds: Seconds = Field(description="seconds of the pass that made weights and encoded copies")
    bytes_in: int = Field(description="bytes of gradients received since the step before")
    bytes_out: int = Field(description="bytes of weights sent since the step before")


class StepDetail(Step):
    """One step with its slices and slots."""

    counts: SlotCounts
    slices: list[Slice] = Field(description="one entry per slice; empty for a skipped step")
    slots: list[Slot] = Field(description="one entry per slot, in slot order")
    shards: list[ShardStep] = Field(description="what each shard spent, by number; empty if not known")


class Traffic(Answer):
    """Traffic of a worker with one shard, since it attached first."""

    shard: int = Field(description="number of the shard, from 0")
    bytes_up: int = Field(description="payload bytes pushed")
    bytes_down: int = Field(description="payload bytes pulled")
    up_bytes_per_second: float | None = Field(description="rate of pushes while they run; null before one")
    down_bytes_per_second: float | None = Field(description="rate of pulls while they run; null before one")


class Worker(Answer):
    """An attached worker."""

    worker: str = Field(description="name the worker chose, unique to its process")
    host: str = Field(description="host name of the worker")
    pid: int = Field(description="process id on that host")
    device: str = Field(description="device it computes on")
    seconds_since_seen: float = Field(description="seconds since its last call")
    slots_committed: int = Field(description="slots of its that count")
    samples_committed: int = Field(description="samples of its that count")
    holding: int = Field(description="leases it holds now")
    seconds_attached: float = Field(description="seconds since it attached first")
    versions: str = Field(description="versions of Python, sheepfold and torch, as it said")
    zone: str = Field(description="where it runs, as it said; empty if it did not")
    refused: int = Field(description="contributions of its that were refused")
    data_wait_share: float | None = Field(
        description="share of the time of its slots that it waited for data; null if not measured"
    )
    round_trip_seconds: float | None = Field(
        description="seconds of its newest heartbeat there and back; null before one"
    )
    up_bytes_per_second: float | None = Field(
        description="rate of its pushes while they run; null before one"
    )
    down_bytes_per_second: float | None = Field(
        description="rate of its pulls while they run; null before one"
    )
    way: str = Field(
        description="how payloads go: grpc, shared memory, this process; each that is used, empty before one"
    )
    traffic: list[Traffic] = Field(description="the same for each shard, by number")


class Shard(Answer):
    """A shard of the job."""

    shard: int = Field(description="number of the shard, from 0")
    address: str = Field(description="host:port workers reach it at; empty if it never connected")
    incarnation: int = Field(description="number of its process; a restarted shard has a new one")
    is_connected: bool = Field(description="whether its link to the coordinator is up")
    version: int = Field(description="newest version it serves; -1 before the initial weights")
    numeric_fingerprint: str = Field(description="kernel, device type and torch version; equal on all shards")
    parameters: int = Field(description="parameters it holds")
    part_slots: int = Field(description="contributions its staging memory has room for")
    memory_bytes: int = Field(description="resident memory of its process at the newest step; 0 before one")
    queue: int = Field(description="events that waited in its bookkeeping at the newest step")


class JobSummary(Answer):
    """One line of the list of jobs."""

    job: str = Field(description="name of the job")
    state: str = Field(
        description="declared, opening, initialising, running, paused or ended; where only the history tells "
        "of the job: not listed (the coordinator has none of that name) or unknown (it was not heard yet)"
    )
    why: str = Field(description="why the job is in that state; empty if there is nothing to say")
    version: int = Field(
        description="newest version of the weights, or that was kept; -1 before the initial weights"
    )
    stop_steps: int | None = Field(
        description="version at which the job ends; null if only the history tells of it"
    )
    kept_until_seconds: float | None = Field(
        default=None,
        description="unix time, in seconds, of the newest that was kept of a job that only the history tells "
        "of; null for all others",
    )


class Change(Answer):
    """Something that was changed while the job ran."""

    from_step: int = Field(description="first step it holds for")
    author: str = Field(description="who asked, as they said")
    text: str = Field(description="what, with the old and the new value")


class Job(JobSummary):
    """Everything about a job at this moment."""

    stop_steps: int = Field(description="version at which the job ends")
    lineage: str = Field(description="identity of this history of the job; changes with a rollback")
    open_step: int = Field(description="lowest step not committed yet; -1 if none is open")
    slots_total: int = Field(description="slots of the open step")
    slots_admitted: int = Field(description="slots of the open step that are part of it already")
    waiting_for: str = Field(description="one sentence: what the open step waits for")
    samples_committed: int = Field(description="samples in applied steps")
    samples_skipped: int = Field(description="samples in skipped steps")
    steps_skipped: int = Field(description="steps that left weights and moments as they were")
    best_version: int = Field(description="version that evaluations found best; -1 if none was evaluated")
    best_value: float = Field(description="its value of the job's stop.metric; 0 if there is none")
    checkpoint_version: int = Field(description="newest version that is kept; -1 if there is none")
    checkpoint_age_seconds: float = Field(
        description="seconds since a checkpoint was stored, or since version 0; 0 where none are kept"
    )
    changes: list[Change] = Field(
        description="what was changed while the job ran, the newest 64, oldest first"
    )
    counts: SlotCounts


class KeptJob(JobSummary):
    """A job that only the history tells of; what only the coordinator can tell is 404."""

    lineage: str = Field(description="the newest history of the job that is kept")


class Held(Answer):
    """What one shard holds."""

    shard: int = Field(description="number of the shard, from 0")
    elements: int = Field(description="elements it holds")
    bytes: int = Field(
        description="bytes of these: 4 for an fp32 weight or statistic, 8 for an integer statistic; moments "
        "take twice the weights' bytes beside them"
    )


class Tensor(Answer):
    """One tensor of the model, and which shards hold how much of it."""

    name: str = Field(description="name of the tensor, as in the model")
    kind: str = Field(description="parameter, or statistic: averaged, not optimised")
    shape: list[int] = Field(description="shape as the worker holds it")
    dtype: str = Field(description="dtype as the worker holds it")
    slices: int = Field(description="slices, each with a trust ratio of its own; 0 for a statistic")
    shards: list[Held] = Field(description="by number; more than one if the tensor is cut")


class Model(Answer):
    """The manifest, and the plan that places it on shards."""

    digest: str = Field(description="SHA-256 of the manifest, hex; empty while no worker has brought a model")
    parameters: int = Field(description="elements of all parameters")
    shards: list[Held] = Field(description="all that each shard holds, by number")
    tensors_total: int = Field(description="tensors of the manifest, also those beyond this page")
    tensors: list[Tensor] = Field(description="in manifest order")


class Throughput(Answer):
    """Rates over the last 10 seconds."""

    steps_per_second: float = Field(description="steps per second")
    samples_per_second: float = Field(description="samples per second")
    bytes_in_per_second: float = Field(description="bytes of gradients per second into all shards")
    bytes_out_per_second: float = Field(description="bytes of weights per second out of all shards")


class Health(Answer):
    """Whether the process serves, and what it waits for."""

    status: str = Field(description="ok, or why not: one sentence")


class Problem(Answer):
    """Why a request was refused."""

    detail: str = Field(description="one sentence saying what was asked for and what exists")
