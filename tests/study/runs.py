"""A run of the study as a frozen value, the job it stands for, and the key its result is stored under.

Two runs with one key are the same training: the key is a digest over every field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sheepfold_wire.job import Job, parse_job

SLOT_SAMPLES_MAX = 512
SPLIT_ABOVE_BYTES = 262_144
"""So low that BERT-micro's embeddings are cut in two where there are two shards."""
LENGTH = 32
"""Tokens of a window, of the shortest."""
NAME = "study"

Table = Mapping[str, Any]


def canonical(values: Any) -> str:
    """JSON text, the same for equal values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Mode:
    """How old the weights may be that a gradient is computed at, and how many workers compute."""

    delay: int = 0
    max_staleness: int | Literal["unbounded"] = 0
    workers: int = 1
    """Threads of this process. Staleness comes about only where several take turns."""

    @property
    def repeats(self) -> bool:
        """Whether the same run gives the same bits again: not where versions depend on who was quick."""
        return not self.max_staleness


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps of a run that are alike."""

    steps: int
    batch: int
    slot_samples: int
    length: int
    """Tokens of a sample; LENGTH for images, which have none."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training. `samples` is over the whole run, the same for all batches of a table."""

    task: str
    optimizer: str
    """The job file's [optimizer] without its `lr`, as canonical JSON."""
    lr: str
    """The job file's [optimizer.lr], as canonical JSON."""
    batch: int
    samples: int
    seed: int
    up: str = "bf16"
    mode: Mode = field(default=Mode())
    stages: str = "[]"
    """The job file's [[batch.stage]], as canonical JSON; their samples add up to `samples`."""
    servers: str = "local, 1 shard"
    """Or "gRPC, 2 shards", which must give the same bits."""

    @property
    def key(self) -> str:
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()[:16]

    @property
    def slot_samples(self) -> int:
        return self.batch if self.mode.max_staleness == "unbounded" else slot_of(self.batch)

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The run's steps by batch and length; what is left of a batch at the end is not trained on."""
        stages: list[Table] = json.loads(self.stages)
        if not stages:
            return (Stretch(self.samples // self.batch, self.batch, self.slot_samples, LENGTH),)
        return tuple(Stretch(s["steps"], s["samples"], s["slot_samples"], s["sequence"]) for s in stages)

    @property
    def steps(self) -> int:
        return sum(part.steps for part in self.stretches)

    @property
    def slots(self) -> int:
        """Pushes of the whole run."""
        return sum(part.steps * (part.batch // part.slot_samples) for part in self.stretches)

    @property
    def work(self) -> float:
        """Samples of the whole run, in samples of LENGTH tokens."""
        return sum(part.steps * part.batch * part.length / LENGTH for part in self.stretches)

    def over_grpc(self) -> Run:
        """The same training through real sockets and two shards."""
        return replace(self, servers="gRPC, 2 shards")

    def job(self, data_samples: int, weight: str) -> Job:
        """The job file of the run; `weight` is the unit of a contribution, samples or tokens."""
        batch = {
            "samples": self.batch,
            "slot_samples": self.slot_samples,
            "weight": weight,
            "delay": self.mode.delay,
            "max_staleness": self.mode.max_staleness,
            "stage": json.loads(self.stages),
        }
        return parse_job(
            {
                "name": NAME,
                "batch": batch,
                "data": {"samples": data_samples, "seed": self.seed},
                "optimizer": {**json.loads(self.optimizer), "lr": json.loads(self.lr)},
                "wire": {"up": self.up},
                "numerics": {"kernel": "eager"},
                "placement": {"split_above_bytes": SPLIT_ABOVE_BYTES},
                "report": {"cosines_every": 0},
                "stop": {"steps": self.steps},
                "seed": self.seed,
            }
        )


def slot_of(batch: int) -> int:
    """Samples of a slot: at least two slots a step, for the noise scale compares slots with their mean."""
    return max(1, min(SLOT_SAMPLES_MAX, batch // 2))


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run. All but `seconds` is a function of the run, where its mode repeats."""

    key: str
    run: Table
    value: float
    """On held-out data, at the end: accuracy, or the mean loss of a masked token."""
    train_loss: float | None
    """Mean over the last tenth of the steps."""
    losses: tuple[tuple[int, float], ...]
    """(samples trained on, mean loss since the point before), at most POINTS of them."""
    seconds: float
    steps: int
    skipped: int
    digest: str
    noise_scale: float | None
    """In samples, over the run's newest 50 steps or so; None where it is not defined."""
    staleness: float
    """Mean over the slots: versions that the weights were behind."""
    data: str
    """Fingerprint of the task's data."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def result_from(values: Table) -> Result:
    points = tuple((int(at), float(loss)) for at, loss in values["losses"])
    return Result(**{**values, "losses": points})
