"""The job file's model: what a job is, in one typed value.

The command line, the chart and `sheepfold.Job` read this same model. Unknown keys are refused; every refusal
names the key, the value and what is allowed. Keys in LIVE_KEYS may change while training (ConfigChange); all
others are sealed when the job is created.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sheepfold_wire.batch import Batch
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.ids import is_job_name
from sheepfold_wire.optimizer import DEFAULT_RULE, Optimizer
from sheepfold_wire.rules import Patterns
from sheepfold_wire.validation import Count, Positive, Section, sentences

LIVE_KEYS = (
    "optimizer.lr.peak",
    "optimizer.lr.final",
    "optimizer.clip_norm",
    "frozen",
    "stop.steps",
    "stop.patience",
)
FIRST_WORKER = "first-worker"


class DataFile(Section):
    """One file of a data set that is read in sequence, such as a tar."""

    name: Annotated[str, Field(min_length=1, max_length=1024)]
    samples: Positive


class Data(Section):
    """`indexed`: leases name sample indices. `shards`: ranges of samples in files. `free`: the worker's own
    loader, leases are only permission."""

    mode: Literal["indexed", "shards", "free"] = "indexed"
    samples: Count = 0
    seed: Count = 0
    fingerprint: str = ""
    files: Annotated[tuple[DataFile, ...], Field(strict=False)] = ()
    """With `shards`: the files in any order, each once, and how many samples each holds."""

    @model_validator(mode="before")
    @classmethod
    def _count(cls, values: Any) -> Any:
        """With files, `samples` may be left out."""
        if isinstance(values, dict) and not values.get("samples") and values.get("files"):
            counts = [f.get("samples") if isinstance(f, dict) else None for f in values["files"]]
            if all(isinstance(count, int) for count in counts):
                return {**values, "samples": sum(counts)}
        return values

    @model_validator(mode="after")
    def _check(self) -> Data:
        if (self.mode == "shards") != bool(self.files):
            raise ValueError(
                f'data.mode = "{self.mode}" with {len(self.files)} data.files: "shards" needs them, the '
                "other modes have none"
            )
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"data.files names {twice!r} twice: give each file once")
        if self.files and self.samples != sum(file.samples for file in self.files):
            raise ValueError(
                f"data.samples = {self.samples}, but data.files hold {sum(f.samples for f in self.files)}: "
                "leave data.samples out"
            )
        if self.mode == "indexed" and self.samples == 0:
            raise ValueError(
                'data.samples = 0: give the number of samples of the data set, or data.mode = "free"'
            )
        return self


class Numerics(Section):
    """Which kernel computes: bits are promised within one (part of the numeric fingerprint)."""

    kernel: Literal["auto", "eager", "compiled"] = "auto"
    """`auto`: compiled from a million parameters on if all shards can; decided when the job is opened."""


class Leases(Section):
    """When a late slot is leased again, and when a refused one gives up its step."""

    seconds: Annotated[float, Field(gt=0, le=86_400, strict=False)] = 30.0
    straggler_factor: Annotated[float, Field(ge=1, strict=False)] = 3.0
    straggler_seconds_min: Annotated[float, Field(ge=0, strict=False)] = 1.0
    attempts_max: Annotated[int, Field(ge=1, le=100)] = 3
    refused: Literal["skip", "pause"] = "skip"


class Wire(Section):
    """Codec of gradients on the way up; weights come down in the worker's parameter dtype."""

    up: Literal["fp32", "bf16", "fp16", "int8"] = "bf16"


class Placement(Section):
    """Tensors above this many bytes (fp32) are cut over all shards, at block borders."""

    split_above_bytes: Annotated[int, Field(ge=4096, le=2**53)] = 8 << 20


