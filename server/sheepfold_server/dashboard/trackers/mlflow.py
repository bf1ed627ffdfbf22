"""MLflow: a run of the experiment `sheepfold`, found again by its tags."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

EXPERIMENT = "sheepfold"
BATCH_MAX = 1000
"""Metrics that MLflow takes at a time."""


class MlflowRun:
    def __init__(self, uri: str, job: str, lineage: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        query = f"tags.`sheepfold.job` = '{job}' and tags.`sheepfold.lineage` = '{lineage}'"
        found = self._client.search_runs([experiment], query)
        tags = {"sheepfold.job": job, "sheepfold.lineage": lineage, "mlflow.runName": job}
        run = found[0] if found else self._client.create_run(experiment, tags=tags)
        self._run_id = run.info.run_id
        self.newest = int(run.data.tags.get("sheepfold.version", 0))

    def write(self, version: int, values: Mapping[str, float], at: float) -> None:
        metrics = [Metric(name, value, round(at * 1000), version) for name, value in values.items()]
        for first in range(0, len(metrics), BATCH_MAX):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + BATCH_MAX])
        self._client.set_tag(self._run_id, "sheepfold.version", str(version))
        self.newest = version

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
