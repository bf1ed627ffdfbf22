"""Seconds of a step, term by term: what each resource needs in each phase, and which is waited for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from sheepfold_server.planning.memory import imbalance, part_parameters, window
from sheepfold_server.planning.network import Links, all_reduce_s
from sheepfold_server.planning.setting import CALL_THREADS_MAX, OPTIMIZER_BYTES, Setting
from sheepfold_wire.plan import SHARDS_MAX


class Phase(Enum):
    """One after the other in a step without delay; with it all at once, of different steps."""

    COMPUTE = "compute"
    UP = "push"
    OPTIMIZER = "optimizer"
    DOWN = "pull"
    ROUND = "round"


@dataclass(frozen=True, slots=True)
class Term:
    """Seconds for which a step needs a resource in a phase."""

    phase: Phase
    resource: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """A step: all its terms, and those that are waited for, whose seconds add up to it."""

    terms: tuple[Term, ...]
    waited: tuple[Term, ...]

    @property
    def seconds(self) -> float:
        return sum(term.seconds for term in self.waited)

    @property
    def dominant(self) -> Term:
        """Of those that are waited for, the longest."""
        return max(self.waited, key=lambda term: term.seconds)

    def of(self, phase: Phase, resource: str) -> float:
        return sum(term.seconds for term in self.terms if (term.phase, term.resource) == (phase, resource))


WORKER_LINK, SERVER_LINK = "a worker's link", "a shard's link"
WORKER_CHAIN, SERVER_CPU = "one worker's way to the shards", "a shard's processors"
SERVER_MEMORY, SERVER_DISK = "a shard's memory", "a shard's disk"
CALL_WINDOW, COORDINATOR = "round trips of the calls", "the coordinator"
HOST_CPU, WORKERS, ONE_STEP = "the host's processors", "the workers", "one step's way"
OF_SERVERS = (SERVER_LINK, SERVER_CPU, SERVER_MEMORY)


def live_workers(setting: Setting) -> int:
    """Who may hold a slot at a time: of W places for attempts one is kept for leasing again."""
    needed = setting.fleet.workers - setting.fleet.spare_workers
    return max(1, min(needed, setting.work.slots, window(setting.work, setting.fleet) - 1))


def rounds(setting: Setting) -> int:
    """Slots that a worker computes in a step, one after the other."""
    return math.ceil(setting.work.slots / live_workers(setting))


def step_time(setting: Setting) -> StepTime:
    """Without delay the phases follow each other, and each takes as long as its longest term.

    With delay s every resource works on other steps meanwhile, of which s+1 are under way: a bound, reached
    by a client that overlaps all it may.
    """
    terms = (*_compute(setting), *_up(setting), *_optimizer(setting), *_down(setting), *_round(setting))
    phased = tuple(
        max((term for term in terms if term.phase is phase), key=lambda term: term.seconds) for phase in Phase
    )
    if not setting.work.delay:
        return StepTime(terms, phased)
    way = Term(Phase.ROUND, ONE_STEP, sum(term.seconds for term in phased) / (setting.work.delay + 1))
    loads = [_load(terms, resource) for resource in dict.fromkeys(term.resource for term in terms)]
    return StepTime(terms, (max([way, *loads], key=lambda term: term.seconds),))


def _load(terms: tuple[Term, ...], resource: str) -> Term:
    """What a resource has to do in all phases; the two directions of a link are two resources."""
    mine = [term for term in terms if term.resource == resource]
    longest = max(mine, key=lambda term: term.seconds)
    if resource in (WORKER_LINK, SERVER_LINK, CALL_WINDOW):
        return longest
    return replace(longest, seconds=sum(term.seconds for term in mine))


def _compute(setting: Setting) -> list[Term]:
    return [Term(Phase.COMPUTE, WORKERS, rounds(setting) * setting.work.compute_s)]


def _up(setting: Setting) -> list[Term]:
    work, fleet, machines, costs = setting.work, setting.fleet, setting.machines, setting.costs
    mine, server = rounds(setting) * work.up_bytes, costs.push_server_s_per_byte
    arriving = _uneven(setting) * work.slots * work.up_bytes / fleet.shards
    held = arriving * 2 + 4 * part_parameters(work, fleet.shards) * (2 * work.slots - 1)
    found = _processors(setting, Phase.UP, mine, arriving, costs.push_client_s_per_byte, server)
    if machines.host_cores:
        return found
    return [
        *_moved(setting, Phase.UP, mine, arriving),
        *found,
        Term(Phase.UP, SERVER_MEMORY, held / machines.server_memory),
        Term(Phase.UP, COORDINATOR, coordinator_s(setting)),
    ]


def _down(setting: Setting) -> list[Term]:
    work, fleet, costs = setting.work, setting.fleet, setting.costs
    sent = _uneven(setting) * fleet.workers * work.down_bytes / fleet.shards
    client, server = costs.pull_client_s_per_byte, costs.pull_server_s_per_byte
    found = _processors(setting, Phase.DOWN, work.down_bytes, sent, client, server)
    if setting.machines.host_cores:
        return found
    return [*_moved(setting, Phase.DOWN, work.down_bytes, sent), *found]


def _moved(setting: Setting, phase: Phase, of_worker: float, of_shard: float) -> list[Term]:
    """Bytes of one worker and of one shard over their links."""
    machines = setting.machines
    calls = min(setting.fleet.shards, CALL_THREADS_MAX)
    waited = of_worker * machines.round_trip_s / (calls * machines.call_window_bytes)
    return [
        Term(phase, WORKER_LINK, of_worker / machines.worker_link),
        Term(phase, SERVER_LINK, of_shard / machines.server_link),
        Term(phase, CALL_WINDOW, waited),
    ]


def _processors(
    setting: Setting, phase: Phase, of_worker: float, of_shard: float, client: float, server: float
) -> list[Term]:
    """`client`, `server`: CPU-seconds per byte.

    One worker's way is a chain: it packs, then sends, then the shards check their parts, side by side.
    """
    fleet, machines = setting.fleet, setting.machines
    side_by_side = min(fleet.shards, machines.host_cores) if machines.host_cores else fleet.shards
    link = 0.0 if machines.host_cores else 1.0 / machines.worker_link
    chain = of_worker * (client + link + server * _uneven(setting) / side_by_side)
    found = [Term(phase, WORKER_CHAIN, chain)]
    if not machines.host_cores:
        return [*found, Term(phase, SERVER_CPU, of_shard * server / machines.server_cores)]
    total = of_worker * client * live_workers(setting) + of_shard * server * fleet.shards / _uneven(setting)
    return [*found, Term(phase, HOST_CPU, total / machines.host_cores)]


def _optimizer(setting: Setting) -> list[Term]:
    work, fleet, machines = setting.work, setting.fleet, setting.machines
    part = part_parameters(work, fleet.shards)
    cpu, written = setting.costs.optimizer_s_per_parameter, 0.0 if work.durability == "checkpoint" else 4.0
    if machines.host_cores:
        side_by_side = min(fleet.shards * machines.threads, machines.host_cores)
        return [Term(Phase.OPTIMIZER, HOST_CPU, work.parameters * cpu / side_by_side)]
    encoded = 4.0 + work.down_bytes / work.parameters
    return [
        Term(Phase.OPTIMIZER, SERVER_CPU, part * cpu / machines.threads),
        Term(
            Phase.OPTIMIZER,
            SERVER_MEMORY,
            part * (OPTIMIZER_BYTES[work.optimizer] + encoded) / machines.server_memory,
        ),
        Term(Phase.OPTIMIZER, SERVER_DISK, part * written / machines.disk),
    ]


def _round(setting: Setting) -> list[Term]:
    """What an empty step takes, with a round trip for each of lease, push, prepare, commit, norms, pull.

    On one host the coordinator's work on slots is not beside that of workers and shards, but between.
    """
    trips = 6 * setting.machines.round_trip_s
    if setting.machines.host_cores:
        trips = coordinator_s(setting)
    costs, more_shards = setting.costs, setting.fleet.shards - 1
    return [Term(Phase.ROUND, COORDINATOR, costs.step_s + more_shards * costs.shard_s + trips)]


def coordinator_s(setting: Setting) -> float:
    """What the slots of a step take of its one processor, beyond what a step of one slot takes."""
    work, costs = setting.work, setting.costs
    more_shards = setting.fleet.shards - 1
    return (
        (work.slots - 1) * costs.slot_s
        + work.slots * more_shards * costs.message_s
        + work.slots * work.blocks * costs.block_s
    )


def _uneven(setting: Setting) -> float:
    return imbalance(setting.work.parameters, setting.work.tensor, setting.fleet.shards)


def processors_s(setting: Setting) -> float:
    """CPU-seconds of all workers and shards in a step, without those of an empty one."""
    work, costs = setting.work, setting.costs
    up = work.slots * work.up_bytes * (costs.push_client_s_per_byte + costs.push_server_s_per_byte)
    pulled = setting.fleet.workers * work.down_bytes
    down = pulled * (costs.pull_client_s_per_byte + costs.pull_server_s_per_byte)
    return up + down + work.parameters * costs.optimizer_s_per_parameter


# --- how many shards, and against what --------------------------------------------------------------------


def servers_s(setting: Setting) -> float:
    """The shards' longest term of a push and of a pull together."""
    return sum(
        max(time.seconds for time in step_time(setting).terms if _is_of_servers(time, phase))
        for phase in (Phase.UP, Phase.DOWN)
    )


