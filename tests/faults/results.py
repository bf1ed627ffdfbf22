"""Runs that were recorded, as a page: python -m tests.faults.results

`make sim`, `chaos`, `soak` and `overload` with ARGS=--record add a line to results.jsonl, red or green, and
so do the exhaustive runs of the simulation and the benchmarks of durability and recovery; this renders
RESULTS.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS, PAGE = HERE / "results.jsonl", HERE / "RESULTS.md"
LEVELS = ("none", "checkpoint", "wal", "wal_fsync")


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to servers, what it costs by level of durability, and the test that shows it."""

    event: str
    costs: Mapping[str, str]
    test: str
    """FILE::FUNCTION below tests/, or what is not shown."""


SINCE = "steps since the newest checkpoint"
EVENTS = (
    Event(
        "kill -9 of a shard, at any version",
        {"none": "the job", "checkpoint": SINCE, "wal": "0", "wal_fsync": "0"},
        "faults/test_kill.py::test_kill_9_changes_no_bit_and_costs_no_committed_step_that_is_logged",
    ),
    Event(
        "kill -9 of the coordinator, or of all at once",
        {"none": "the job", "wal": "0", "wal_fsync": "0"},
        "faults/test_kill.py::test_kill_9_changes_no_bit_and_costs_no_committed_step_that_is_logged",
    ),
    Event(
        "all stopped and started again",
        {"wal": "0", "wal_fsync": "0"},
        "faults/test_kill.py::test_everything_stopped_and_started_again_goes_on_where_it_was",
    ),
    Event(
        "loss of a shard's disk, checkpoints kept elsewhere",
        {"checkpoint": SINCE, "wal": SINCE, "wal_fsync": SINCE},
        "integration/test_checkpoint_life.py::test_lost_disk_of_a_shard_takes_the_job_back_and_changes_no_bit",
    ),
    Event(
        "loss of every disk but that of the checkpoints; another number of shards",
        {"checkpoint": SINCE, "wal": SINCE, "wal_fsync": SINCE},
        "integration/test_checkpoint_life.py::test_one_job_over_1_2_3_and_1_shards_has_the_bits_of_an_undisturbed_one",
    ),
    Event(
        "the newest checkpoint is damaged as well",
        {"checkpoint": "steps since the one before"},
        "integration/test_checkpoint_life.py::test_damaged_newest_checkpoint_is_passed_over_loudly",
    ),
    Event(
        "kill -9 at a system call of a save, of retention, of a log's rotation",
        {"checkpoint": "0 of what was stored", "wal": "0", "wal_fsync": "0"},
        "faults/test_crash_at_syscalls.py",
    ),
    Event(
        "a full disk",
        {"checkpoint": "0: the checkpoint fails", "wal": "0: the shard waits", "wal_fsync": "0: it waits"},
        "integration/test_data_directories.py::test_full_disk_holds_the_job_up_and_loses_nothing",
    ),
    Event(
        "a link that is slow, stands still or breaks; under TLS also one that flips bits",
        {"none": "0", "checkpoint": "0", "wal": "0", "wal_fsync": "0"},
        "faults/test_links.py",
    ),
    Event("loss of power", {"wal": "not promised", "wal_fsync": "0, as far as the disk honours fsync"}, ""),
)


def record(line: Mapping[str, Any], is_green: bool) -> None:
    """Keep what a run printed last, with the commit it ran on; red ones too."""
    kept = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "is_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": "python -m " + " ".join([_module(), *sys.argv[1:]]),
        "is_green": is_green,
        **line,
    }
    with RUNS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")
    PAGE.write_text(page(runs()), "utf-8")


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return "" if spec is None else spec.name


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def runs() -> list[dict[str, Any]]:
    if not RUNS.exists():
        return []
    return [json.loads(line) for line in RUNS.read_text("utf-8").splitlines()]


def page(recorded: Iterable[Mapping[str, Any]]) -> str:
    title = "# What was done to sheepfold, and what became of it"
    return f"{title}\n\nGenerated: `python -m tests.faults.results`.\n\n{_events()}\n{_runs(recorded)}"


def _events() -> str:
    rows = []
    for event in EVENTS:
        costs = " | ".join(event.costs.get(level, "") for level in LEVELS)
        rows.append(f"| {event.event} | {costs} | {_shown(event.test)} |")
    lines = (
        "## What an event costs, by `durability.level`",
        "",
        f"| event | {' | '.join(LEVELS)} | shown by |",
        f"|{'---|' * (len(LEVELS) + 2)}",
        *rows,
        "",
        "Committed steps that are lost and computed again, to the same bits. Level `none`: servers without",
        "`--dir`, and without checkpoints. Empty: not shown.",
        "",
    )
    return "\n".join(lines)


def _shown(test: str) -> str:
    return f"`tests/{test}`" if test else "nothing: a kill does not show it"


