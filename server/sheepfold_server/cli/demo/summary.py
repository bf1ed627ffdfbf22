"""What the demo has shown, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sheepfold_server.cli.demo.plan import GLOBAL_BATCH
from sheepfold_wire import messages as m


@dataclass(frozen=True, slots=True)
class Summary:
    """`seconds`: the whole demo; `training_seconds`: from the first step's report to the last one's."""

    data: str
    accuracy: float
    version: int
    steps: int
    seconds: float
    training_seconds: float
    step_seconds_p50: float
    step_seconds_p95: float
    counts: m.SlotCounts
    samples_committed: int
    samples_skipped: int
    trust_ratio_min: float
    trust_ratio_max: float
    digest: str

    @property
    def samples_per_second(self) -> float:
        """Over the steps after the first report."""
        return GLOBAL_BATCH * (self.steps - 1) / self.training_seconds if self.training_seconds > 0 else 0.0

    def lost_samples(self) -> int:
        """Samples of all steps that are neither committed nor skipped; negative if some counted twice."""
        return self.steps * GLOBAL_BATCH - self.samples_committed - self.samples_skipped

    def facts(self) -> dict[str, Any]:
        c = self.counts
        return {
            "accuracy": round(self.accuracy, 4),
            "seconds": round(self.seconds, 2),
            "steps": self.steps,
            "version": self.version,
            "samples_per_s": round(self.samples_per_second, 1),
            "slots": {
                "leased": c.leased,
                "committed": c.committed,
                "leased_again": c.leased_again,
                "dropped": c.dropped,
                "skipped": c.skipped,
            },
            "trust_ratio": {"min": self.trust_ratio_min, "max": self.trust_ratio_max},
            "digest": self.digest,
        }

    def text(self) -> str:
        c = self.counts
        step_ms = f"{self.step_seconds_p50 * 1e3:.0f} ms (p50), {self.step_seconds_p95 * 1e3:.0f} ms (p95)"
        outstanding = f" + {c.outstanding:,} outstanding" if c.outstanding else ""
        ends = f"{c.committed:,} committed + {c.skipped:,} skipped + {c.dropped:,} dropped{outstanding}"
        samples = f"{self.samples_committed:,} committed + {self.samples_skipped:,} skipped"
        rows = {
            "data": self.data,
            "accuracy": f"{self.accuracy:.4f} on the test images, version {self.version:,}",
            "time": f"{self.seconds:.1f} s in all, {self.training_seconds:.1f} s of it training",
            "speed": f"{self.samples_per_second:,.0f} samples/s; a step took {step_ms}",
            "slots": f"{c.leased:,} leased = {ends}; {c.leased_again:,} leased again",
            "samples": f"{samples} = {self.steps:,} steps x {GLOBAL_BATCH:,}: none lost, none counted twice",
            "trust ratios": f"{self.trust_ratio_min:.4g} to {self.trust_ratio_max:.4g}",
            "digest": self.digest,
        }
        return "\n".join(f"{name:<14}{value}" for name, value in rows.items())
