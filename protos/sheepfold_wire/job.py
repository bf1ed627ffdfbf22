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

from sheepfold_wire.errors import BadConfig
from sheepfold_wire.ids import is_job_name
from sheepfold_wire.optimizer import LearningRate, Optimizer
from sheepfold_wire.validation import Count, Positive, Section, sentences

LIVE_KEYS = ("optimizer.lr.peak", "optimizer.lr.final", "optimizer.clip_norm", "stop.steps")


class Stage(Section):
    """One part of the batch plan; a value left out is that of [batch] or [optimizer]."""

    steps: Positive
    samples: Positive | None = None
    slot_samples: Positive | None = None
    sequence: Positive | None = None
    """Sequence length in tokens; told to the workers with each lease."""
    rewarm: bool = False
    """The learning rate's schedule begins again with this stage, warm-up included."""
    lr: LearningRate | None = None
    """Of a stage with `rewarm`: another schedule than [optimizer]'s."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if self.lr is not None and not self.rewarm:
            raise ValueError("[[batch.stage]] lr begins a schedule of its own: add rewarm = true")
        return self


class Batch(Section):
    """The global batch, constant while workers come and go."""

    samples: Positive
    slot_samples: Positive
    weight: Literal["samples", "tokens"] = "samples"
    absent: Literal["zero", "refuse"] = "zero"
    delay: Annotated[int, Field(ge=0, le=8)] = 0
    max_staleness: Annotated[int, Field(ge=0, le=8)] | Literal["unbounded"] = 0
    stage: tuple[Stage, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check(self) -> Batch:
        for number, stage in enumerate((Stage(steps=1), *self.stage)):
            samples, slot = stage.samples or self.samples, stage.slot_samples or self.slot_samples
            if samples % slot:
                where = "[batch]" if number == 0 else f"[[batch.stage]] number {number}"
                raise ValueError(
                    f"{where}: samples = {samples} is not divisible by slot_samples = {slot}; "
                    f"the nearest that divides it is {_nearest_divisor(samples, slot)}"
                )
        if self.delay and self.max_staleness:
            raise ValueError(
                f"delay = {self.delay} and max_staleness = {self.max_staleness} exclude each other; "
                "set one to 0"
            )
        if self.is_asynchronous and any(s.samples or s.slot_samples for s in self.stage):
            raise ValueError('max_staleness = "unbounded" keeps one batch size; remove [[batch.stage]]')
        if self.is_asynchronous and self.samples != self.slot_samples:
            raise ValueError(
                f'max_staleness = "unbounded" makes every slot a step: slot_samples = {self.slot_samples} '
                f"must equal samples = {self.samples}"
            )
        return self

    @property
    def is_asynchronous(self) -> bool:
        return self.max_staleness == "unbounded"

    @property
    def open_steps(self) -> int:
        """Steps that may be open at once: s + 1 for a delay or staleness of s, 1 if asynchronous."""
        return 1 if self.is_asynchronous else self.delay + int(self.max_staleness) + 1


def _nearest_divisor(samples: int, slot: int) -> int:
    return min(
        (d for d in range(1, min(samples, 1 << 20) + 1) if samples % d == 0), key=lambda d: abs(d - slot)
    )


class Data(Section):
    """`indexed`: leases name sample indices. `free`: the worker's own loader, leases are only permission."""

    mode: Literal["indexed", "free"] = "indexed"
    samples: Count = 0
    seed: Count = 0
    fingerprint: str = ""

    @model_validator(mode="after")
    def _check(self) -> Data:
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

    up: Literal["fp32", "bf16", "fp16"] = "bf16"


class Placement(Section):
    """Tensors above this many bytes (fp32) are cut over all shards, at block borders."""

    split_above_bytes: Annotated[int, Field(ge=4096, le=2**53)] = 8 << 20


class Stop(Section):
    steps: Positive


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


def job_from_json(text: str) -> Job:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadConfig(f"the job's configuration is not JSON: {error}") from None
    return parse_job(values)


def job_from_toml(path: Path) -> Job:
    """The job file at `path`; raises BadConfig, also for a missing or unreadable file."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadConfig(f"{path}: no such file; `sheepfold job example` prints one to begin with") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"{path}: {error}") from None
    try:
        return parse_job(values)
    except BadConfig as error:
        raise BadConfig(f"{path}: {error}") from None


def first_difference(mine: Job, theirs: Job) -> str | None:
    """One sentence naming the first key in which two jobs differ; None if they are equal."""
    a, b = _flat(mine.model_dump(mode="json")), _flat(theirs.model_dump(mode="json"))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            return f"{key} is {a.get(key)!r} in the job and {b.get(key)!r} in the request"
    return None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
