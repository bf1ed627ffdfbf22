"""The study of large batches: `make study`, `make study QUICK=1`, `make study FULL=1`.

    python -m tests.study [quick|normal|full] [--budget] [--processes 2]

Prints its budget first, then a line for each run. Stop it whenever you like: what is stored in results/ is
not run again. A run computes on one core, so that as many as there are cores go on side by side. Ends with
REPORT.md, its plots, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial

from tests.study import report
from tests.study.budget import Costs, calibrate, total
from tests.study.engine import be_quiet, perform
from tests.study.plan import SIZES, TUNING, Size, repeated, runs, tables
from tests.study.runs import Result, Run
from tests.study.store import FOLDER, Store
from tests.study.tasks import task

Plan = Callable[[Store], Sequence[tuple[str, Run]]]
"""(table, run) of everything, given what is stored."""


def say_budget(
    size: Size, planned: Sequence[tuple[str, Run]], due: set[Run], costs: Mapping[str, Costs]
) -> float:
    """One line for each table; returns the seconds of what is due."""
    print(f"budget of size {size.name}, by short runs on this machine just now:")
    for table in dict.fromkeys(table for table, _ in planned):
        of_table = [run for name, run in planned if name == table]
        left = [run for run in of_table if run in due]
        print(f"  {table:16} {len(of_table):4} runs, {len(left):4} to do, {total(left, costs) / 60:7.1f} min")
    seconds = total(due, costs)
    print(f"  {'all':16} {len(planned):4} runs, {len(due):4} to do, {seconds / 60:7.1f} min", flush=True)
    if size.minutes_max and seconds > size.minutes_max * 60:
        print(f"  beyond the {size.minutes_max:g} min meant for it: this machine is slower, or busy")
    return seconds


def work_off(plan: Plan, store: Store, costs: Mapping[str, Costs], processes: int = 1) -> int:
    """Perform what is missing; returns how many runs that were. The plan is asked again once all is tuned."""
    done = 0
    while due := store.missing(run for _, run in plan(store)):
        table_of: dict[Run, str] = {}
        for table, run in plan(store):
            table_of.setdefault(run, table)
        tuning = [run for run in due if table_of[run] == TUNING]
        after = [run for run in due if run not in tuning] if tuning else []
        left = list(batch := tuning or due)
        for run, result in performed(batch, processes):
            store.add(table_of[run], result)
            left.remove(run)
            minutes = total([*left, *after], costs) / 60 / processes
            print(
                f"{table_of[run]:16} {run.task} batch {run.batch} seed {run.seed} {run.servers}: "
                f"{result.value:.4f} in {result.seconds:.1f} s; about {minutes:.1f} min to go",
                flush=True,
            )
        done += len(batch)
    return done


def performed(batch: Sequence[Run], processes: int) -> Iterator[tuple[Run, Result]]:
    """Each with its result, as they end."""
    if processes == 1:
        yield from ((run, perform(run)) for run in batch)
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawning, be_quiet) as pool:
        begun = {pool.submit(perform, run): run for run in batch}
        try:
            for ended in as_completed(begun):
                yield begun[ended], ended.result()
        finally:
            pool.shutdown(cancel_futures=True)


def of_other_data(planned: Sequence[tuple[str, Run]], store: Store) -> list[str]:
    """Tables with results of data that the tasks no longer have."""
    return sorted(
        {table for table, run in planned if run in store and store[run].data != task(run.task).fingerprint}
    )


def differing(size: Size, store: Store) -> list[str]:
    """Tables whose repetition over gRPC has other bits."""
    return [
        table
        for table, cells in tables(size, store).items()
        if store[repeated(cells)].digest != store[repeated(cells).over_grpc()].digest
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("size", nargs="?", choices=SIZES, default="normal")
    parser.add_argument("--budget", action="store_true", help="print it and stop")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs side by side")
    given = parser.parse_args()
    be_quiet()
    size, store = SIZES[given.size], Store()
    began, planned = time.perf_counter(), runs(SIZES[given.size], store)
    if stale := of_other_data(planned, store):
        print(f"results of other data: remove {', '.join(stale)} (.jsonl) from {FOLDER}", file=sys.stderr)
        return 2
    due = store.missing(run for _, run in planned)
    if due:
        print("a few short runs first, to reckon the budget by", flush=True)
    costs = calibrate(size.tasks, perform) if due else {}
    seconds = say_budget(size, planned, set(due), costs) / given.processes
    print(f"  {given.processes} runs side by side: {seconds / 60:.1f} min", flush=True)
    if given.budget:
        return 0
    done = work_off(partial(runs, size), store, costs, given.processes)
    report.write(size, store)
    wrong = differing(size, store)
    for table in wrong:
        print(f"{table}: 2 shards over gRPC gave other bits than 1 shard in this process", file=sys.stderr)
    spent = time.perf_counter() - began
    facts = {"study": size.name, "runs": len(planned), "done_now": done, "digests_differ": wrong}
    print(json.dumps({**facts, "budget_s": round(seconds), "seconds": round(spent)}))
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; what is stored will not be run again: start it the same way to go on")