class Init(Section):
    """Where version 0 comes from. The holder of the init lease, a worker, reads it and uploads it."""

    source: str = Field(FIRST_WORKER, alias="from")
    """`first-worker`, `file:PATH` (safetensors, as that worker sees it), or `JOB@VERSION` of this server."""
    names: dict[str, str] = Field(default_factory=dict)
    """What a tensor is called in the source, by pattern: "encoder.*" = "bert.encoder.*"; else by its name."""
    fresh: Annotated[Patterns, Field(strict=False)] = ()
    """Tensors that need not be in the source: they keep the values of that worker, as a new head does."""

    @model_validator(mode="after")
    def _check(self) -> Init:
        kind, _, rest = self.source.partition(":")
        job, at, version = self.source.partition("@")
        is_job = bool(at) and is_job_name(job) and (version == "latest" or version.isdigit())
        if kind == "checkpoint":
            raise ValueError(
                f'init.from = "{self.source}": write its weights by `sheepfold checkpoint export` and give '
                '"file:PATH"; to go on with a whole job: `sheepfold checkpoint restore`'
            )
        if self.source != FIRST_WORKER and not is_job and not (kind == "file" and rest):
            raise ValueError(
                f'init.from = "{self.source}": give "first-worker", "file:PATH" or "JOB@VERSION"'
            )
        if self.source == FIRST_WORKER and (self.names or self.fresh):
            raise ValueError("init.names and init.fresh are about another source than the first worker")
        for mine, theirs in self.names.items():
            if mine.count("*") != theirs.count("*") or mine.count("*") > 1:
                raise ValueError(
                    f'init.names "{mine}" = "{theirs}": give both one * at the same place, or none'
                )
        return self


class Stop(Section):
    """When a job ends: after `steps`, or when an evaluated metric has not got better for long."""

    steps: Positive
    metric: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """A metric that an evaluator reports (`Reader.evaluated`)."""
    goal: Literal["max", "min"] = "max"
    patience: Positive | None = None
    """Evaluations without a better value after which the job stops; left out: it goes on."""

    @model_validator(mode="after")
    def _check(self) -> Stop:
        if self.patience is not None and self.metric is None:
            raise ValueError(f"stop.patience = {self.patience} waits for a metric: give stop.metric")
        return self


class Serve(Section):
    """What readers may ask for beside the newest versions."""

    pinned_versions: Annotated[int, Field(ge=0, le=64)] = 2
    """Versions that pins may keep at a time; each costs a shard its encoded copies of the model."""


class LossScale(Section):
    """For workers that compute in fp16. One scale for all of them, the server's: it comes with each lease.

    A slot that overflows skips its step and halves the scale; `growth_steps` applied steps double it.
    """

    initial: Annotated[float, Field(ge=1, le=2**24, strict=False)] = 65_536.0
    growth_steps: Positive = 2_000


class Report(Section):
    """What step reports hold beside what every step yields anyway."""

    cosines_every: Count = 16
    """In every so many steps each slot's cosine to the mean is measured, which takes about as long as folding
    it; 0: never."""


class Durability(Section):
    """What committed steps survive, where the servers have a data directory (--dir).

    `wal`: kill -9 of any process. `wal_fsync`: also a loss of power, as far as the disk honours fsync.
    `checkpoint`: no gradient is logged; a shard that dies takes the job back to its newest checkpoint.
    """

    level: Literal["checkpoint", "wal", "wal_fsync"] = "wal"


class Checkpoint(Section):
    """How often the state is kept where the coordinator keeps checkpoints (--checkpoints URL).

    Version 0 and the last one always are. Whichever of the two comes first; 0: not by it.
    """

    every_steps: Count = 0
    every_minutes: Annotated[float, Field(ge=0, le=525_600, strict=False)] = 30.0
    keep: Annotated[int, Field(ge=2, le=1000)] = 3
    """The newest that are kept; older ones are removed once a newer one is stored."""


class Statistics(Section):
    """What becomes of model buffers that batches update (BatchNorm): `mean` by weight, integers by max."""

    policy: Literal["refuse", "mean"] = "refuse"


