"""A fleet on modelled links: the real Coordinator and Shards, beside what `sheepfold plan` says of it.

    python -m tests.bench.plan_fleet [--workers 64] [--shards 4] [--parameters 340000000] [--steps 2]

Every decision is that of the product's cores; workers lease, pull and push in their simplest form. Links are
queues: a push leaves its worker's link, then takes its turn on the shard's, a pull the other way.
Processors, memory and the coordinator take no simulated time, so a step is compared with the plan's terms of
links alone. With many workers it is shorter than these: who is served first pushes while others still pull,
where shards that serve all alike make phases. What the coordinator's decisions take of a real processor is
measured, without gRPC. One line of JSON comes last.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.core.shard import Shard
from sheepfold_server.core.state import Geometry
from sheepfold_server.planning.setting import Costs, Fleet, Machines, Setting, Work
from sheepfold_server.planning.step import coordinator_s, step_time
from sheepfold_wire import messages as m
from sheepfold_wire.codecs import Codec
from sheepfold_wire.job import Job, parse_job
from sheepfold_wire.manifest import Manifest, TensorSpec

NAME = "fleet"
TENSOR = 1 << 20
LINK = 12.5e9
TRIP_SECONDS = 0.0002
STAGING_PARTS = 1 << 20


def job_of(workers: int, steps: int) -> Job:
    return parse_job(
        {
            "name": NAME,
            "batch": {"samples": workers, "slot_samples": 1},
            "data": {"mode": "free"},
            "optimizer": {"lr": {"peak": 0.001}},
            "stop": {"steps": steps},
            "leases": {"seconds": 3600.0},
            "report": {"cosines_every": 0},
        }
    )


class Queue:
    """A link in one direction: what comes later waits."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def carry(self, now: float, size: int) -> float:
        """When the last byte is over."""
        self._free_at = max(now, self._free_at) + size / LINK
        return self._free_at