def _is_of_servers(term: Term, phase: Phase) -> bool:
    return term.phase is phase and term.resource in OF_SERVERS


def worker_s(setting: Setting) -> float:
    """What one worker's way takes, alone with so many shards that they cost it nothing."""
    costs, work = setting.costs, setting.work
    link = 1.0 / setting.machines.worker_link
    up = work.slots / (setting.fleet.workers - setting.fleet.spare_workers) * work.up_bytes
    return up * (link + costs.push_client_s_per_byte) + work.down_bytes * (
        link + costs.pull_client_s_per_byte
    )


def with_shards(setting: Setting, shards: int) -> Setting:
    return replace(setting, fleet=replace(setting.fleet, shards=shards))


def least_shards(setting: Setting) -> int | None:
    """The fewest shards that keep up with the workers; None if SHARDS_MAX do not.

    Their terms of push and pull are within what one worker needs by itself, and all find room to stage.
    """

    def keeps_up(shards: int) -> bool:
        tried = with_shards(setting, shards)
        needed = min(setting.work.slots, setting.fleet.workers - setting.fleet.spare_workers)
        has_room = window(tried.work, tried.fleet) > needed
        return has_room and servers_s(tried) <= worker_s(tried)

    most = 1
    while not keeps_up(most):
        if most == SHARDS_MAX:
            return None
        most = min(2 * most, SHARDS_MAX)
    least = most // 2 + 1 if most > 1 else 1
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if keeps_up(middle) else (middle + 1, most)
    return most


