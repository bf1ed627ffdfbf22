"""What the demo learns from the coordinator's step reports while it runs."""

from __future__ import annotations

import math
import threading
import time

from sheepfold_server.cli.demo.plan import JOB
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control, NoAnswer
from sheepfold_wire.errors import SheepfoldError


class Observer:
    """Watches the job in a thread: trust ratios, loss, and when each step was reported."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._seen_at: list[float] = []
        self.loss: float | None = None
        self.trust_ratio_min, self.trust_ratio_max = math.inf, -math.inf
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the job's last report is in."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            for report in self._control.watch(JOB, 0, lambda call: None):
                self.add(report, time.monotonic())
        except (NoAnswer, SheepfoldError, ValueError):  # the coordinator is gone: the main loop sees that
            return

    def add(self, report: m.StepReport, at: float) -> None:
        with self._lock:
            self._seen_at.append(at)
            self.loss = report.loss if report.loss is not None else self.loss
            for found in report.slices:
                self.trust_ratio_min = min(self.trust_ratio_min, found.trust_ratio)
                self.trust_ratio_max = max(self.trust_ratio_max, found.trust_ratio)

    @property
    def reports(self) -> int:
        return len(self._seen_at)

    def training_seconds(self) -> float:
        """From the first step's report to the last one's."""
        with self._lock:
            return self._seen_at[-1] - self._seen_at[0] if self._seen_at else 0.0

    def step_seconds(self, quantile: float) -> float:
        """Quantile of the time between one report and the next, as observed here."""
        with self._lock:
            gaps = sorted(b - a for a, b in zip(self._seen_at, self._seen_at[1:], strict=False))
        return gaps[min(len(gaps) - 1, int(quantile * len(gaps)))] if gaps else 0.0
