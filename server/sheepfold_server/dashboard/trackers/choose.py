"""Which trackers `--tracker` names: tensorboard:DIR, wandb:PROJECT, mlflow:URI."""

from __future__ import annotations

import importlib
from functools import partial

from sheepfold_server.dashboard.trackers.tracker import Opened, TrackerMissing

KINDS = {"tensorboard": "TensorBoardRun", "wandb": "WandbRun", "mlflow": "MlflowRun"}
FORMS = "give tensorboard:DIR, wandb:PROJECT or mlflow:URI"


def tracker_of(text: str) -> Opened:
    """How to open a run by one `--tracker`; raises TrackerMissing."""
    kind, _, place = text.partition(":")
    if kind not in KINDS or not place:
        raise TrackerMissing(f"--tracker {text}: {FORMS}")
    try:
        module = importlib.import_module(f"sheepfold_server.dashboard.trackers.{kind}")
    except ImportError as error:
        raise TrackerMissing(
            f"--tracker {text}: {error}; install it: pip install 'sheepfold[{kind}]'"
        ) from None
    return partial(getattr(module, KINDS[kind]), place)
