"""What evaluators found, and whether the job goes on: the stop rule by metric and patience."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core.metrics import why_metrics_refused
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.job import Stop


class Evaluations:
    """The best version by `stop.metric`, and how many evaluations have passed since."""

    def __init__(self) -> None:
        self.best_version: int = NOTHING_LOADED
        self.best_value = 0.0
        self.since_best = 0
        self.newest: int = NOTHING_LOADED
        """Version that was evaluated."""

    def take(self, request: m.EvaluationRequest, rule: Stop, newest: int) -> m.EvaluationReply:
        """Note what a version is worth. An older version than one heard of before cannot cost patience."""
        if not 0 <= request.version <= newest:
            raise BadConfig(f"version {request.version} is evaluated, but the newest is {newest}")
        if wrong := why_metrics_refused(request.metrics):
            raise BadConfig(wrong)
        values = {metric.name: metric.value for metric in request.metrics}
        if rule.metric is None:
            return m.EvaluationReply(False, NOTHING_LOADED, 0)
        if rule.metric not in values:
            told = ", ".join(sorted(values)) or "none"
            raise BadConfig(f"stop.metric = {rule.metric!r} is not among what was evaluated: {told}")
        is_best = self._is_better(values[rule.metric], rule.goal)
        if is_best:
            self.best_version, self.best_value, self.since_best = request.version, values[rule.metric], 0
        elif request.version > self.newest:
            self.since_best += 1
        self.newest = max(self.newest, request.version)
        return m.EvaluationReply(is_best, self.best_version, self.since_best)

    def _is_better(self, value: float, goal: str) -> bool:
        if self.best_version == NOTHING_LOADED:
            return True
        return value > self.best_value if goal == "max" else value < self.best_value

    def why_stop(self, rule: Stop) -> str:
        """Why the job is to stop, in words; "" if it goes on."""
        if rule.patience is None or self.since_best < rule.patience:
            return ""
        return (
            f"{rule.metric} has not got better in {self.since_best} evaluations (stop.patience = "
            f"{rule.patience}); the best is {self.best_value:g} at version {self.best_version}"
        )
