"""When to raise an alert: one pure function per rule, all of them in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.ranges import SliceRange


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond which a rule speaks."""

    pinned_steps: int = 50
    """Newest applied steps in a row that a slice may meet a bound in."""
    ratio_min: float = 1e-4
    ratio_max: float = 1e2
    """Trust ratios that are still plausible."""
    skips: int = 3
    skip_steps: int = 10
    """Skips among so many newest steps that are one too many."""
    rate_share: float = 0.5
    """Of the usual samples per second."""
    rate_share_again: float = 0.7
    """From which on a drop is over: a rate that wavers about one limit is one alert, not many."""
    rate_steps: int = 8
    """Newest steps whose median rate is compared with that of the steps before."""
    rate_steps_before: int = 16
    straggler_share: float = 1 / 3
    """Of the slots that the median worker computes."""
    straggler_workers: int = 3
    straggler_slots: int = 6
    """Workers, and slots of the median one, from which on a comparison means something."""
    refusals: int = 3
    refusals_share: float = 0.1
    """Refused contributions of a worker, and their share of all of its, that are too many."""
    deviation_slots: int = 12
    """Slots of a worker from which on its norms are judged."""
    deviation_z: float = 4.0
    """Robust z-score of a worker's median norm among the norms of all slots."""
    checkpoint_intervals: float = 2.0
    """Times checkpoint.every_minutes that the newest checkpoint may be old."""


