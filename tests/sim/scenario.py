"""What one seed draws: the job, the fleet, and which faults exist and how often (swarm testing)."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

from sheepfold_server.core.state import Geometry
from sheepfold_wire.job import Job, parse_job
from sheepfold_wire.manifest import Manifest, TensorSpec

SPLIT_ABOVE_BYTES = {True: 300_000, False: 8 << 20}
LEASE_SECONDS = 2.0
SAMPLES_PER_SLOT = 4

MANIFEST = Manifest(
    (
        TensorSpec("embed", (3072, 64), "float32", "parameter"),  # three blocks, cut over all shards
        TensorSpec("dense", (100, 10), "float32", "parameter"),
        TensorSpec("bias", (10,), "float32", "parameter"),
    )
)

MODES: dict[str, dict[str, object]] = {
    "sync": {},
    "delay 1": {"delay": 1},
    "delay 2": {"delay": 2},
    "stale 1": {"max_staleness": 1},
    "stale 2": {"max_staleness": 2},
    "async": {"max_staleness": "unbounded"},
}
REPRODUCIBLE = ("sync", "delay 1", "delay 2")


@dataclass(frozen=True)
class Setting:
    """A job, and the contributions of it that are broken whoever computes them."""

    mode: str
    slots: int
    steps: int
    trouble: str
    """"", "nan" (one slot is never finite) or "overflow" (the sum of one step is not, on one shard)."""
    weight: str
    refused: str
    splits: bool = True
    """Whether a tensor is cut over the shards."""
    has_loss_scale: bool = False
    """Gradients depend on the scale, and some slots overflow at a large one."""

    @property
    def is_reproducible(self) -> bool:
        return self.mode in REPRODUCIBLE

    def is_nan(self, sample_start: int) -> bool:
        """Whether every attempt at these samples is non-finite."""
        return self.trouble == "nan" and sample_start == SAMPLES_PER_SLOT * (self.slots + self.slots // 2)

    def is_too_large(self, sample_start: int, loss_scale: float) -> bool:
        """Whether every attempt at these samples overflows at that scale."""
        return loss_scale > 2.0 and sample_start // SAMPLES_PER_SLOT % 5 == 2

    def overflows(self, step: int) -> bool:
        return self.trouble == "overflow" and step == 1


@dataclass(frozen=True)
class Faults:
    """Probabilities per call, body, contribution or fold; `*_rate` per second of simulated time."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    break_push: float = 0.0
    nan: float = 0.0
    straggle: float = 0.0
    lose_part: float = 0.0
    kill_rate: float = 0.0
    leave_rate: float = 0.0
    stop_rate: float = 0.0
    break_link_rate: float = 0.0
    half_open_rate: float = 0.0
    """Of a link that works one way only for a while, and breaks."""
    crash: float = 0.0
    """Of a shard or the coordinator, between two effects."""
    open_slowly: float = 0.0
    """Of a shard that opens a job, as if its kernel were compiled."""
    crash_shard_rate: float = 0.0
    crash_coordinator_rate: float = 0.0
    lose_disk: float = 0.0
    """Of a shard that crashes, once there is a checkpoint."""
    lose_checkpoint: float = 0.0
    """Of a part or an index that is stored."""
    damage_part: float = 0.0
    """Of a checkpoint that is looked at: in one of its parts a bit has flipped."""
    rewind_rate: float = 0.0
    """Of an operator who goes back to some version that is kept."""
    save_rate: float = 0.0
    """Of one who wants a checkpoint now."""
    break_call_rate: float = 0.0
    """Of the connection that a worker's heartbeat is held on."""


CALM = Faults()


@dataclass(frozen=True)
class Scenario:
    seed: int
    setting: Setting
    shards: int
    part_slots: tuple[int, ...]
    """Room for parts, by shard; the lease window is the least of them."""
    workers: int
    takes_newer_versions: bool
    faults: Faults
    fault_seconds: float
    keeps_checkpoints: bool = False
    plans_ahead: bool = False
    """Workers load samples before they are leased."""
    clock_drift: float = 0.0
    """The most by which clocks go faster or slower than the world; 0: they are the world's."""


