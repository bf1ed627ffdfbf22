"""What `sheepfold plan` predicts, beside what real fleets on this machine take.

    python -m tests.bench.plan [--steps 14] [--save COSTS.json]

Costs are measured with one configuration (1 worker, 1 shard, 11.7 M parameters), those of empty steps with a
model of one row; then steps of 1 and 2 workers, 1 and 2 shards, 1 and 11.7 M parameters are predicted and
measured. Real servers under `up`'s supervisor, each worker a process (NumPy, computing nothing), gradients
in bf16, weights in fp32, eager kernel, level `checkpoint`. On a machine with other work a CPU-second takes
longer than one: `waiting`, as the calibrated configuration has it, is what predictions are multiplied by,
so that its own row has no error and is left out of the medians. One line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.bench.plan_worker import COLUMNS, LAYER, cpu_seconds

from sheepfold.transport.shared_memory import VARIABLE as SHARED_MEMORY
from sheepfold_server.planning.setting import Costs, Fleet, Machines, Setting, Work
from sheepfold_server.planning.step import Phase, processors_s, step_time
from sheepfold_server.shell.supervisor import Supervisor, UpConfig
from sheepfold_wire.job import Job, parse_job

SMALL, LARGE = 1_000_000 // COLUMNS * COLUMNS, 11_700_000 // COLUMNS * COLUMNS
CALIBRATED = (1, 1, LARGE)
"""Workers, shards, parameters."""
WARM_UP = 3
SLOTS = 4
"""Of a step, in the other run of the calibrated configuration."""
EMPTY_SLOTS, EMPTY_STEPS = 16, 24
PULLS = 6
SECONDS_MAX = 90.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Medians over one worker's moves of a kind."""

    seconds: float
    client_cpu_s: float
    server_cpu_s: float


class Servers:
    """A coordinator and its shards, and the jobs that were run on them."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._address = supervisor.connection.secret
        self._coordinator = supervisor.coordinator.pid
        self._shards = [child.pid for child in supervisor.shards]
        self._jobs = 0
        self.coordinator_s_per_step = 0.0
        """CPU-seconds, in the job that was run last."""

    def run(
        self, workers: int, parameters: int, slots: int, steps: int, pulls: int = 0, tensors: int = 0
    ) -> list[dict[str, Taken]]:
        """Trains; the moves of each worker, by kind. `tensors`: so many of equal size, 0: layers."""
        self._jobs += 1
        job = job_of(f"bench-{self._jobs}", slots, steps + WARM_UP)
        pids = ",".join(map(str, self._shards))
        given = [self._address, job.to_json(), str(parameters), pids, str(pulls), str(tensors)]
        command = [sys.executable, "-m", "tests.bench.plan_worker", *given]
        environ = {**os.environ, SHARED_MEMORY: "0"}  # the fleet that is planned has a network
        pipe = subprocess.PIPE
        running = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ) for _ in range(workers)
        ]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        before = cpu_seconds([self._coordinator])
        for process in running:  # all are attached: none computes what was meant for one that starts later
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [process.communicate(timeout=SECONDS_MAX)[0] for process in running]
        if any(process.returncode for process in running):
            raise RuntimeError(f"a worker of {job.name} ended with {[p.returncode for p in running]}")
        self.coordinator_s_per_step = (cpu_seconds([self._coordinator]) - before) / job.stop.steps
        return [medians(text, slots * WARM_UP // workers) for text in told]


def job_of(name: str, slots: int, steps: int) -> Job:
    return parse_job(
        {
            "name": name,
            "batch": {"samples": slots, "slot_samples": 1},
            "data": {"mode": "free"},
            "optimizer": {"lr": {"peak": 0.001}},
            "stop": {"steps": steps},
            "numerics": {"kernel": "eager"},
            "report": {"cosines_every": 0},
            "durability": {"level": "checkpoint"},
            "checkpoint": {"every_minutes": 0},
        }
    )


def medians(text: str, warm_up: int) -> dict[str, Taken]:
    """By kind of move; `warm_up`: moves beside pulls that are left out at the beginning."""
    moves = [json.loads(line) for line in text.splitlines()]
    pulls = [move for move in moves if move[0] == "pull"]
    kept = pulls + [move for move in moves if move[0] != "pull"][warm_up:]
    found = {}
    for kind in {move[0] for move in kept}:
        columns = zip(*(move[1:] for move in kept if move[0] == kind), strict=True)
        found[kind] = Taken(*(statistics.median(column) for column in columns))
    return found


@contextmanager
def servers(shards: int) -> Iterator[Servers]:
    with tempfile.TemporaryDirectory() as folder:
        kept = str(Path(folder) / "checkpoints")
        config = UpConfig(Path(folder), shards, port=0, dashboard_port=0, checkpoint_url=kept)
        supervisor = Supervisor(config, threading.Event(), print)
        supervisor.start()
        try:
            yield Servers(supervisor)
        finally:
            supervisor.stop()


@dataclass(frozen=True, slots=True)
class Empty:
    """Steps of a model of one row."""

    step: Taken
    slot: Taken
    """One that is not its step's last."""
    coordinator_s_per_step: float
    """CPU-seconds, with one slot."""
    coordinator_s_per_slot: float
    """CPU-seconds of one more."""