def _runs(recorded: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for run in recorded:
        commit = run["commit"] + (" and changes" if run["is_changed"] else "")
        color = "green" if run["is_green"] else "**red**"
        rows.append(f"| {run['date']} | {commit} | `{run['command']}` | {color} | {_found(run)} |")
    head = ("## Runs", "", "| date | commit | command | | result |", "|---|---|---|---|---|")
    return "\n".join((*head, *rows, "", _seeds_in_all(recorded)))


def _seeds_in_all(recorded: Iterable[Mapping[str, Any]]) -> str:
    """Of the simulation: how many different seeds ended without a violation, each on some commit."""
    found = [run for run in recorded if run["bench"] == "sim" and not run["violations"]]
    seeds, end = 0, 0
    for run in sorted(found, key=lambda run: run["first"]):
        last = run["first"] + run["seeds"]
        seeds += max(0, last - max(end, run["first"]))
        end = max(end, last)
    faults = sum(run["faults"] for run in found)
    return (
        f"Of the simulation {seeds:,} different seeds ran without a violation, each on the commit of its "
        f"row, with {faults:,} faults; seeds that several rows hold count once, their faults in each.\n"
    )


def _found(run: Mapping[str, Any]) -> str:
    by_bench = {
        "sim": _of_sim,
        "sim exhaustive": _of_exhaustive,
        "chaos": _of_chaos,
        "soak": _of_soak,
        "overload": _of_overload,
        "durability": _of_durability,
        "recovery": _of_recovery,
    }
    return by_bench[run["bench"]](run)


def _of_sim(run: Mapping[str, Any]) -> str:
    reached = run["marks"] - len(run["marks_unhit"])
    return (
        f"{run['seeds']:,} seeds from {run['first']:,} on, {run['faults']:,} faults, "
        f"{run['violations']} violations; {reached} of {run['marks']} rare states reached; "
        f"{run['ablations_caught']} of {run['ablations']} safeguards missed when taken away; "
        f"{run['seconds']:.0f} s"
    )


def _of_exhaustive(run: Mapping[str, Any]) -> str:
    return (
        f"{run['schedules']:,} schedules: {run['faults_of_messages']:,} faults of a message, "
        f"{run['crashes']:,} crashes, {run['pairs']:,} pairs of both; 0 violations; {run['seconds']:.0f} s"
    )


def _of_durability(run: Mapping[str, Any]) -> str:
    return (
        f"{run['parameters'] / 1e6:.0f} M parameters, {run['shards']} shard, a step with "
        f"{run.get('compute_s', 0.0):g} s of computing {run['step_wal_s']} s at `wal`, {run['wal_ratio']} of "
        f"one at `checkpoint`; {run['saving_ratio']} while a checkpoint of {run['save_s']} s is written, "
        f"{run['first_step_ratio']} the step that it begins with"
    )


def _of_recovery(run: Mapping[str, Any]) -> str:
    beyond, replay = run["beyond_start_and_replay_s"], run["replay_s"]
    return (
        f"{run['rounds']} kills of a shard of {run['parameters'] / 1e6:.0f} M parameters: back "
        f"{beyond['p50']} s (p50), {beyond['p95']} s (p95) after its process had started, and "
        f"{replay['p50']} s, {replay['p95']} s for {run['steps_replayed']} steps made again"
    )


def _of_chaos(run: Mapping[str, Any]) -> str:
    recovery = run["recovery_s"]
    points = f"{run['failpoints_hit']} of {run['failpoints']} failpoints; " if "failpoints" in run else ""
    links = f"{sum(run['link_faults'].values())} faults of links; " if "link_faults" in run else ""
    short = f"; lacking: {', '.join(run['shortfalls'])}" if run.get("shortfalls") else ""
    back = f", {run['went_back']} runs that gave up steps for a checkpoint" if "went_back" in run else ""
    return (
        f"{run['kills']} kills in {run['runs']} runs, {points}{links}"
        f"{run['digest_mismatches']} digests that differ, "
        f"{run['lost_steps']} steps missing at the end{back}; at work again after {recovery['p50']} s (p50), "
        f"{recovery['p95']} s (p95){short}"
    )


def _of_soak(run: Mapping[str, Any]) -> str:
    growth = ", ".join(f"{role} {by['rss_mb']:+.1f}" for role, by in run["growth"].items())
    return (
        f"{run['minutes']} minutes, {run['steps']:,} steps, {run['kills']} kills, {run['stops']} stops, "
        f"{sum(run['link_faults'].values())} faults of links, "
        f"{run['digest_mismatches']} digests that differ; "
        f"memory in MiB after the warm-up: {growth}; growing: {', '.join(run['grows']) or 'nothing'}"
    )


def _of_overload(run: Mapping[str, Any]) -> str:
    over, crowd = run["overload"], run["crowd"]
    return (
        f"{over['workers']} workers and {over['rogues']} rogues on a shard that two saturate: "
        f"{over['goodput']:.0%} of the peak, {over['shard_rss_mb']:.0f} MiB of a bound of "
        f"{over['shard_rss_bound_mb']:.0f}; {crowd['joined']} workers over TLS: "
        f"{crowd['coordinator_cpu_ms_per_step']:.0f} ms of the coordinator a step, "
        f"{crowd['coordinator_kb_per_worker']:.0f} KiB a worker there"
    )


if __name__ == "__main__":
    PAGE.write_text(page(runs()), "utf-8")