class Job(Section):
    """A job, as a user writes it."""

    name: str
    batch: Batch
    data: Data
    optimizer: Optimizer
    stop: Stop
    wire: Wire = Wire()
    leases: Leases = Leases()
    numerics: Numerics = Numerics()
    placement: Placement = Placement()
    statistics: Statistics = Statistics()
    loss_scale: LossScale | None = None
    """Left out: gradients come as they are; a worker's own GradScaler may have scaled its loss."""
    init: Init = Init()  # type: ignore[call-arg]
    serve: Serve = Serve()
    report: Report = Report()
    durability: Durability = Durability()
    checkpoint: Checkpoint = Checkpoint()
    frozen: Annotated[Patterns, Field(strict=False)] = ()
    """Parameters, by pattern, that steps leave as they are."""
    seed: Count = 0

    @model_validator(mode="after")
    def _check(self) -> Job:
        if not is_job_name(self.name):
            raise ValueError(f"name = {self.name!r}: use 1 to 63 characters of a-z, 0-9 and inner dashes")
        if self.optimizer.lr.warmup_steps > self.stop.steps:
            raise ValueError(
                f"optimizer.lr.warmup_steps = {self.optimizer.lr.warmup_steps} is more than "
                f"stop.steps = {self.stop.steps}"
            )
        for number, stage in enumerate(self.batch.stage):
            if stage.lr is not None and stage.lr.warmup_steps > stage.steps:
                raise ValueError(
                    f"batch.stage[{number}].lr.warmup_steps = {stage.lr.warmup_steps} is more than the "
                    f"stage's steps = {stage.steps}"
                )
        if self.loss_scale is not None and self.batch.is_asynchronous:
            raise ValueError(
                "loss_scale in an asynchronous job: no step belongs to one scale there; leave it out, "
                "and let each worker scale by a GradScaler of its own"
            )
        rates = [self.optimizer.lr, *(stage.lr for stage in self.batch.stage if stage.lr is not None)]
        if not self.data.samples and any(lr.warmup_epochs is not None for lr in rates):
            raise ValueError("optimizer.lr.warmup_epochs are passes over the data: give data.samples")
        return self

    def to_json(self) -> str:
        """Canonical JSON with every value resolved: two equal jobs have equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def changed(self, changes: dict[str, Any]) -> Job:
        """This job with live keys replaced; raises BadConfig for a sealed or unknown key or a bad value."""
        for key in changes:
            if key not in LIVE_KEYS:
                raise BadConfig(
                    f"{key} is sealed or unknown; keys that may change while training: {', '.join(LIVE_KEYS)}"
                )
        values = self.model_dump(mode="json")
        for key, value in changes.items():
            *path, last = key.split(".")
            section = values
            for part in path:
                section = section[part]
            section[last] = value
        return parse_job(values)


def parse_job(values: dict[str, Any]) -> Job:
    """The job that plain values describe; raises BadConfig naming each key, its value and what is allowed."""
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        raise BadConfig(sentences(error, Job)) from None


def job_schema() -> dict[str, Any]:
    """JSON Schema of the job file, which is also the chart's `job:` value and `sheepfold.Job(...)`."""
    schema = {**Job.model_json_schema(by_alias=True), "title": "A sheepfold job"}
    for table in schema["$defs"].values():
        rule = table["properties"].get("rule", {})
        if rule.get("const") not in (None, DEFAULT_RULE):  # without `rule` only the default's table is meant
            table["required"] = [*table.get("required", []), "rule"]
    return schema


def job_from_json(text: str) -> Job:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"the job's configuration is not JSON: {error}") from None
    return parse_job(values)


def job_from_toml(path: Path) -> Job:
    """The job file at `path`; raises BadConfig, also for a missing or unreadable file."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadConfig(f"{path}: no such file; `sheepfold job example` prints one to begin with") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError also for a number of 5,000 digits
        raise BadConfig(f"{path}: {error}") from None
    try:
        return parse_job(values)
    except BadConfig as error:
        raise BadConfig(f"{path}: {error}") from None


def first_difference(mine: Job, theirs: Job) -> str | None:
    """One sentence naming the first key in which two jobs differ; None if they are equal."""
    a, b = (
        flat_values(mine.model_dump(mode="json")),
        flat_values(theirs.model_dump(mode="json")),
    )
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            return f"{key} is {a.get(key)!r} in the job and {b.get(key)!r} in the request"
    return None


def flat_values(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted key; a list is a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flat_values(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