@cache
def job_of(setting: Setting) -> Job:
    """Built once per setting: validating a job is slow."""
    return parse_job(
        {
            "name": "sim",
            "batch": {
                "samples": SAMPLES_PER_SLOT * setting.slots,
                "slot_samples": SAMPLES_PER_SLOT,
                "weight": setting.weight,
                **MODES[setting.mode],
            },
            "data": {"samples": 1000},
            "optimizer": {"lr": {"peak": 0.1, "schedule": "poly", "warmup_steps": 2}, "clip_norm": 1.0},
            "stop": {"steps": setting.steps},
            "checkpoint": {"every_steps": 1, "keep": 2},
            "leases": {
                "seconds": LEASE_SECONDS,
                "straggler_seconds_min": 0.5,
                "straggler_factor": 2.0,
                "refused": setting.refused,
            },
            **({"loss_scale": {"initial": 8.0, "growth_steps": 2}} if setting.has_loss_scale else {}),
            "placement": {"split_above_bytes": SPLIT_ABOVE_BYTES[setting.splits]},
        }
    )


@cache
def geometry_of(shards: int, splits: bool) -> Geometry:
    return Geometry.of(MANIFEST, shards, job_of(Setting("sync", 1, 4, "", "samples", "skip", splits)))


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(f"scenario {seed}")
    mode = chance.choice(list(MODES))
    slots = 1 if mode == "async" else chance.choice((1, 2, 3, 4, 6, 8))
    trouble = chance.choice(("", "", "nan", "overflow"))
    refused = "skip" if trouble == "nan" else chance.choice(("skip", "pause"))
    steps = chance.randint(8, 12) if slots == 1 else max(3, 12 // slots)
    weight, splits = chance.choice(("samples", "tokens")), chance.random() < 0.75
    shards, window = chance.randint(1, 3), chance.randint(2, 8)
    drawn = Scenario(
        seed=seed,
        setting=Setting(mode, slots, steps, trouble, weight, refused, splits),
        shards=shards,
        part_slots=tuple(window + chance.choice((0, 0, 3)) for _ in range(shards)),
        workers=chance.randint(1, 5),
        takes_newer_versions=mode not in REPRODUCIBLE and chance.random() < 0.5,
        faults=_draw_faults(chance),
        fault_seconds=chance.uniform(2.0, 15.0),
        plans_ahead=chance.random() < 0.5,
        keeps_checkpoints=chance.random() < 0.6,
        clock_drift=0.1 if chance.random() < 0.5 else 0.0,
    )
    return _with_loss_scale(drawn) if mode != "async" and chance.random() < 0.2 else drawn


def _with_loss_scale(drawn: Scenario) -> Scenario:
    """Without gradients that are broken by chance: there they would be taken for an overflow."""
    setting, faults = replace(drawn.setting, has_loss_scale=True), replace(drawn.faults, nan=0.0)
    return replace(drawn, setting=setting, faults=faults)


def _draw_faults(chance: random.Random) -> Faults:
    def drawn(most: float) -> float:
        return most * chance.random() if chance.random() < 0.5 else 0.0

    return Faults(
        lose_request=drawn(0.15),
        lose_reply=drawn(0.15),
        duplicate=drawn(0.2),
        delay=drawn(0.2),
        break_push=drawn(0.15),
        nan=drawn(0.35),
        straggle=drawn(0.2),
        lose_part=drawn(0.15),
        kill_rate=drawn(0.4),
        leave_rate=drawn(0.3),
        stop_rate=drawn(0.3),
        break_link_rate=drawn(0.5),
        crash=drawn(0.004),
        crash_shard_rate=drawn(0.3),
        open_slowly=drawn(0.5),
        crash_coordinator_rate=drawn(0.2),
        lose_disk=drawn(1.0),
        lose_checkpoint=drawn(0.3),
        damage_part=drawn(0.5),
        rewind_rate=drawn(0.3),
        save_rate=drawn(1.0),
        break_call_rate=drawn(0.5),
        half_open_rate=drawn(0.4),
    )


def undisturbed(setting: Setting) -> Scenario:
    """One shard, one worker, no faults: the run every other must equal."""
    return Scenario(0, setting, 1, (4,), 1, False, CALM, 0.0)
