"""A job's facts as metrics, made when Prometheus asks: a job that is gone leaves no labels behind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sheepfold_server.dashboard.history.ranges import SliceRange
from sheepfold_server.dashboard.metrics.totals import PHASES, Totals
from sheepfold_server.dashboard.store import Moment, Store

SLICES_TOLD = 20
"""Slices with a label of their own: those whose ratio drifted most. All are in the distribution."""


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics of one name, filled job by job."""

    metric: GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily

    def add(self, labels: Sequence[str], value: float | None) -> None:
        if value is not None and not isinstance(self.metric, HistogramMetricFamily):
            self.metric.add_metric(labels, value)


def _version() -> str:
    try:
        return version("sheepfold")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(GaugeMetricFamily(f"sheepfold_{name}", text, labels=("job", *labels)))


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(CounterMetricFamily(f"sheepfold_{name}", text, labels=("job", *labels)))


class JobCollector(Collector):
    """Reads the store; holds nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("sheepfold_build", "Version that runs", {"version": _version()})
        answers = GaugeMetricFamily(
            "sheepfold_coordinator_up", "Whether the coordinator answers the dashboard"
        )
        answers.add_metric((), 0.0 if self._store.trouble() else 1.0)
        yield answers
        moments = self._store.moments()
        yield from _progress(moments)
        yield from _quotas(moments)
        yield from _slots(moments)
        yield from _fleet(moments)
        yield from _newest_step(moments)
        yield from _slices({moment.status.job: self._store.slices(moment.status) for moment in moments})
        yield from _totals([(moment.status.job, moment.totals) for moment in moments])
        yield from _alerts(moments)


def registry(store: Store) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(JobCollector(store))
    return made


def _progress(moments: Sequence[Moment]) -> Iterator[Metric]:
    states = _gauge("job_state", "1 for the state the job is in", "state")
    versions = _gauge("job_version", "Newest version of the weights; -1 before the initial ones")
    stops = _gauge("job_stop_steps", "Version at which the job ends")
    kept = _gauge("checkpoint_version", "Newest version that is kept; -1 if there is none")
    age = _gauge("checkpoint_age_seconds", "Seconds since a checkpoint was stored, where any are kept")
    steps = _counter("steps", "Steps, by what became of them", "outcome")
    samples = _counter("samples", "Samples of steps, by what became of them", "outcome")
    for status in (moment.status for moment in moments):
        states.add((status.job, status.state), 1.0)
        versions.add((status.job,), status.version)
        stops.add((status.job,), status.stop_steps)
        kept.add((status.job,), status.checkpoint_version)
        age.add((status.job,), status.checkpoint_age_seconds if status.checkpoint_url else None)
        steps.add((status.job, "applied"), max(0, status.version) - status.steps_skipped)
        steps.add((status.job, "skipped"), status.steps_skipped)
        samples.add((status.job, "committed"), status.samples_committed)
        samples.add((status.job, "skipped"), status.samples_skipped)
    yield from (family.metric for family in (states, versions, stops, kept, age, steps, samples))


def _quotas(moments: Sequence[Moment]) -> Iterator[Metric]:
    bounds = _gauge("quota_max", "What the job may take at most, in the unit that the name says", "quota")
    used = _gauge("quota_used", "What the job takes, in the unit that the name says", "quota")
    refused = _counter("quota_refusals", "How often a quota has said no", "quota")
    for status in (moment.status for moment in moments):
        for quota in status.quotas:
            bounds.add((status.job, quota.name), quota.max)
            used.add((status.job, quota.name), quota.used)
            refused.add((status.job, quota.name), quota.refused)
    yield from (family.metric for family in (bounds, used, refused))


def _slots(moments: Sequence[Moment]) -> Iterator[Metric]:
    slots = _counter("slots", "Leases of slots, by what became of them", "outcome")
    again = _counter("slots_leased_again", "Leases of a slot that had been leased before")
    outstanding = _gauge("slots_outstanding", "Leases and contributions not decided yet")
    for status in (moment.status for moment in moments):
        counts = status.counts
        slots.add((status.job, "committed"), counts.committed)
        slots.add((status.job, "dropped"), counts.dropped)
        slots.add((status.job, "skipped"), counts.skipped)
        again.add((status.job,), counts.leased_again)
        outstanding.add((status.job,), counts.outstanding)
    yield from (family.metric for family in (slots, again, outstanding))


def _fleet(moments: Sequence[Moment]) -> Iterator[Metric]:
    workers = _gauge("workers", "Attached workers, by whether they hold a lease", "state")
    shards = _gauge("shards", "Shards, by their link to the coordinator", "state")
    for status in (moment.status for moment in moments):
        holding = sum(worker.holding > 0 for worker in status.workers)
        workers.add((status.job, "holding"), holding)
        workers.add((status.job, "idle"), len(status.workers) - holding)
        linked = sum(shard.is_connected for shard in status.shards)
        shards.add((status.job, "connected"), linked)
        shards.add((status.job, "away"), len(status.shards) - linked)
    yield from (family.metric for family in (workers, shards))


def _newest_step(moments: Sequence[Moment]) -> Iterator[Metric]:
    loss = _gauge("loss", "Mean loss of the newest step, by weight")
    rate = _gauge("learning_rate", "Learning rate of the newest step")
    norm = _gauge("gradient_norm", "Norm of the newest step's mean gradient before clipping")
    batch = _gauge("global_batch_samples", "Samples of the newest step")
    noise = _gauge("noise_scale_samples", "Gradient noise scale, smoothed; absent while it is not known")
    stale = _gauge("staleness_steps", "Most steps by which the weights of a contribution were behind")
    for moment in moments:
        job, report = (moment.status.job,), moment.newest
        noise.add(job, moment.noise_scale)
        if report is None:
            continue
        loss.add(job, report.loss)
        rate.add(job, report.learning_rate)
        norm.add(job, report.gradient_norm)
        batch.add(job, report.samples)
        stale.add(job, report.staleness_steps)
    yield from (family.metric for family in (loss, rate, norm, batch, noise, stale))


def _slices(ranges: dict[str, Sequence[SliceRange]]) -> Iterator[Metric]:
    ratio = _gauge("trust_ratio", f"Trust ratio of the {SLICES_TOLD} slices that drifted most", "layer")
    clamped = _gauge("clamped_slices", "Slices whose ratio met a bound in the newest step")
    norm = _gauge("parameter_norm", "Norm of all weights before the newest step")
    for job, slices in ranges.items():
        for found in sorted(slices, key=_drift, reverse=True)[:SLICES_TOLD]:
            ratio.add((job, found.facts.name), found.facts.trust_ratio)
        if slices:
            clamped.add((job,), sum(bool(found.facts.clamp) for found in slices))
            norm.add((job,), math.hypot(*(found.facts.weight_norm for found in slices)))
    yield from (family.metric for family in (ratio, clamped, norm))


def _drift(found: SliceRange) -> float:
    drift = found.trust_ratio_drift
    return abs(math.log(drift)) if 0 < drift < math.inf else math.inf


def _totals(totals: Sequence[tuple[str, Totals]]) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "sheepfold_step_duration_seconds", "Duration of steps, by phase", labels=("job", "phase")
    )
    ratios = HistogramMetricFamily(
        "sheepfold_trust_ratio_distribution", "Trust ratios of all slices of all steps", labels=("job",)
    )
    received = _counter("push_received_bytes", "Bytes of gradients received by all shards")
    sent = _counter("pull_sent_bytes", "Bytes of weights sent by all shards")
    lost = _counter("reports_lost", "Step reports that never reached the dashboard")
    for job, total in totals:
        for phase in PHASES:
            seconds.add_metric((job, phase), total.seconds[phase].buckets(), total.seconds[phase].sum)
        ratios.add_metric((job,), total.ratios.buckets(), total.ratios.sum)
        received.add((job,), total.bytes_in)
        sent.add((job,), total.bytes_out)
        lost.add((job,), total.reports_lost)
    yield from (seconds, ratios, received.metric, sent.metric, lost.metric)


def _alerts(moments: Sequence[Moment]) -> Iterator[Metric]:
    active = _gauge("alerts", "Active alerts, by rule", "rule", "severity")
    for moment in moments:
        found = Counter((a.name, a.severity) for a in moment.alerts if a.ended_seconds is None)
        for (name, severity), count in sorted(found.items()):
            active.add((moment.status.job, name, severity), count)
    yield active.metric
