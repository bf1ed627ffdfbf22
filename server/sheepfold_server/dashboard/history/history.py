"""The history of all jobs: the one door to the file. Thread-safe; no clock: times are arguments."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.alerts import Alert, Alerts
from sheepfold_server.dashboard.history.charts import ROWS_AT_ONCE, Chart, Kept, Window, chart
from sheepfold_server.dashboard.history.events import Event, Events
from sheepfold_server.dashboard.history.file import HistoryFile
from sheepfold_server.dashboard.history.lineages import STEP_LAST, Lineage, Lineages
from sheepfold_server.dashboard.history.ranges import Runs, SliceRange, clamp_runs, slice_ranges
from sheepfold_server.dashboard.history.record import CLAMP, RATIO, Record, record_of, report_of, slice_facts
from sheepfold_server.dashboard.history.rows import Rows, merged
from sheepfold_server.dashboard.history.tables import LEVELS, Scalars, Slices, Tables

log = logging.getLogger(__name__)

PRUNE_STEPS = 64
COMMIT_STEPS = 256


class NotKept(LookupError):
    """No such job, lineage, step or slice here; the text says what there is."""


class History:
    """Steps, events and alerts by job and lineage. Call `commit` often: a crash takes the rest."""

    def __init__(self, path: Path | None = None, kept: Kept | None = None) -> None:
        self._kept = kept or Kept()
        self._file = HistoryFile(path)
        connection = self._file.connection
        self._connection = connection
        self._lineages, self._tables = Lineages(connection), Tables(connection)
        self._events, self._alerts = Events(connection), Alerts(connection)
        self._lock = threading.RLock()
        self._pending = 0
        self._is_closed = False
        self._trouble = ""
        self._slices: dict[int, tuple[int, tuple[SliceRange, ...]]] = {}

    def close(self) -> None:
        with self._lock:
            if not self._is_closed:
                self.commit()
                self._file.close()
            self._is_closed = True

    # --- writing ----------------------------------------------------------------------------------

    def begin(self, job: str, lineage: str) -> bool:
        """Make a lineage known; whether it was not."""
        with self._writing():
            is_new = self._lineages.find(job, lineage) is None
            self._lineage(job, lineage)
            return is_new
        return False

    def add(self, report: m.StepReport, seconds: float, noise_scale: float | None = None) -> bool:
        """Keep a step whose commit was seen at unix time `seconds`; whether it was not known already."""
        with self._writing():
            lineage = self._lineage(report.job, report.lineage)
            if report.step <= lineage.newest:
                return False
            self._lineages.learn(lineage, report)
            self.append(lineage, record_of(report, lineage.metrics, noise_scale), seconds)
            return True
        return False

    def append(self, lineage: Lineage, record: Record, seconds: float) -> None:
        """Keep a record that is newer than all of its lineage, and roll up what it completes."""
        with self._lock:
            self._open_transaction()
            newest = lineage.newest
            if newest >= 0:
                self._roll_up(lineage, newest, record.step)
            is_flagged = record.is_skip or self._clamp_changes(lineage, record)
            # Reports that were missed are taken to be as large as the next one.
            missed = record.step - newest if newest >= 0 else 1
            lineage.samples += 0 if record.is_skip else record.samples * missed
            lineage.newest = record.step
            lineage.first = record.step if lineage.first < 0 else lineage.first
            self._tables.insert(lineage, record, seconds, lineage.samples, is_flagged)
            if newest // PRUNE_STEPS != record.step // PRUNE_STEPS:
                self._prune(lineage)

    def flag(self, job: str, lineage: str, step: int) -> None:
        """Keep that step whole although newer ones push others out."""
        with self._writing():
            self._tables.flag(self._lineage(job, lineage), step)

    def tell(self, job: str, lineage: str, event: Event, *, once: bool = False) -> Event | None:
        """Keep an event and return it with its id; with `once`, None if the same was told before."""
        with self._writing():
            found = self._lineage(job, lineage)
            if once and self._events.has(found, event):
                return None
            return self._events.add(found, event, self._kept.events)
        return None

    def keep_alert(self, job: str, alert: Alert) -> None:
        """Keep an alert that began, or one that is kept already as it is now."""
        with self._writing():
            self._alerts.keep(self._lineage(job, alert.lineage), alert)

    def commit(self) -> None:
        """Make what was written last through a crash of this process."""
        with self._lock:
            self._pending = 0
            try:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._lose(error)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk costs what was not committed yet, and not the dashboard."""
        with self._lock:
            try:
                self._open_transaction()
                yield
            except sqlite3.Error as error:
                self._lose(error)

    def _open_transaction(self) -> None:
        self._pending += 1
        if self._pending > COMMIT_STEPS:
            self.commit()
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    def _lose(self, error: sqlite3.Error) -> None:
        if str(error) != self._trouble:
            log.error("the history cannot be written (%s): steps and events are lost until it can", error)
        self._trouble = str(error)
        if self._connection.in_transaction:
            self._connection.rollback()
        self._lineages, self._pending = Lineages(self._connection), 0
        self._slices.clear()

    def _lineage(self, job: str, name: str) -> Lineage:
        found = self._lineages.find(job, name)
        if found is None:
            too_many = self._lineages.of(job)[: (1 - self._kept.lineages) or None]
            for old in [*too_many, *self._lineages_of_quietest_job(job)]:
                self._forget(old)
            found = self._lineages.begin(job, name)
        return found

    def _lineages_of_quietest_job(self, new: str) -> list[Lineage]:
        """Those of the job that has to make room for `new`; none if there is room, or it is no new job."""
        jobs = self._lineages.jobs()
        if new in jobs or len(jobs) < self._kept.jobs:
            return []
        quiet = min(jobs, key=lambda job: self.kept_until(job) or 0.0)
        log.info("the history keeps %d jobs: %s makes room for %s", len(jobs), quiet, new)
        return self._lineages.of(quiet)

    def _forget(self, lineage: Lineage) -> None:
        self._tables.forget(lineage)
        self._events.forget(lineage)
        self._alerts.forget(lineage)
        self._lineages.forget(lineage)
        self._slices.pop(lineage.id, None)

    def _clamp_changes(self, lineage: Lineage, record: Record) -> bool:
        """Whether a slice begins or ends to meet a bound with this step."""
        if record.is_skip or not len(record.slices):
            return False
        before = self._runs(lineage)
        lineage.runs = clamp_runs(before, record.slices)
        was = np.zeros(len(lineage.runs), np.bool_)
        was[: len(before)] = before > 0
        return bool(((lineage.runs > 0) != was).any())

    def _runs(self, lineage: Lineage) -> Runs:
        if lineage.runs is None:
            lineage.runs = np.zeros(len(lineage.slices), np.int64)
            first = lineage.newest - self._kept.steps + 1
            for slices in self._tables.newest_slices(lineage, self._kept.steps, first):
                lineage.runs = clamp_runs(lineage.runs, slices)
        return lineage.runs

    def _roll_up(self, lineage: Lineage, newest: int, step: int) -> None:
        """Close every stretch that ends before `step`."""
        for level, length in enumerate(LEVELS):
            first = newest // length * length
            if first == step // length * length:
                return
            scalars, slices = (
                merged(self._finer(wanted, level, first, newest), length)
                for wanted in (Scalars(lineage), Slices(lineage))
            )
            self._tables.insert_rollup(lineage, level, scalars, slices)
            self._tables.delete_rollups(lineage, level, first - self._kept.rollups * length)

    def _finer(self, wanted: Scalars | Slices, level: int, first: int, last: int) -> Rows:
        if level == 0:
            return self._tables.steps(wanted, first, last)
        return self._tables.rollups(wanted, level - 1, first, last)

    def _prune(self, lineage: Lineage) -> None:
        last = lineage.newest - self._kept.steps
        if last < 0:
            return
        self._tables.delete_steps(lineage, lineage.pruned, last)
        self._tables.delete_flagged(lineage, last, self._kept.flagged)
        lineage.pruned = last

    # --- reading ----------------------------------------------------------------------------------

    def newest_version(self, job: str, lineage: str) -> int:
        """Version that the newest kept step made; 0 before one."""
        with self._lock:
            found = self._lineages.find(job, lineage)
            return 0 if found is None else found.newest + 1

    def jobs(self) -> list[str]:
        """All of which anything is kept, by name."""
        with self._lock:
            return self._lineages.jobs()

    def kept_until(self, job: str) -> float | None:
        """Unix time of the newest step or event of a job; None without any."""
        with self._lock:
            kept = self._lineages.of(job)
            found = [t.newest_seconds(of) for of in kept for t in (self._tables, self._events)]
        return max((seconds for seconds in found if seconds is not None), default=None)

    def known(self, job: str, lineage: str) -> str:
        """The lineage's name; raises NotKept if it is not here."""
        with self._lock:
            return self._known(job, lineage).name

    def lineages(self, job: str) -> list[Lineage]:
        """Oldest first."""
        with self._lock:
            return [replace(lineage) for lineage in self._lineages.of(job)]

    def reports(
        self, job: str, lineage: str, first: int | None, last: int | None, limit: int
    ) -> list[m.StepReport]:
        """Up to `limit` reports, without slices, oldest first: from step `first` on, or the newest ones."""
        with self._lock:
            found = self._known(job, lineage)
            stored = self._tables.reports(
                found,
                first or 0,
                STEP_LAST if last is None else last,
                limit,
                newest=first is None,
            )
        return [report_of(report) for report in stored]

    def report(self, job: str, lineage: str, step: int) -> m.StepReport:
        """A step with its slices."""
        with self._lock:
            found = self._known(job, lineage)
            stored = self._tables.report(found, step) if 0 <= step <= found.newest else None
            if stored is None:
                raise NotKept(f"step {step} is not kept here ({self._what_is_kept(found)})")
            return replace(report_of(stored[0]), slices=slice_facts(stored[1], found.slices))

    def _what_is_kept(self, lineage: Lineage) -> str:
        if lineage.newest < 0:
            return "known: none yet"
        first = max(lineage.first, lineage.newest - self._kept.steps + 1)
        flagged = "" if first == lineage.first else ", and earlier ones that were flagged"
        return f"known: steps {first} to {lineage.newest}{flagged}"

    def series(self, job: str, lineage: str, first: int | None, last: int | None, points: int) -> Chart:
        """All scalars and metrics, in the order of `series_names`."""
        with self._lock:
            wanted = Scalars(self._known(job, lineage))
            return chart(self._tables, wanted, self._kept, Window(first, last, points))

    def series_names(self, job: str, lineage: str) -> list[str]:
        with self._lock:
            return Scalars(self._known(job, lineage)).names()

    def slice_series(
        self, job: str, lineage: str, number: int, first: int | None, last: int | None, points: int
    ) -> Chart:
        """The five values of one slice."""
        with self._lock:
            wanted = Slices(self._known(job, lineage), number)
            return chart(self._tables, wanted, self._kept, Window(first, last, points))

    def heat(self, job: str, lineage: str, window: Window, value: int) -> Chart:
        """Of every slice, slice by slice: one of the five values, and whether it was clamped."""
        with self._lock:
            wanted = Slices(self._known(job, lineage), None, (value, CLAMP))
            return chart(self._tables, wanted, self._kept, window)

    def slice_names(self, job: str, lineage: str) -> list[str]:
        with self._lock:
            return list(self._known(job, lineage).slices)

    def slices(self, job: str, lineage: str) -> tuple[SliceRange, ...]:
        """Every slice in its newest applied step, with what the kept steps say of its ratio."""
        with self._lock:
            found = self._known(job, lineage)
            step, ranges = self._slices.get(found.id, (-1, ()))
            if step != found.newest:
                ranges = self._ranges(found)
                self._slices[found.id] = (found.newest, ranges)
            return ranges

    def _ranges(self, lineage: Lineage) -> tuple[SliceRange, ...]:
        newest = self._tables.newest_slices(lineage, 1)
        if not newest:
            return ()
        window = Window(max(0, lineage.newest - self._kept.steps + 1), None, ROWS_AT_ONCE, 1)
        ratios = chart(self._tables, Slices(lineage, None, (RATIO,)), self._kept, window).rows
        return slice_ranges(newest[0], ratios, self._runs(lineage), lineage.slices)

    def events(
        self, job: str, lineage: str, first: int | None, last: int | None, kinds: tuple[str, ...], limit: int
    ) -> list[Event]:
        """The newest `limit` events of a range of steps, oldest first."""
        with self._lock:
            found = self._known(job, lineage)
            return self._events.newest(
                found, -1 if first is None else first, STEP_LAST if last is None else last, kinds, limit
            )

    def alerts(self, job: str) -> list[Alert]:
        """Of all lineages of a job that are kept, in the order in which they changed."""
        with self._lock:
            return [alert for lineage in self._lineages.of(job) for alert in self._alerts.of(lineage)]

    def _known(self, job: str, lineage: str) -> Lineage:
        found = self._lineages.find(job, lineage)
        if found is None:
            known = ", ".join(of.name for of in self._lineages.of(job)) or "none yet"
            raise NotKept(f"job {job!r} has no lineage {lineage!r} here (known: {known})")
        return found
