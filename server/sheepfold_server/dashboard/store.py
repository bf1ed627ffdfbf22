"""What the dashboard knows of each job: its status in memory, its steps and events in a history.

Thread-safe. The follower writes through `set_jobs`, `set_status` and `add`; the API reads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import sheepfold_wire.messages as m
from sheepfold_server.dashboard import event_models
from sheepfold_server.dashboard.alerts.book import AlertBook
from sheepfold_server.dashboard.alerts.rules import Limits, View, findings
from sheepfold_server.dashboard.happenings import happenings, told_events
from sheepfold_server.dashboard.history.alerts import Alert
from sheepfold_server.dashboard.history.events import Event
from sheepfold_server.dashboard.history.history import History, NotKept
from sheepfold_server.dashboard.history.ranges import SliceRange
from sheepfold_server.dashboard.kept import KeptJob, OnlyKept, not_listed, unknown
from sheepfold_server.dashboard.live.feed import Feed
from sheepfold_server.dashboard.metrics.totals import Totals
from sheepfold_server.dashboard.noise_scale import NoiseScale, SliceNoise
from sheepfold_server.dashboard.rates import Rates, Throughput
from sheepfold_wire.job import job_from_json
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import Plan

REPORTS_JUDGED = 64
REPORTS_RESUMED = 256
"""Kept steps that are looked at after a restart: what came before them is less than 1 % of a noise scale."""
JUDGE_SECONDS = 2.0


class JobNotKept(NotKept):
    """No job of that name."""

    def __init__(self, job: str, known: Sequence[str]) -> None:
        super().__init__(f"no job named {job!r} here (known: {', '.join(known) or 'none yet'})")
        self.job = job


@dataclass(frozen=True, slots=True)
class Earlier:
    """Of an earlier process: its alerts, and the steps that they are judged by."""

    alerts: AlertBook
    reports: Sequence[m.StepReport]


class JobNow:
    """One job at this moment."""

    def __init__(self) -> None:
        self.status: m.JobStatus | None = None
        self.rates = Rates()
        self.waits_since = 0.0
        """Unix time since which the open step has had the slots it has."""
        self.told = 0
        """Number of the coordinator's newest event that was taken over."""
        self.newest: deque[m.StepReport] = deque(maxlen=REPORTS_JUDGED)
        """Without their slices."""
        self.noise, self.slice_noise = NoiseScale(), SliceNoise()
        self.alerts = AlertBook()
        self.totals = Totals()
        self.plan: Plan | None = None
        self.judged_at = -JUDGE_SECONDS

    def look(self, status: m.JobStatus, at: float, seconds: float) -> None:
        before = self.status
        if before is None or _place(before) != _place(status):
            self.waits_since = seconds
        if before is not None and before.lineage != status.lineage:
            self.rates, self.noise, self.slice_noise, self.plan = Rates(), NoiseScale(), SliceNoise(), None
            self.newest.clear()
        if self.plan is not None and self.plan.shard_count != len(status.shards):
            self.plan = None
        self.rates.look(status, at)
        self.status = status

    def resume(self, earlier: Earlier) -> None:
        """Go on where an earlier process stood."""
        self.alerts = earlier.alerts
        for report in earlier.reports:
            self.step(report)

    def step(self, report: m.StepReport) -> float | None:
        """Take in a step's report; returns the noise scale up to it."""
        self.slice_noise.step(report)
        self.rates.step(report)
        self.newest.append(replace(report, slices=()))
        return self.noise.step(report)


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known of a job at once; `newest` is its newest report, without slices."""

    status: m.JobStatus
    newest: m.StepReport | None
    noise_scale: float | None
    totals: Totals
    alerts: list[Alert]


def _place(status: m.JobStatus) -> tuple[str, str, int, int]:
    return status.lineage, status.state, status.open_step, status.slots_admitted


class Store:
    """All jobs of one coordinator, and whether it answers."""

    def __init__(
        self,
        history: History | None = None,
        clock: Callable[[], float] = time.time,
        limits: Limits | None = None,
    ) -> None:
        self.history = history or History()
        self.feed = Feed(int(clock() * 1_000))
        self._clock, self._limits = clock, limits or Limits()
        self._lock = threading.Lock()
        self._jobs: dict[str, JobNow] = {}
        self._trouble = "not connected yet"
        self._has_heard = False
        """Whether the coordinator has said which jobs there are."""

    # --- written by the follower ------------------------------------------------------------------

    def set_trouble(self, why: str) -> None:
        """Why nothing is heard of the coordinator; empty while it answers."""
        with self._lock:
            self._trouble = why

    def set_jobs(self, names: tuple[str, ...]) -> None:
        """The jobs that exist now; of the others only the history tells."""
        with self._lock:
            gone = self._jobs.keys() - set(names)
            self._jobs = {name: self._jobs.get(name) or JobNow() for name in names}
            self._has_heard = True
        for name in gone:
            self.feed.forget(name)

    def set_manifest(self, job: str, manifest: Manifest) -> None:
        """What a job trains, once its status says that it has a model."""
        with self._lock:
            now = self._jobs.get(job)
            if now is None or now.status is None:
                return
            split_above = job_from_json(now.status.config_json).placement.split_above_bytes
            now.plan = Plan.of(manifest, len(now.status.shards), split_above)

    def set_status(self, status: m.JobStatus, at: float) -> None:
        """A job's status, read at monotonic time `at`."""
        seconds = self._clock()
        with self._lock:
            job = self._jobs.get(status.job)
            if job is None:
                return
            is_first = job.status is None
        is_new = self.history.begin(status.job, status.lineage)
        earlier = self._read_earlier(status.job, status.lineage) if is_first else None  # slow: not locked
        with self._lock:
            before, told = job.status, job.told
            if before is None and earlier is not None:
                job.resume(earlier)
            job.look(status, at, seconds)
            job.told = max((event.number for event in status.events), default=0)
        if before is None:
            newest = self.history.newest_version(status.job, status.lineage) - 1
            self.feed.begin(status.job, newest)
        if before is not None or is_new:
            for event in happenings(before, status, seconds):
                self._tell(status.job, status.lineage, event)
        if before is None or before.lineage != status.lineage:
            told = 0
        for event in told_events(status, seconds, told):
            self._tell(status.job, status.lineage, event, once=told == 0)
        if at - job.judged_at >= JUDGE_SECONDS:
            job.judged_at = at
            self._judge(job, status, seconds)
        self.history.commit()
        self.feed.status(status)

    def add(self, report: m.StepReport) -> None:
        """A step's report; one already kept is ignored, as after a reconnection."""
        seconds = report.committed_at or self._clock()
        with self._lock:
            job = self._jobs.get(report.job)
        if job is None or report.version <= self.history.newest_version(report.job, report.lineage):
            return
        with self._lock:
            noise_scale = job.step(report)
            job.totals.step(report)
        self.history.add(report, seconds, noise_scale)
        self.feed.step(report)

    def _read_earlier(self, job: str, lineage: str) -> Earlier:
        reports: list[m.StepReport] = []
        if self.history.newest_version(job, lineage):
            reports = self.history.reports(job, lineage, None, None, REPORTS_RESUMED)
        return Earlier(AlertBook(self.history.alerts(job)), reports)

    def _judge(self, job: JobNow, status: m.JobStatus, seconds: float) -> None:
        """Let the rules of the alerts look; what begins or ends is an event, and its step is kept whole."""
        with self._lock:
            newest, noise_scale = tuple(job.newest), job.noise.samples()
            active = job.alerts.active(status.lineage)
        view = View(status, newest, self.slices(status), noise_scale, active)
        found = [] if status.state == "ended" else findings(view, self._limits)
        step = max(0, status.version - 1)
        with self._lock:
            changed = job.alerts.update(found, status.lineage, step, seconds)
        for alert in changed:
            self.history.keep_alert(status.job, alert)
            begun = alert.ended_seconds is None
            text = f"{alert.name} of {alert.subject} {f'began: {alert.text}' if begun else 'ended'}"
            self._tell(status.job, status.lineage, Event(0, step, seconds, "alert", text))
            self.feed.alert(status.job, event_models.Alert.model_validate(alert))
            if begun:
                self.history.flag(status.job, status.lineage, step)

    def _tell(self, job: str, lineage: str, event: Event, *, once: bool = False) -> None:
        told = self.history.tell(job, lineage, event, once=once)
        if told is not None:
            self.feed.event(job, told)

    # --- read by the API --------------------------------------------------------------------------

    def newest_version(self, job: str) -> int:
        """Newest version whose report is kept of the job's present lineage; 0 before one."""
        with self._lock:
            now = self._jobs.get(job)
            status = None if now is None else now.status
        return 0 if status is None else self.history.newest_version(job, status.lineage)

    def trouble(self) -> str:
        with self._lock:
            return self._trouble

    def jobs(self) -> list[m.JobStatus]:
        """Statuses of all jobs, by name; one whose status has not been read yet is left out."""
        with self._lock:
            return [job.status for _, job in sorted(self._jobs.items()) if job.status is not None]

    def kept_jobs(self) -> list[KeptJob]:
        """All jobs that only the history tells of, by name."""
        told = {status.job for status in self.jobs()}
        return [self._kept(job) for job in self.history.jobs() if job not in told]

    def find(self, job: str) -> m.JobStatus | KeptJob:
        """The job's status, or what is known without one; raises NotKept for a job not known."""
        now = self._now(job)
        return self._kept(job) if now is None or now.status is None else now.status

    def status(self, job: str) -> m.JobStatus:
        """Raises OnlyKept for a job that only the history tells of."""
        found = self.find(job)
        if isinstance(found, KeptJob):
            raise OnlyKept(found)
        return found

    def plan(self, job: str) -> Plan | None:
        """None while the job has no model. Raises OnlyKept, and NotKept until the model is read."""
        now = self._now(self.status(job).job)
        if self.lacks_manifest(job):
            raise NotKept(f"the model of job {job!r} has not been read yet; ask again in a second")
        return None if now is None else now.plan

    def lacks_manifest(self, job: str) -> bool:
        """Whether the job has a model that was not read yet."""
        now = self._now(job)
        status = None if now is None or now.plan is not None else now.status
        return status is not None and status.manifest_digest != ""

    def throughput(self, job: str) -> Throughput:
        now = self._now(job)
        if now is None:
            raise OnlyKept(self._kept(job))
        with self._lock:
            return now.rates.now()

    def waited_seconds(self, job: str) -> float:
        """Seconds since the job's open step last had a slot more."""
        now = self._now(job)
        if now is None:
            raise OnlyKept(self._kept(job))
        with self._lock:
            return max(0.0, self._clock() - now.waits_since)

    def alerts(self, job: str) -> list[Alert]:
        """Active ones and those that ended recently."""
        now = self._now(job)
        if now is None or now.status is None:
            return AlertBook(self.history.alerts(self._kept(job).job)).all()
        with self._lock:
            return now.alerts.all()

    def moments(self) -> list[Moment]:
        """Of every job whose status is known, by name."""
        with self._lock:
            return [
                Moment(
                    job.status,
                    job.newest[-1] if job.newest else None,
                    job.noise.samples(),
                    job.totals,
                    job.alerts.all(),
                )
                for _, job in sorted(self._jobs.items())
                if job.status is not None
            ]

    def slices(self, status: m.JobStatus) -> tuple[SliceRange, ...]:
        """The slices of a job's present lineage."""
        return self.history.slices(status.job, status.lineage)

    def slice_noise_scale(self, job: str, number: int) -> float | None:
        """Samples; None while it is not known."""
        now = self._now(job)
        if now is None:
            return None
        with self._lock:
            return now.slice_noise.samples(number)

    def lineage(self, job: str, wanted: str | None = None) -> str:
        """The lineage asked for, or the job's present one; raises NotKept for a job or lineage not known."""
        present = self.find(job).lineage
        if wanted is None or wanted == present:
            return present
        return self.history.known(job, wanted)

    def _now(self, job: str) -> JobNow | None:
        with self._lock:
            return self._jobs.get(job)

    def _kept(self, job: str) -> KeptJob:
        """What the history tells of a job; raises NotKept if that is nothing."""
        with self._lock:
            listed, is_away = sorted(self._jobs), self._has_heard and job not in self._jobs
        lineages = self.history.lineages(job)
        if lineages:
            make, newest = not_listed if is_away else unknown, lineages[-1]
            return make(job, newest.name, newest.newest + 1 or -1, self.history.kept_until(job))
        if job in listed:
            raise NotKept(f"the status of job {job!r} has not been read yet; ask again in a second")
        raise JobNotKept(job, sorted({*listed, *self.history.jobs()}))