def empty_steps(fleet: Servers) -> Empty:
    (one,) = fleet.run(1, COLUMNS, 1, 4 * EMPTY_STEPS)
    by_step = fleet.coordinator_s_per_step
    (many,) = fleet.run(1, COLUMNS, EMPTY_SLOTS, EMPTY_STEPS)
    by_slot = (fleet.coordinator_s_per_step - by_step) / (EMPTY_SLOTS - 1)
    return Empty(one["step"], many["slot"], by_step, by_slot)


def calibrated(alone: Taken, several: list[dict[str, Taken]], empty: Empty) -> Costs:
    """Costs of bytes and parameters, from one configuration: steps of one slot, and of several.

    What a slot more takes is a push, whenever it is folded. Pulls were timed alone on the server.
    """
    up, down = 2.0 * LARGE, 4.0 * LARGE

    def push(of: str) -> float:
        steps = ((SLOTS - 1) * getattr(each["slot"], of) + getattr(each["step"], of) for each in several)
        return (statistics.mean(steps) - getattr(alone, of)) / (SLOTS - 1)

    client, server = push("client_cpu_s"), push("server_cpu_s")
    pull = statistics.mean(each["pull"].server_cpu_s for each in several)
    optimizer = alone.server_cpu_s - server - pull - empty.step.server_cpu_s
    return replace(
        Costs(),
        push_client_s_per_byte=client / up,
        push_server_s_per_byte=server / up,
        pull_client_s_per_byte=(alone.client_cpu_s - client - empty.step.client_cpu_s) / down,
        pull_server_s_per_byte=pull / down,
        optimizer_s_per_parameter=max(0.0, optimizer) / LARGE,
        step_s=empty.step.seconds,
        slot_s=empty.coordinator_s_per_slot,
    )


def of_one_host(costs: Costs, one: Empty, two: Empty) -> Costs:
    """Workers, shards and coordinator share processors: a slot more takes of them what all its parts take."""
    cores = os.cpu_count() or 1
    slots = [
        each.slot.client_cpu_s + each.slot.server_cpu_s + each.coordinator_s_per_slot for each in (one, two)
    ]
    return replace(
        costs,
        slot_s=slots[0] / cores,
        message_s=max(0.0, slots[1] - slots[0]) / cores,
        shard_s=max(0.0, two.step.seconds - one.step.seconds),
        block_s=0.0,
    )


def setting_of(workers: int, shards: int, parameters: int, costs: Costs) -> Setting:
    work = Work(parameters, workers, "bf16", "fp32", durability="checkpoint", tensor=min(LAYER, parameters))
    return Setting(work, Fleet(workers, shards), Machines(host_cores=os.cpu_count() or 1), costs)


def measured(fleet: Servers, workers: int, parameters: int, steps: int, tensors: int = 0) -> Taken:
    """A step: seconds, and CPU-seconds of all workers and of the shards."""
    moves = fleet.run(workers, parameters, workers, steps, tensors=tensors)
    found = [each["step"] for each in moves]
    return Taken(
        statistics.mean(each.seconds for each in found),
        sum(each.client_cpu_s for each in found),
        statistics.mean(each.server_cpu_s for each in found),
    )


