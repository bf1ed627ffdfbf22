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

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sheepfold_wire.errors import BadConfig
from sheepfold_wire.ids import is_job_name

LIVE_KEYS = ("optimizer.lr.peak", "optimizer.lr.final", "optimizer.clip_norm", "stop.steps")

Positive = Annotated[int, Field(gt=0, le=2**53)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Stage(_Section):
    """One part of the batch plan; a value left out is that of [batch]."""

    steps: Positive
    samples: Positive | None = None
    slot_samples: Positive | None = None


class Batch(_Section):
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


class Data(_Section):
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


class LearningRate(_Section):
    """Of step t: linear from 0 over `warmup_steps`, then by `schedule`, which ends at `stop.steps`."""

    peak: Annotated[float, Field(ge=0, strict=False)]
    schedule: Literal["constant", "poly"] = "constant"
    power: Annotated[float, Field(gt=0, strict=False)] = 1.0
    warmup_steps: Count = 0
    final: Annotated[float, Field(ge=0, strict=False)] = 0.0


class Optimizer(_Section):
    """LAMB. Each field left out has the preset's value."""

    preset: Literal["paper-v5"] = "paper-v5"
    lr: LearningRate
    beta1: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.999
    eps: Annotated[float, Field(gt=0, strict=False)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0, strict=False)] = 0.01
    clip_norm: Annotated[float, Field(gt=0, strict=False)] | None = None


class Leases(_Section):
    """When a late slot is leased again, and when a refused one gives up its step."""

    seconds: Annotated[float, Field(gt=0, le=86_400, strict=False)] = 30.0
    straggler_factor: Annotated[float, Field(ge=1, strict=False)] = 3.0
    straggler_seconds_min: Annotated[float, Field(ge=0, strict=False)] = 1.0
    attempts_max: Annotated[int, Field(ge=1, le=100)] = 3
    refused: Literal["skip", "pause"] = "skip"


class Wire(_Section):
    """Codec of gradients on the way up; weights come down in the worker's parameter dtype."""

    up: Literal["fp32", "bf16", "fp16"] = "bf16"


class Placement(_Section):
    """Tensors above this many bytes (fp32) are cut over all shards, at block borders."""

    split_above_bytes: Annotated[int, Field(ge=4096, le=2**53)] = 8 << 20


class Stop(_Section):
    steps: Positive


class Statistics(_Section):
    """What becomes of model buffers that batches update (BatchNorm): `mean` by weight, integers by max."""

    policy: Literal["refuse", "mean"] = "refuse"


class Job(_Section):
    """A job, as a user writes it."""

    name: str
    batch: Batch
    data: Data
    optimizer: Optimizer
    stop: Stop
    wire: Wire = Wire()
    leases: Leases = Leases()
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
        raise BadConfig("\n".join(_sentence(detail) for detail in error.errors())) from None


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


def _sentence(detail: Any) -> str:
    key = ".".join(
        str(part) for part in detail["loc"] if not str(part).startswith(("literal[", "constrained-"))
    )
    key = key or "the job"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_known_keys(detail['loc'])}"
    if detail["type"] == "missing":
        return f"{key}: missing; {detail['msg'].lower()}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return f"{key} = {detail['input']!r}: {detail['msg']}"


def _known_keys(location: tuple[Any, ...]) -> str:
    section: Any = Job
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        if field is not None:
            section = field.annotation if isinstance(field.annotation, type) else Stage
    return "known here: " + ", ".join(section.model_fields)


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