@dataclass(frozen=True, slots=True)
class View:
    """What rules judge by. `reports`: the newest ones without slices, oldest first."""

    status: m.JobStatus
    reports: Sequence[m.StepReport] = ()
    slices: Sequence[SliceRange] = ()
    noise_scale: float | None = None
    """Samples; None while it is not known."""
    active: frozenset[tuple[str, str]] = frozenset()
    """(rule, subject) of alerts of this lineage that have begun and not ended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """That a rule speaks, about what, with numbers, and what to do."""

    name: str
    severity: str
    subject: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rule:
    """`find` yields (subject, text) for each thing that the rule speaks about."""

    name: str
    severity: str
    find: Callable[[View, Limits], Iterator[tuple[str, str]]]
    remedy: str


def slice_pinned(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    for found in view.slices:
        if found.steps_clamped >= limits.pinned_steps:
            facts = found.facts
            yield (
                facts.name,
                f"the trust ratio met its bound ({facts.clamp or 'phi or ratio'}) in each of the newest "
                f"{found.steps_clamped} steps; it is {facts.trust_ratio:.4g}, "
                f"||w|| = {facts.weight_norm:.4g}, ||u|| = {facts.update_norm:.4g}",
            )


def ratio_outside(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    for found in view.slices:
        ratio = found.facts.trust_ratio
        if not limits.ratio_min <= ratio <= limits.ratio_max:
            yield (
                found.facts.name,
                f"the trust ratio is {ratio:.4g}, outside {limits.ratio_min:g} to {limits.ratio_max:g}: "
                f"||w|| = {found.facts.weight_norm:.4g}, ||u|| = {found.facts.update_norm:.4g}",
            )


def repeated_skip(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    newest = view.reports[-limits.skip_steps :]
    skipped = [report for report in newest if report.is_skip]
    if len(skipped) >= limits.skips:
        yield (
            view.status.job,
            f"{len(skipped)} of the newest {len(newest)} steps were skipped, the last one being step "
            f"{skipped[-1].step}: {skipped[-1].skip_reason}",
        )


def not_finite(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    """A worker whose contributions are refused again and again: no report ever holds what is not finite."""
    for worker in view.status.workers:
        pushed = worker.refused + worker.slots_committed
        if worker.refused >= limits.refusals and worker.refused > limits.refusals_share * pushed:
            told = [event.text for event in view.status.events if event.kind == "refusal"]
            newest = [text for text in told if worker.worker in text][-1:]
            last = f", last: {newest[0]}" if newest else ""
            yield worker.worker, f"{worker.refused:,} of its {pushed:,} contributions were refused{last}"


def throughput_drop(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    if view.status.state != "running":
        return
    rates = [
        report.samples / seconds
        for report in view.reports
        if (seconds := report.wait_seconds + report.prepare_seconds + report.apply_seconds) > 0
    ]
    newest, before = rates[-limits.rate_steps :], rates[: -limits.rate_steps]
    if len(before) < limits.rate_steps_before:
        return
    now, usual = median(newest), median(before)
    has_begun = ("ThroughputDrop", view.status.job) in view.active
    if now < usual * (limits.rate_share_again if has_begun else limits.rate_share):
        yield (
            view.status.job,
            f"{now:.4g} samples per second in the newest {len(newest)} steps, {usual:.4g} in the "
            f"{len(before)} before them",
        )


def straggler(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    """A worker that was there from the beginning of the window, and still is, with few slots of it."""
    half = len(view.reports) // 2
    attached = {worker.worker for worker in view.status.workers}
    early = {slot.worker for report in view.reports[:half] for slot in report.slots} & attached
    if len(early) < limits.straggler_workers:
        return
    slots = Counter(slot.worker for report in view.reports[half:] for slot in report.slots)
    usual = median(slots[worker] for worker in early)
    if usual < limits.straggler_slots:
        return
    for worker in sorted(early):
        if slots[worker] < limits.straggler_share * usual:
            yield (
                worker,
                f"it computed {slots[worker]} slots of the newest {len(view.reports) - half} steps, the "
                f"median worker {usual:g}",
            )


def worker_deviates(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    """A worker whose contributions are larger or smaller than those of all, each relative to its step's.

    The z-score is robust: distance of medians over 1.4826 times the median absolute deviation of all slots.
    """
    norms: dict[str, list[float]] = {}
    for report in view.reports:
        usual = median(slot.gradient_norm for slot in report.slots) if report.slots else 0.0
        for slot in (
            report.slots if usual > 0 else ()
        ):  # the root mean square would follow the one that deviates
            norms.setdefault(slot.worker, []).append(slot.gradient_norm / usual)
    everything = [norm for of_worker in norms.values() for norm in of_worker]
    if len(norms) < 2 or not everything:
        return
    middle = median(everything)
    spread = max(1.4826 * median(abs(norm - middle) for norm in everything), 1e-3 * middle)
    for worker, of_worker in sorted(norms.items()):
        own = median(of_worker)
        z = (own - middle) / spread
        if len(of_worker) >= limits.deviation_slots and abs(z) > limits.deviation_z:
            yield (
                worker,
                f"the norm of its gradients is {own / middle:.2f} times the usual one, z = {z:+.1f} over "
                f"{len(of_worker)} slots",
            )


def batch_above_noise_scale(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    if view.noise_scale is None or not view.reports:
        return
    samples = view.reports[-1].samples
    if samples > view.noise_scale:
        yield (
            view.status.job,
            f"the global batch of {samples:,} samples exceeds the gradient noise scale of "
            f"{view.noise_scale:,.0f}",
        )


def checkpoint_overdue(view: View, limits: Limits) -> Iterator[tuple[str, str]]:
    status = view.status
    due, age = status.checkpoint_every_seconds, status.checkpoint_age_seconds
    if status.state != "running" or not due or age <= limits.checkpoint_intervals * due:
        return
    told = [event.text for event in status.events if event.kind == "checkpoint"][-1:]
    newest = (
        "none is kept" if status.checkpoint_version < 0 else f"version {status.checkpoint_version} is kept"
    )
    yield (
        status.job,
        f"{newest}, of {status.version}: for {age / 60:.0f} minutes no checkpoint was stored, where one is "
        f"due every {due / 60:g}" + "".join(f"; last: {text}" for text in told),
    )


RULES = (
    Rule(
        "SlicePinned",
        "warning",
        slice_pinned,
        "widen the bound if the norms are plausible, or look at the slice's initial values and weight decay",
    ),
    Rule(
        "RatioOutside",
        "warning",
        ratio_outside,
        "look at the slice's norms: weights that vanish or grow without bound need another decay or learning "
        "rate",
    ),
    Rule(
        "RepeatedSkip",
        "critical",
        repeated_skip,
        "pause the job and look at the loss and the samples of the skipped steps; lower optimizer.lr.peak or "
        "set optimizer.clip_norm",
    ),
    Rule(
        "NonFiniteContributor",
        "critical",
        not_finite,
        "look at that worker's machine and at the samples of its slots; stop it if the others are well",
    ),
    Rule(
        "ThroughputDrop",
        "warning",
        throughput_drop,
        "compare the parts of the step's time: waiting points to workers, preparing and applying to shards",
    ),
    Rule(
        "Straggler",
        "warning",
        straggler,
        "look at that worker's data loading and device; without it the others take its slots",
    ),
    Rule(
        "WorkerDeviates",
        "warning",
        worker_deviates,
        "look at that worker's data, its precision and its versions; stop it if the others are well",
    ),
    Rule(
        "BatchAboveNoiseScale",
        "warning",
        batch_above_noise_scale,
        "a smaller global batch would need hardly more steps; keep this one only if time matters more than "
        "compute",
    ),
    Rule(
        "CheckpointOverdue",
        "critical",
        checkpoint_overdue,
        "look at the space and the permissions of the checkpoint url on every shard and the coordinator, "
        "then run `sheepfold checkpoint save`",
    ),
)


def findings(view: View, limits: Limits) -> list[Finding]:
    """What all rules have to say at this moment."""
    return [
        Finding(rule.name, rule.severity, subject, text, rule.remedy)
        for rule in RULES
        for subject, text in rule.find(view, limits)
    ]
