"""`sheepfold plan`: shards, step time, memory and logs of a fleet, reckoned before it is there."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sheepfold_server.cli import quantities
from sheepfold_server.cli.plan_tables import tables
from sheepfold_server.planning.outlook import as_json, outlook
from sheepfold_server.planning.setting import Costs, Fleet, Machines, Setting, Work
from sheepfold_server.shell.options import READ_AHEAD_BYTES
from sheepfold_wire.errors import BadConfig

EPILOG = "Example: `sheepfold plan --parameters 340M --workers 64 --nic 100G --down bf16 --compute-seconds 2`"


def _option(kind: str, sentence: str) -> Any:
    return typer.Option(metavar=kind, help=sentence)


Parameters = Annotated[str, _option("COUNT", "Parameters of the model, such as 340M or 1.3B.")]
Workers = Annotated[
    str, _option("COUNT", "Machines that compute gradients; a host with several ranks is one.")
]
Shards = Annotated[
    int | None,
    _option(
        "COUNT",
        "Shards, each on its machine; left out: the fewest that are nearly the fastest.",
    ),
]
Slots = Annotated[
    str, _option("COUNT", "Slots of a step (K); left out: one for each worker that is not spare.")
]
Spare = Annotated[int, _option("COUNT", "Of the workers: those that only stand in for others.")]
Nic = Annotated[str, _option("BITS/S", "A worker's network card, in each direction.")]
ServerNic = Annotated[str, _option("BITS/S", "A shard's network card; left out: as --nic.")]
Codec = Annotated[str, _option("CODEC", "Of gradients: fp32, bf16, fp16 or int8.")]
Down = Annotated[str, _option("CODEC", "Of weights, the dtype of the workers' model: fp32, bf16 or fp16.")]
Compute = Annotated[float, _option("SECONDS", "What a worker computes for one slot.")]
Delay = Annotated[int, _option("STEPS", "As batch.delay: pushes, steps and pulls overlap if it is not 0.")]
Optimizer = Annotated[str, _option("RULE", "Traffic of memory in a step: lamb or adam.")]
Durability = Annotated[str, _option("LEVEL", "As durability.level: checkpoint, wal or wal_fsync.")]
Tensor = Annotated[
    str,
    _option("COUNT", "Parameters of a typical large tensor, to reckon how even the shards are; 0: unknown."),
]
Staging = Annotated[str, _option("BYTES", "As a shard's --staging-bytes; left out: enough for all workers.")]
WorkerMemory = Annotated[str, _option("BYTES", "Refuse a model that a worker cannot hold, such as 80G.")]
Bandwidth = Annotated[str, _option("BYTES/S", "Traffic of a shard's memory.")]
WorkerBandwidth = Annotated[
    str, _option("BYTES/S", "The same of a worker, for all-reduce; left out: as --memory-bandwidth.")
]
Disk = Annotated[str, _option("BYTES/S", "What a shard's disk writes.")]
Cores = Annotated[int, _option("COUNT", "Cores of a shard's machine that its calls share.")]
Threads = Annotated[int, _option("COUNT", "As a shard's --threads: of the optimizer step.")]
RoundTrip = Annotated[float, _option("SECONDS", "Between a worker and a shard.")]
Calibrate = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Costs as measured by `make bench-plan ARGS='--save FILE'`, as JSON."),
]
OneHost = Annotated[int, _option("CORES", "Not 0: everything shares one host of so many cores, no network.")]


def plan(
    parameters: Parameters,
    workers: Workers,
    nic: Nic = "100G",
    server_nic: ServerNic = "",
    codec: Codec = "bf16",
    down: Down = "fp32",
    shards: Shards = None,
    slots: Slots = "",
    spare_workers: Spare = 0,
    compute_seconds: Compute = 0.0,
    delay: Delay = 0,
    optimizer: Optimizer = "lamb",
    durability: Durability = "wal",
    tensor: Tensor = "0",
    staging_bytes: Staging = "",
    worker_memory: WorkerMemory = "",
    memory_bandwidth: Bandwidth = "25G",
    worker_memory_bandwidth: WorkerBandwidth = "",
    disk: Disk = "1G",
    cores: Cores = 16,
    threads: Threads = 1,
    round_trip: RoundTrip = 0.0002,
    one_host: OneHost = 0,
    calibrate: Calibrate = None,
    as_json_line: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead.")] = False,
) -> None:
    """Reckon shards, step time by term, memory and logs of a fleet, and what all-reduce would take.

    A model, not a measurement: terms of one phase are taken to overlap, and the longest is waited for.
    Costs of processors were measured on one machine; --calibrate gives yours. Needs no server.
    """
    number = quantities.count("--workers", workers)
    whole = quantities.count("--slots", slots) if slots else max(1, number - spare_workers)
    work = Work(
        quantities.count("--parameters", parameters),
        whole,
        codec,
        down,
        delay,
        compute_seconds,
        optimizer,
        durability,
        quantities.count("--tensor", tensor),
    )
    fleet = Fleet(
        number,
        spare_workers=spare_workers,
        staging_bytes=quantities.size("--staging-bytes", staging_bytes) if staging_bytes else None,
        worker_memory_bytes=quantities.size("--worker-memory", worker_memory) if worker_memory else None,
    )
    machines = Machines(
        worker_link=quantities.bit_rate("--nic", nic),
        server_link=quantities.bit_rate("--server-nic", server_nic or nic),
        server_memory=quantities.byte_rate("--memory-bandwidth", memory_bandwidth),
        worker_memory=quantities.byte_rate(
            "--worker-memory-bandwidth", worker_memory_bandwidth or memory_bandwidth
        ),
        disk=quantities.byte_rate("--disk", disk),
        server_cores=cores,
        threads=threads,
        round_trip_s=round_trip,
        call_window_bytes=READ_AHEAD_BYTES,
        host_cores=one_host,
    )
    found = outlook(Setting(work, fleet, machines, _costs(calibrate)), shards)
    if as_json_line:
        typer.echo(json.dumps(as_json(found)))
    else:
        Console().print(*tables(found), sep="\n\n")


def _costs(path: Path | None) -> Costs:
    """The defaults, with what the file replaces; raises BadConfig for what it should not hold."""
    if path is None:
        return Costs()
    known = {field.name for field in fields(Costs)}
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadConfig(f"--calibrate {path}: {error}") from None
    if not isinstance(values, dict) or not values:
        raise BadConfig(f"--calibrate {path}: give an object of JSON with some of {', '.join(sorted(known))}")
    for name, value in values.items():
        if name not in known:
            raise BadConfig(f"--calibrate {path}: {name} is none of {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadConfig(f"--calibrate {path}: {name} = {value!r}: give seconds, as a number")
    return replace(Costs(), **values)
