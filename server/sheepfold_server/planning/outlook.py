"""All that is told of a setting: one value, with the numbers of tables and of JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sheepfold_server.planning import memory
from sheepfold_server.planning.network import (
    Links,
    all_reduce_s,
    best_share_duplex,
    best_share_phased,
    dedicated_s,
    mixed_s,
)
from sheepfold_server.planning.setting import Setting, check
from sheepfold_server.planning.step import (
    StepTime,
    all_reduce_step_s,
    break_even_shards,
    fastest_shards,
    least_shards,
    live_workers,
    rounds,
    step_time,
    with_shards,
)
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.plan import SHARDS_MAX

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """A setting and what comes of it."""

    setting: Setting
    is_given: bool
    """Whether the number of shards was; else it is the least with which a step is nearly the fastest."""
    keeps_up: int | None
    """The least number that keeps up with the workers; None: none does."""
    time: StepTime
    others: dict[int, float]
    """Seconds of a step with fewer and with more shards."""
    with_twice_the_slots_s: float

    @property
    def fan_in(self) -> float:
        """Workers for each shard."""
        return self.setting.fleet.workers / self.setting.fleet.shards


def outlook(setting: Setting, shards: int | None) -> Outlook:
    """With `shards`, or with as many as it takes; raises BadConfig for what cannot be."""
    check(setting if shards is None else with_shards(setting, shards))
    _check_worker(setting)
    chosen = fastest_shards(setting) if shards is None else shards
    found = with_shards(setting, chosen)
    _check_staging(found)
    tried = [each for each in (chosen // 4, chosen // 2, 2 * chosen) if 1 <= each <= SHARDS_MAX]
    others = {each: step_time(with_shards(setting, each)).seconds for each in dict.fromkeys(tried)}
    twice = replace(
        found, work=replace(found.work, slots=2 * found.work.slots, compute_s=found.work.compute_s / 2)
    )
    return Outlook(
        found, shards is not None, least_shards(setting), step_time(found), others, step_time(twice).seconds
    )


def _check_worker(setting: Setting) -> None:
    needed, given = memory.worker_memory_bytes(setting.work), setting.fleet.worker_memory_bytes
    if given is not None and needed > given:
        raise BadConfig(
            f"a worker holds the whole model: {needed / 1e9:,.1f} GB for weights, gradients and what is on "
            f"its way, --worker-memory is {given / 1e9:,.1f} GB; give machines with more, or a smaller model"
        )


def _check_staging(setting: Setting) -> None:
    places = memory.window(setting.work, setting.fleet)
    if places < 2:
        part = 4 * memory.part_parameters(setting.work, setting.fleet.shards)
        raise BadConfig(
            f"--staging-bytes {memory.staging_bytes(setting.work, setting.fleet)} of a shard has to hold "
            f"its part in fp32 ({part} bytes) and 2 contributions: give more, or more shards"
        )


def network(setting: Setting) -> dict[str, float]:
    """Seconds of the network alone, by layout, as if links were all that counts and shards even."""
    work, fleet, machines = setting.work, setting.fleet, setting.machines
    links = Links(fleet.workers, fleet.shards, machines.worker_link, machines.server_link)
    up, down, is_duplex = work.up_bytes, work.down_bytes, work.delay > 0
    share = best_share_duplex(up, down, links) if is_duplex else best_share_phased(fleet.workers)
    return {
        "all_reduce_s": all_reduce_s(up, up, links),
        "dedicated_s": dedicated_s(up, down, links, is_duplex),
        "best_share_on_each_worker": share,
        "best_share_s": mixed_s(share, up, down, links, is_duplex),
    }


def notes(found: Outlook) -> list[str]:
    """What a reader should not overlook."""
    setting = found.setting
    work, fleet = setting.work, setting.fleet
    said, live = [], live_workers(setting)
    able = min(work.slots, fleet.workers - fleet.spare_workers)
    if live < able:
        said.append(
            f"staging has room for {live} slots at a time, so {able - live} workers wait; "
            f"--staging-bytes {memory.staging_bytes_for_all(work, fleet)} lets all work"
        )
    elif memory.staging_bytes(work, fleet) > memory.chart_staging_bytes(work, fleet.shards):
        said.append(
            f"start shards with --staging-bytes {memory.staging_bytes(work, fleet)} (the chart: "
            "shards.stagingBytes): the default has no room for all workers at a time"
        )
    idle = rounds(setting) * live - work.slots
    if live == able and idle * 10 > rounds(setting) * live:
        said.append(f"{work.slots} slots on {live} workers: in the last round {idle} of them have none")
    if memory.is_finer_than_tensors(work, fleet.shards):
        said.append(
            f"parts of {work.parameters // fleet.shards:,} parameters are smaller than tensors that stay "
            "whole (up to 2,097,152): shards may be uneven by more than a tenth; --tensor says by how much"
        )
    if work.delay:
        said.append("with a delay the step is a bound, reached only by a client that overlaps all it may")
    return said


def as_json(found: Outlook) -> dict[str, Any]:
    """Every number, in seconds, bytes and counts."""
    setting = found.setting
    work, fleet = setting.work, setting.fleet
    seconds = found.time.seconds
    return {
        "shards": fleet.shards,
        "shards_are_given": found.is_given,
        "shards_that_keep_up": found.keeps_up,
        "workers_per_shard": found.fan_in,
        "step_s": seconds,
        "dominant": {"phase": found.time.dominant.phase.value, "resource": found.time.dominant.resource},
        "waited": [_term(term) for term in found.time.waited],
        "terms": [_term(term) for term in found.time.terms],
        "step_s_by_shards": found.others,
        "slots": {
            "count": work.slots,
            "per_worker": work.slots / (fleet.workers - fleet.spare_workers),
            "rounds": rounds(setting),
            "at_a_time": live_workers(setting),
            "window": memory.window(work, fleet),
            "step_s_with_twice_as_many": found.with_twice_the_slots_s,
        },
        "memory_bytes": {
            "worker": memory.worker_memory_bytes(work),
            "worker_with_all_reduce": memory.all_reduce_memory_bytes(work),
            "shard": memory.shard_memory_bytes(work, fleet),
            "staging": memory.staging_bytes(work, fleet),
            "coordinator": memory.coordinator_memory_bytes(work, fleet),
        },
        "log_bytes": {
            "shards_per_step": memory.shard_log_bytes(work),
            "coordinator_per_step": memory.coordinator_log_bytes(work),
            "shards_per_hour": memory.shard_log_bytes(work) * SECONDS_PER_HOUR / seconds,
            "disk_of_a_shard": memory.shard_disk_bytes(work, fleet),
        },
        "network": network(setting),
        "all_reduce": {
            "step_s": all_reduce_step_s(setting),
            "break_even_shards": break_even_shards(setting),
        },
        "notes": notes(found),
        "setting": asdict(setting),
    }


def _term(term: Any) -> dict[str, Any]:
    return {"phase": term.phase.value, "resource": term.resource, "seconds": term.seconds}
