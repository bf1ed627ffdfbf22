"""What is planned for: the job, the fleet, its machines, and what work costs on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from sheepfold_wire.errors import BadConfig
from sheepfold_wire.manifest import BLOCK_ELEMENTS, ROW_ELEMENTS
from sheepfold_wire.plan import SHARDS_MAX

CODEC_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0 + 4.0 / ROW_ELEMENTS}
"""Bytes of one parameter on the wire; int8 has an fp32 scale for each row."""
DOWN_CODECS = ("fp32", "bf16", "fp16")
OPTIMIZER_BYTES = {"lamb": 40.0, "adam": 28.0}
"""Memory traffic of a step per parameter, fp32 state. Adam, in one pass, reads g, m, v, w and writes m, v, w;
LAMB reads these and writes m, v, u, then reads u, w and writes w."""
DURABILITIES = ("checkpoint", "wal", "wal_fsync")
MAY_BE_ZERO = {"delay", "compute_s", "tensor", "spare_workers", "host_cores", "round_trip_s"}
OPTIONS = {
    "compute_s": "--compute-seconds",
    "worker_link": "--nic",
    "server_link": "--server-nic",
    "server_memory": "--memory-bandwidth",
    "worker_memory": "--worker-memory-bandwidth",
    "server_cores": "--cores",
    "round_trip_s": "--round-trip",
    "host_cores": "--one-host",
}
"""Of fields that the command line calls by other names."""
CALL_THREADS_MAX = 16
"""Pushes and pulls that a worker has under way at a time."""


@dataclass(frozen=True, slots=True)
class Work:
    """The job: its model and its step."""

    parameters: int
    slots: int
    """K: contributions to a step."""
    up: str = "bf16"
    down: str = "fp32"
    delay: int = 0
    """Steps that a gradient's weights may be behind; 0: all pushes, then the step, then all pulls."""
    compute_s: float = 0.0
    """Of one slot on one worker."""
    optimizer: str = "lamb"
    durability: str = "wal"
    tensor: int = 0
    """Parameters of a typical large tensor; 0: not known, the shards are even within a tenth."""

    @property
    def up_bytes(self) -> float:
        return self.parameters * CODEC_BYTES[self.up]

    @property
    def down_bytes(self) -> float:
        return self.parameters * CODEC_BYTES[self.down]

    @property
    def blocks(self) -> int:
        return math.ceil(self.parameters / BLOCK_ELEMENTS)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who takes part. A worker and a shard have a machine each."""

    workers: int
    shards: int = 1
    spare_workers: int = 0
    """Of the workers: those that have nothing to do in a step while no other fails."""
    staging_bytes: int | None = None
    """Of a shard; None: what the chart gives it, or more if not all workers would find room."""
    worker_memory_bytes: int | None = None
    """Of a worker, or of the ranks of one host together; None: not compared."""


@dataclass(frozen=True, slots=True)
class Machines:
    """Rates in bytes per second; of a network card, in each direction."""

    worker_link: float = 12.5e9
    server_link: float = 12.5e9
    server_memory: float = 25e9
    """Traffic of one shard's memory. Default: compiled LAMB on two cores (`make bench-kernel`)."""
    worker_memory: float = 25e9
    """The same on a worker, where all-reduce runs the optimizer."""
    disk: float = 1e9
    server_cores: int = 16
    """Of a shard's machine, for its calls. They are taken to share the work; it was seen on two only."""
    threads: int = 1
    """Of a shard's optimizer step."""
    round_trip_s: float = 0.0002
    call_window_bytes: int = 1 << 20
    """What a server takes of one call in a round trip."""
    host_cores: int = 0
    """Not 0: all processes share one host of so many cores, and no network."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What work takes of a processor, in CPU-seconds; bytes are those on the wire.

    Defaults: `make bench-plan` on the README's machine, with a NumPy worker and the eager kernel.
    """

    push_client_s_per_byte: float = 1.37e-9
    push_server_s_per_byte: float = 1.96e-9
    """Received, checked, and added."""
    pull_client_s_per_byte: float = 1.09e-9
    pull_server_s_per_byte: float = 0.44e-9
    optimizer_s_per_parameter: float = 3.12e-9
    """The mean, the step, and its encoded copies."""
    step_s: float = 0.0109
    """A step of an empty model with one slot and one shard, from lease to lease: waiting, not CPU."""
    shard_s: float = 0.00084
    """What one more shard takes of the coordinator in a step."""
    slot_s: float = 0.0023
    """What one more slot takes of it."""
    message_s: float = 0.00054
    """What one more pair of slot and shard takes of it: staged, admitted, folded.

    The least certain: 0.1 to 1.3 ms in runs of one and two shards, 0.7 ms from one shard to four.
    """
    block_s: float = 1e-7
    """What one more block of 65,536 parameters takes of it, for each slot, from `tests.bench.plan_fleet`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """All of it."""

    work: Work
    fleet: Fleet
    machines: Machines = Machines()
    costs: Costs = Costs()


def check(setting: Setting) -> None:
    """Raises BadConfig for what cannot be or cannot work: what was given, and what to give instead."""
    work, fleet = setting.work, setting.fleet
    for record in (work, fleet, setting.machines, setting.costs):
        _check_signs(record)
    _check_choice("codec", work.up, tuple(CODEC_BYTES))
    _check_choice("down", work.down, DOWN_CODECS)
    _check_choice("optimizer", work.optimizer, tuple(OPTIMIZER_BYTES))
    _check_choice("durability", work.durability, DURABILITIES)
    if fleet.shards > SHARDS_MAX:
        raise BadConfig(f"--shards {fleet.shards}: a job has at most {SHARDS_MAX}")
    if work.tensor > work.parameters:
        raise BadConfig(
            f"--tensor {work.tensor} is larger than the model, --parameters {work.parameters}: give its "
            "parameters, not its bytes"
        )
    if fleet.spare_workers >= fleet.workers:
        raise BadConfig(
            f"--spare-workers {fleet.spare_workers} of --workers {fleet.workers} leaves nobody to compute: "
            "give fewer"
        )
    needed = fleet.workers - fleet.spare_workers
    if work.slots < needed:
        raise BadConfig(
            f"--slots {work.slots} for {needed} workers: {needed - work.slots} of them would have "
            f"nothing to do in every step; give --slots {needed} or more, or "
            f"--spare-workers {fleet.workers - work.slots}"
        )


def _check_signs(record: Work | Fleet | Machines | Costs) -> None:
    """What a job cannot be without is more than 0, all else 0 or more."""
    for field in fields(record):
        value = getattr(record, field.name)
        if value is None or isinstance(value, str):
            continue
        may_be_zero = isinstance(record, Costs) or field.name in MAY_BE_ZERO
        if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
            least = "0 or more" if may_be_zero else "more than 0"
            name = OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}")
            name = field.name if isinstance(record, Costs) else name
            raise BadConfig(f"{name} {value:g}: give a finite number, {least}")


def _check_choice(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise BadConfig(f"--{option} {given}: give one of {', '.join(known)}")