def fastest_shards(setting: Setting) -> int:
    """The fewest shards, of numbers a quarter apart, with which a step is within a tenth of the fastest."""
    counts, seconds = [1], list[float]()
    while counts[-1] < SHARDS_MAX:
        counts.append(min(SHARDS_MAX, max(counts[-1] + 1, counts[-1] * 5 // 4)))
    for shards in counts:
        tried = with_shards(setting, shards)
        is_impossible = window(tried.work, tried.fleet) < 2
        seconds.append(math.inf if is_impossible else step_time(tried).seconds)
        if seconds[-1] > 3.0 * min(seconds):
            break
    limit = 1.1 * min(seconds)
    return next(shards for shards, each in zip(counts, seconds, strict=False) if each <= limit)


def all_reduce_step_s(setting: Setting) -> float:
    """A step of the same job as a ring, where every worker applies the optimizer to the whole model.

    In its favour: gradients in the same codec both ways, no latency, no work of its processors for sending.
    """
    work, machines = setting.work, setting.machines
    links = Links(setting.fleet.workers, 0, machines.worker_link, machines.server_link)
    compute = math.ceil(work.slots / setting.fleet.workers) * work.compute_s
    ring = all_reduce_s(work.up_bytes, work.up_bytes, links)
    return compute + ring + work.parameters * OPTIMIZER_BYTES[work.optimizer] / machines.worker_memory


def break_even_shards(setting: Setting) -> int | None:
    """The fewest shards, by doubling, with which a step takes no longer than all-reduce; None if none do."""
    limit, shards = all_reduce_step_s(setting), 1
    while shards <= SHARDS_MAX:
        if step_time(with_shards(setting, shards)).seconds <= limit:
            return shards
        shards *= 2
    return None
