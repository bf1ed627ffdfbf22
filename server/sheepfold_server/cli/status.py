"""`sheepfold status`: jobs at a glance, once or live."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sheepfold_server.cli.address import DEFAULT, Address, Wait
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control, NoAnswer

EPILOG = "Example: `sheepfold status lenet --watch`"
REFRESH_SECONDS = 0.5
SILENT_SECONDS = 5.0
EVENTS_SHOWN = 8


def status(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Name of a job; left out: all jobs.")
    ] = None,
    watch: Annotated[
        bool | None,
        typer.Option("--watch/--once", help="Refresh until ctrl-C, or print once (default: once)."),
    ] = None,
    address: Address = DEFAULT,
    wait: Wait = 0.0,
) -> None:
    """Show version, rates, workers, shards and who is waited for, of one job or of all."""
    console = Console()
    with Control(address) as control:
        names = control.jobs(wait)
        if not watch:
            console.print(_read(control, job))
            return
        with Live(_read(control, job, names), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_SECONDS)
                try:
                    live.update(_read(control, job), refresh=True)
                except NoAnswer as error:
                    live.update(Text(str(error)), refresh=True)


def _read(control: Control, job: str | None, names: tuple[str, ...] | None = None) -> RenderableType:
    if job is not None:
        return one_job(control.status(job))
    return all_jobs([control.status(name) for name in names or control.jobs()])


def all_jobs(statuses: list[m.JobStatus]) -> RenderableType:
    """A line per job."""
    if not statuses:
        return Text("no jobs yet; create one with `sheepfold job create -f job.toml`")
    table = _table("job", "state", "version", "steps/s", "samples/s", "workers", "shards", "waiting for")
    for s in statuses:
        connected = sum(shard.is_connected for shard in s.shards)
        table.add_row(
            s.job,
            s.state,
            f"{s.version:,} of {s.stop_steps:,}",
            *_rates(s),
            str(len(s.workers)),
            f"{connected} of {len(s.shards)}",
            waiting(s),
        )
    return table


def one_job(s: m.JobStatus) -> RenderableType:
    """A job with its workers and shards."""
    facts = _table("", "")
    facts.show_header = False
    c = s.counts
    causes = ", ".join(f"{drop.count:,} {drop.reason}" for drop in s.drops)
    ends = f"{c.committed:,} committed + {c.skipped:,} skipped + {c.dropped:,} dropped"
    ends += f" ({causes})" if causes else ""
    steps_per_second, samples_per_second = _rates(s)
    for name, value in (
        ("job", f"{s.job}, {s.state}" + (f": {s.why}" if s.why else "")),
        ("version", f"{s.version:,} of {s.stop_steps:,}"),
        ("rates", f"{steps_per_second} steps/s, {samples_per_second} samples/s"),
        (
            "open step",
            f"{s.open_step:,}: {s.slots_admitted} of {s.slots_total} slots" if s.open_step >= 0 else "none",
        ),
        ("waiting for", waiting(s)),
        ("samples", f"{s.samples_committed:,} committed, {s.samples_skipped:,} skipped"),
        ("skipped steps", f"{s.steps_skipped:,}"),
        ("checkpoint", _checkpoint(s)),
        (
            "slots",
            f"{c.leased:,} leased = {ends} + {c.outstanding:,} outstanding; {c.leased_again:,} leased again",
        ),
    ):
        facts.add_row(name, value)
    return Group(facts, Text(), _workers(s), Text(), _shards(s), Text(), _events(s))


def _checkpoint(s: m.JobStatus) -> str:
    if not s.checkpoint_url:
        return "none are kept (--checkpoints URL of the coordinator)"
    if s.checkpoint_version < 0:
        return f"none yet, in {s.checkpoint_url}"
    return f"version {s.checkpoint_version:,}, {s.checkpoint_age_seconds:,.0f} s ago, in {s.checkpoint_url}"


def waiting(s: m.JobStatus) -> str:
    """Who is waited for; what an ended or paused job says instead."""
    return (s.why or s.state) if s.state in ("ended", "paused") else s.waiting_for


def _rates(s: m.JobStatus) -> tuple[str, str]:
    if s.state in ("ended", "paused"):
        return "0", "0"
    return f"{s.steps_per_second:.2f}", f"{s.samples_per_second:,.0f}"


def _workers(s: m.JobStatus) -> Table:
    table = _table(
        "worker", "host", "pid", "device", "slots", "samples", "data wait", "refused", "holding", "last seen"
    )
    for w in s.workers:
        seen = f"{w.seconds_since_seen:.1f} s ago"
        table.add_row(
            w.worker,
            w.host,
            str(w.pid),
            w.device,
            f"{w.slots_committed:,}",
            f"{w.samples_committed:,}",
            _data_wait(w),
            Text(f"{w.refused:,}", style="bold red" if w.refused else ""),
            str(w.holding),
            Text(seen, style="bold red" if w.seconds_since_seen > SILENT_SECONDS else ""),
        )
    return table


def _data_wait(worker: m.WorkerStatus) -> str:
    """Share of the time of its slots that it waited for its loader."""
    usage = worker.usage
    if usage is None or usage.slot_seconds <= 0 or usage.data_wait_seconds <= 0:
        return "-"
    return f"{usage.data_wait_seconds / usage.slot_seconds:.1%}"


def _events(s: m.JobStatus) -> Table:
    """What happened last, the newest first."""
    table = _table("step", "ago", "event", "what happened")
    for event in reversed(s.events[-EVENTS_SHOWN:]):
        by = f", by {event.author}" if event.author else ""
        table.add_row(f"{event.step:,}", f"{event.age_seconds:,.0f} s", event.kind, f"{event.text}{by}")
    return table


def _shards(s: m.JobStatus) -> Table:
    table = _table("shard", "address", "link", "version", "parameters", "numerics")
    for shard in s.shards:
        table.add_row(
            str(shard.shard),
            shard.address or "-",
            Text("up") if shard.is_connected else Text("down", style="bold red"),
            f"{shard.version:,}",
            f"{shard.parameters:,}",
            shard.numeric_fingerprint or "-",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