def seconds_of(key: tuple[int, int, int], costs: Costs) -> tuple[float, float]:
    """Predicted: of bytes and parameters, work of processors; and of an empty step, as it was timed."""
    time = step_time(setting_of(*key, costs))
    still = sum(term.seconds for term in time.waited if term.phase is Phase.ROUND)
    return time.seconds - still, still


def row_of(
    key: tuple[int, int, int], found: Taken, costs: Costs, waiting: float, empty: Empty
) -> dict[str, float]:
    workers, shards, parameters = key
    moved, still = seconds_of(key, costs)
    predicted = moved * waiting + still
    step, slot = empty.step, empty.slot
    cpu = processors_s(setting_of(*key, costs)) + step.client_cpu_s + step.server_cpu_s
    used = found.client_cpu_s + found.server_cpu_s
    cpu += (workers - 1) * (slot.client_cpu_s + slot.server_cpu_s)
    return {
        "workers": workers,
        "shards": shards,
        "parameters": parameters,
        "predicted_s": predicted,
        "measured_s": found.seconds,
        "error": predicted / found.seconds - 1.0,
        "cpu_predicted_s": cpu,
        "cpu_measured_s": used,
        "cpu_error": cpu / used - 1.0,
    }


def measure(steps: int) -> tuple[Costs, dict[str, object]]:
    found: dict[tuple[int, int, int], Taken] = {}
    with servers(1) as fleet:
        one = empty_steps(fleet)
        several = fleet.run(1, LARGE, SLOTS, steps // 2, PULLS)
        for workers, parameters in ((1, LARGE), (2, LARGE), (1, SMALL), (2, SMALL)):
            found[workers, 1, parameters] = measured(fleet, workers, parameters, steps)
        several += fleet.run(1, LARGE, SLOTS, steps // 2, PULLS)
    with servers(2) as fleet:
        two = empty_steps(fleet)
        for workers, parameters in ((1, LARGE), (2, LARGE), (1, SMALL), (2, SMALL)):
            found[workers, 2, parameters] = measured(fleet, workers, parameters, steps)
    costs = replace(
        calibrated(found[CALIBRATED], several, one),
        shard_s=max(0.0, two.coordinator_s_per_step - one.coordinator_s_per_step),
        message_s=max(0.0, two.coordinator_s_per_slot - one.coordinator_s_per_slot),
    )
    here = of_one_host(costs, one, two)
    moved, still = seconds_of(CALIBRATED, here)
    waiting = max(0.0, found[CALIBRATED].seconds - still) / moved
    rows = [row_of(key, each, here, waiting, (one, two)[key[1] - 1]) for key, each in found.items()]
    others = [row for row, key in zip(rows, found, strict=True) if key != CALIBRATED]
    return costs, {
        "bench": "plan",
        "rows": [{name: round(value, 4) for name, value in row.items()} for row in rows],
        "calibrated": list(CALIBRATED),
        "waiting": round(waiting, 3),
        "load": round(os.getloadavg()[1], 2),
        "costs": {name: float(f"{value:.3g}") for name, value in asdict(costs).items()},
        "error_median": round(statistics.median(abs(row["error"]) for row in others), 3),
        "cpu_error_median": round(statistics.median(abs(row["cpu_error"]) for row in others), 3),
    }


def show(rows: list[dict[str, float]]) -> None:
    print("workers shards parameters   predicted  measured  error   CPU predicted  measured  error")
    for row in rows:
        print(
            f"{row['workers']:7} {row['shards']:6} {row['parameters']:10,}  {row['predicted_s']:8.3f} s"
            f" {row['measured_s']:7.3f} s {row['error']:+6.0%}   {row['cpu_predicted_s']:11.3f} s"
            f" {row['cpu_measured_s']:7.3f} s {row['cpu_error']:+6.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=14, help="that are measured, of each configuration")
    parser.add_argument("--save", type=Path, default=None, help="a file for `sheepfold plan --calibrate`")
    given = parser.parse_args()
    costs, result = measure(given.steps)
    if given.save is not None:
        given.save.write_text(json.dumps(asdict(costs), indent=1) + "\n")
    rows = result["rows"]
    assert isinstance(rows, list)
    show(rows)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
