"""Weights & Biases: a run of a project, with an id of its own so that it is resumed."""

from __future__ import annotations

from collections.abc import Mapping

import wandb


class WandbRun:
    def __init__(self, project: str, job: str, lineage: str) -> None:
        run_id = f"{job}-{lineage[:8]}"
        self._run = wandb.init(project=project, id=run_id, name=job, resume="allow", reinit="create_new")
        self.newest = int(self._run.summary.get("version", 0) or 0)

    def write(self, version: int, values: Mapping[str, float], at: float) -> None:
        self._run.log({**values, "version": version}, step=version)
        self.newest = version

    def close(self) -> None:
        self._run.finish()