class World:
    """Time, links, one coordinator, shards and workers."""

    def __init__(self, workers: int, shards: int, parameters: int, steps: int) -> None:
        self.job, whole = job_of(workers, steps), max(1, parameters // TENSOR)
        size = min(TENSOR, parameters)
        tensors = (TensorSpec(f"t{number}", (size,), "float32", "parameter") for number in range(whole))
        self.manifest = Manifest(tuple(tensors))
        self.geometry = Geometry.of(self.manifest, shards, self.job)
        self.coordinator = Coordinator(self.job, shards, 1, "lineage", "")
        self.shards: dict[int, Shard] = {}
        self.workers, self.count = workers, shards
        self.now, self.said = 0.0, Counter[str]()
        self.cpu_s = {"coordinator": 0.0, "shards": 0.0}
        self.published: list[tuple[float, float, Counter[str]]] = []
        """For each step: when, the coordinator's CPU-seconds and messages since the beginning."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._calls: dict[int, Callable[[Any], None]] = {}
        self._bodies: dict[tuple[int, int], tuple[int, Callable[[], None]]] = {}
        self._pulls: dict[tuple[int, int], Callable[[], None]] = {}
        self._links = {(kind, number): Queue() for kind in ("up", "down") for number in range(workers)}
        self._links |= {(kind, number): Queue() for kind in ("in", "out") for number in range(shards)}

    # --- time -------------------------------------------------------------------------------------------

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, self.number(), act))

    def run(self) -> None:
        request = m.CreateJobRequest("1", self.job.to_json())
        self.tell(e.FromWorker(self.number(), request))
        for shard in range(self.count):
            hello = m.Hello(
                shard + 1, shard, self.count, f"shard-{shard}", "eager/cpu", 1 << 40, keeps_log=False
            )
            self.tell(e.ShardUp(shard, shard + 1, hello, False))
        text = self.manifest.to_json()
        for worker in range(self.workers):
            attach = m.AttachRequest(NAME, f"w{worker}", "host", worker, text)
            self.call(attach, partial(self._attached, worker))
        while self._heap:
            self.now, _, act = heapq.heappop(self._heap)
            act()

    # --- the coordinator --------------------------------------------------------------------------------

    def tell(self, event: e.CoordinatorEvent) -> None:
        said: object = event.report if isinstance(event, e.FromShard) else event
        said = event.request if isinstance(event, e.FromWorker) else said
        self.said[type(said).__name__] += 1
        began = time.process_time()
        effects = self.coordinator.handle(event, self.now)
        self.cpu_s["coordinator"] += time.process_time() - began
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: e.CoordinatorEffect) -> None:
        match effect:
            case e.Answer(caller, reply) if caller in self._calls:
                self.at(self.now + TRIP_SECONDS / 2, partial(self._calls.pop(caller), reply))
            case e.Refuse(error=error):
                raise error
            case e.ToShard(shard, command):
                self.said[type(command).__name__] += 1
                self.at(self.now + TRIP_SECONDS / 2, partial(self._command, shard, command))
            case e.Persist(number):
                self.tell(e.Persisted(number))
            case e.Publish():
                self.published.append((self.now, self.cpu_s["coordinator"], Counter(self.said)))

    def call(self, request: Any, answered: Callable[[Any], None]) -> None:
        caller = self.number()
        self._calls[caller] = answered
        self.at(self.now + TRIP_SECONDS / 2, partial(self.tell, e.FromWorker(caller, request)))

    # --- shards -----------------------------------------------------------------------------------------

    def _command(self, shard: int, command: m.ShardCommand) -> None:
        if isinstance(command, m.OpenJob):
            self.shards[shard] = Shard(self._fixed(shard, command))
        self.hand(shard, e.Command(command))

    def part_bytes(self, shard: int, codec: Codec = Codec.BF16) -> int:
        return self.geometry.plan.part_bytes(shard, codec)

    def _fixed(self, shard: int, command: m.OpenJob) -> ShardJob:
        return ShardJob(
            job=NAME,
            shard=shard,
            incarnation=shard + 1,
            term=command.term,
            lineage=command.lineage,
            manifest_digest=self.manifest.digest,
            plan_digest=self.geometry.plan.digest,
            codec="bf16",
            part_bytes=self.part_bytes(shard),
            init_bytes=self.part_bytes(shard, Codec.FP32),
            presence_bytes=-(-len(self.manifest.tensors) // 8),
            part_slots=STAGING_PARTS,
            open_steps=self.job.batch.open_steps,
            delay=self.job.batch.delay,
            holds_split=shard in self.geometry.split_shards,
        )

    def hand(self, shard: int, event: e.ShardEvent) -> None:
        began = time.process_time()
        effects = self.shards[shard].handle(event)
        self.cpu_s["shards"] += time.process_time() - began
        for effect in effects:
            self._of_shard(shard, effect)

    def _of_shard(self, shard: int, effect: e.ShardEffect) -> None:
        squares = (1.0,) * len(self.geometry.blocks_of_shard[shard])
        match effect:
            case e.Report(report):
                self.at(self.now + TRIP_SECONDS / 2, partial(self.tell, e.FromShard(shard, report)))
            case e.ReceiveBody(token):
                size, _ = self._bodies[shard, token]
                over = self._links["in", shard].carry(self.now, size)
                self.at(over, partial(self.hand, shard, e.PushReceived(token, e.PartCheck(squares))))
            case e.AnswerPush(token):
                self.at(self.now + TRIP_SECONDS / 2, self._bodies.pop((shard, token))[1])
            case e.RefusePush(error=error) | e.RefusePull(error=error):
                raise error
            case e.ServePull(token):
                over = self._links["out", shard].carry(self.now, self.part_bytes(shard))
                self.at(over, self._pulls.pop((shard, token)))
            case _:
                answer = computed(effect, squares)
                if answer is not None:
                    self.at(self.now, partial(self.hand, shard, answer))

    # --- workers ----------------------------------------------------------------------------------------

    def _attached(self, worker: int, reply: m.AttachReply) -> None:
        self._ask(worker)

    def _ask(self, worker: int, version: int = -1) -> None:
        request = m.LeaseRequest(NAME, f"w{worker}", (), 3600.0)
        self.call(request, partial(self._leased, worker, version))

    def _leased(self, worker: int, version: int, reply: m.LeaseReply) -> None:
        lease = reply.lease
        if lease is None:
            if reply.state != "ended":
                self._ask(worker, version)
        elif lease.is_init or lease.base_version == version:
            self._push(worker, lease)
        else:
            left = [self.count]
            for shard in range(self.count):
                token = self.number()
                self._pulls[shard, token] = partial(self._pulled, worker, shard, left, lease)
                asked = e.PullAsked(token, lease.base_version)
                self.at(self.now + TRIP_SECONDS / 2, partial(self.hand, shard, asked))

    def _pulled(self, worker: int, shard: int, left: list[int], lease: m.Lease) -> None:
        over = self._links["down", worker].carry(self.now, self.part_bytes(shard))
        self.at(over, partial(self._one_less, left, partial(self._push, worker, lease)))

    def _push(self, worker: int, lease: m.Lease) -> None:
        """One part after the other leaves; each worker begins with another shard."""
        left, codec = [self.count], Codec.FP32 if lease.is_init else Codec.BF16
        present = b"\xff" * -(-len(self.manifest.tensors) // 8)
        facts = m.Facts(lease.sample_count or 1, 1.0, lease.base_version, present)
        done = partial(self._ask, worker, lease.base_version)
        for shard in ((worker + each) % self.count for each in range(self.count)):
            size, token = self.part_bytes(shard, codec), self.number()
            fixed = self.shards[shard].job
            header = m.PushHeader(
                job=NAME,
                attempt=lease.attempt,
                shard=shard,
                incarnation=fixed.incarnation,
                term=fixed.term,
                manifest_digest=fixed.manifest_digest,
                plan_digest=fixed.plan_digest,
                codec=codec.value,
                payload_bytes=size,
                payload_digest=b"12345678",
                facts=facts,
            )
            self._bodies[shard, token] = size, partial(self._one_less, left, done)
            sent = self._links["up", worker].carry(self.now, size) + TRIP_SECONDS / 2
            self.at(sent, partial(self.hand, shard, e.PushOpened(token, header)))

    def _one_less(self, left: list[int], then: Callable[[], None]) -> None:
        left[0] -= 1
        if not left[0]:
            then()


def computed(effect: e.ShardEffect, squares: tuple[float, ...]) -> e.ShardEvent | None:
    """What a kernel of no time answers."""
    match effect:
        case e.LogInit(staged):
            return e.InitLogged(staged)
        case e.LoadState():
            return e.Loaded()
        case e.FoldSlots(step, fold):
            return e.FoldDone(step, fold)
        case e.FinishSum(step, fold):
            return e.SumReady(step, fold, True, 1.0, squares)
        case e.Append(step, fold):
            return e.Appended(step, fold)
        case e.ComputeDirections(decision):
            return e.DirectionsReady(decision.step, ())
        case e.ApplyUpdate(decision):
            return e.WeightsReady(decision.step, ())
        case e.SkipStep(step) | e.Halt(step):
            raise AssertionError(f"{effect}: nothing here is wrong")
    return None


def links_alone(workers: int, shards: int, parameters: int) -> float:
    """Seconds of a step as planned, where processors, memory and disks take none."""
    free = replace(Costs(), **dict.fromkeys((field.name for field in fields(Costs)), 0.0))
    work = Work(parameters, workers, "bf16", "bf16", durability="checkpoint", tensor=min(TENSOR, parameters))
    quick = Machines(LINK, LINK, 1e30, 1e30, 1e30, round_trip_s=TRIP_SECONDS)
    return step_time(Setting(work, Fleet(workers, shards), quick, free)).seconds


def measure(workers: int, shards: int, parameters: int, steps: int) -> dict[str, object]:
    world = World(workers, shards, parameters, steps + 1)
    world.run()
    if len(world.published) < steps + 1:
        raise RuntimeError(
            f"{len(world.published)} of {steps + 1} steps; at {world.now:.1f} s nothing goes on"
        )
    (begun, cpu, said), (ended, cpu_end, said_end) = world.published[0], world.published[-1]
    each = {
        name: round((said_end[name] - said[name]) / steps, 1)
        for name in said_end
        if said_end[name] > said[name]
    }
    planned = coordinator_s(Setting(Work(parameters, workers, "bf16", "bf16"), Fleet(workers, shards)))
    return {
        "bench": "plan_fleet",
        "workers": workers,
        "shards": shards,
        "parameters": parameters,
        "step_s": round((ended - begun) / steps, 4),
        "planned_links_s": round(links_alone(workers, shards, parameters), 4),
        "coordinator_cpu_s": round((cpu_end - cpu) / steps, 3),
        "planned_coordinator_s": round(planned, 3),
        "messages": sum(each.values()),
        "messages_by_kind": dict(sorted(each.items(), key=lambda item: -item[1])),
        "shards_cpu_s": round(world.cpu_s["shards"] / (steps + 1), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=340_000_000)
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    print(json.dumps(measure(given.workers, given.shards, given.parameters, given.steps)))


if __name__ == "__main__":
    main()
