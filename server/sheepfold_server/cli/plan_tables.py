"""What `sheepfold plan` prints."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sheepfold_server.planning import memory
from sheepfold_server.planning.outlook import SECONDS_PER_HOUR, Outlook, network, notes
from sheepfold_server.planning.step import (
    Phase,
    all_reduce_step_s,
    break_even_shards,
    live_workers,
    rounds,
)


def tables(found: Outlook) -> list[RenderableType]:
    """Summary, terms, fleet, and remarks if there are any."""
    remarks: list[RenderableType] = [Text(f"note: {line}") for line in notes(found)]
    facts = [_summary(found), _terms(found), _slots(found), _room(found), _against(found)]
    return [Group(Text(title, style="italic"), table) for title, table in facts] + remarks


def seconds(value: float) -> str:
    """Three digits, with a unit."""
    if value >= 1.0 or value == 0.0:
        return f"{value:,.2f} s" if value < 100 else f"{value:,.0f} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def size(value: float) -> str:
    """Bytes in the largest decimal unit that leaves a digit before the point."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:,.1f} {name}"
    return f"{value:.0f} B"


def _table() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _summary(found: Outlook) -> tuple[str, Table]:
    fleet, work = found.setting.fleet, found.setting.work
    codecs = f"{work.up} up, {work.down} down"
    title = f"{work.parameters:,} parameters, {fleet.workers:,} workers, {codecs}"
    table = _table()
    why = "as given" if found.is_given else "within a tenth of the fastest"
    table.add_row("shards", f"{fleet.shards:,} ({why}; {found.fan_in:.3g} workers each)")
    enough = "no number" if found.keeps_up is None else f"{found.keeps_up:,}"
    table.add_row("to keep up", f"{enough}: links and processors of so many are no slower than the workers'")
    table.add_row("step", seconds(found.time.seconds))
    longest = found.time.dominant
    table.add_row("longest", f"{longest.phase.value}: {longest.resource}, {seconds(longest.seconds)}")
    others = ", ".join(f"{count:,} shards {seconds(each)}" for count, each in sorted(found.others.items()))
    table.add_row("a step with", others)
    return title, table


def _terms(found: Outlook) -> tuple[str, Table]:
    table = _table()
    for phase in Phase:
        terms = [term for term in found.time.terms if term.phase is phase]
        for term in sorted(terms, key=lambda term: -term.seconds):
            mark = "*" if term in found.time.waited else " "
            table.add_row(f"{mark} {phase.value}", f"{seconds(term.seconds):>9}  {term.resource}")
    for term in found.time.waited:
        if term not in found.time.terms:
            table.add_row("* all at once", f"{seconds(term.seconds):>9}  {term.resource}")
    return "where it goes (*: waited for; terms of a phase overlap)", table


def _slots(found: Outlook) -> tuple[str, Table]:
    setting = found.setting
    work, fleet = setting.work, setting.fleet
    able = fleet.workers - fleet.spare_workers
    table = _table()
    table.add_row(
        "K", f"{work.slots:,}: {work.slots / able:.3g} for each of {able:,} workers, {rounds(setting)} rounds"
    )
    room = memory.window(work, fleet)
    table.add_row("at a time", f"{live_workers(setting):,}; staging has room for {room:,}")
    table.add_row(
        "twice as many", f"{seconds(found.with_twice_the_slots_s)} a step, each slot of half the samples"
    )
    return "slots", table


def _room(found: Outlook) -> tuple[str, Table]:
    work, fleet = found.setting.work, found.setting.fleet
    table = _table()
    table.add_row("a worker", f"{size(memory.worker_memory_bytes(work))} and its activations")
    staging = size(memory.staging_bytes(work, fleet))
    table.add_row("a shard", f"{size(memory.shard_memory_bytes(work, fleet))}, {staging} of it for staging")
    table.add_row("coordinator", size(memory.coordinator_memory_bytes(work, fleet)))
    logged = memory.shard_log_bytes(work)
    per_hour = logged * SECONDS_PER_HOUR / found.time.seconds
    table.add_row(
        "logs of the shards", f"{size(logged)} a step, {size(per_hour)} an hour ({work.durability})"
    )
    table.add_row("disk of a shard", size(memory.shard_disk_bytes(work, fleet)))
    table.add_row("log of the coordinator", f"{size(memory.coordinator_log_bytes(work))} a step")
    return "memory, disks and logs", table


def _against(found: Outlook) -> tuple[str, Table]:
    setting = found.setting
    layouts, other = network(setting), all_reduce_step_s(setting)
    table = _table()
    ratio = found.time.seconds / other
    even = break_even_shards(setting)
    table.add_row("a step by all-reduce", f"{seconds(other)}; this one takes {ratio:.3g} times as long")
    table.add_row("break-even", "with no number of shards" if even is None else f"from {even:,} shards on")
    more = memory.all_reduce_memory_bytes(setting.work) - memory.worker_memory_bytes(setting.work)
    table.add_row("memory of its worker", f"{size(abs(more))} {'more' if more >= 0 else 'less'}")
    alone = ", ".join(
        f"{name} {seconds(layouts[key])}"
        for name, key in (("ring", "all_reduce_s"), ("shards apart", "dedicated_s"))
    )
    share = layouts["best_share_on_each_worker"]
    best = f"{share:.2%} of the model on each worker's machine {seconds(layouts['best_share_s'])}"
    table.add_row("the network alone", f"{alone}, {best}")
    return "against all-reduce, in its favour: no latency, no processors for sending", table
