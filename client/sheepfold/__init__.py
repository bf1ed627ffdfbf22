"""The training script's side of sheepfold: attach a model, contribute gradients, receive weights.

    run = sheepfold.attach(model, job="lenet")
    for slot in run.slots():
        loss = loss_of(model(images[slot.indices]), labels[slot.indices])
        slot.backward(loss)
        run.step()

Importing this package needs neither torch nor grpc; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sheepfold.attaching import attach as attach
    from sheepfold.errors import GroupBroken as GroupBroken
    from sheepfold.errors import JobEnded as JobEnded
    from sheepfold.errors import Refused as Refused
    from sheepfold.errors import ServerUnavailable as ServerUnavailable
    from sheepfold.fingerprint import data_fingerprint as data_fingerprint
    from sheepfold.loading import SequentialFiles as SequentialFiles
    from sheepfold.numpy_client import Client as Client
    from sheepfold.optimizer import RemoteOptimizer as RemoteOptimizer
    from sheepfold.reader import Reader as Reader
    from sheepfold.result import StepResult as StepResult
    from sheepfold.run import Run as Run
    from sheepfold.schedules import tabulated as tabulated
    from sheepfold_wire.job import Job as Job

FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"

_HOMES = {
    "attach": "sheepfold.attaching",
    "Run": "sheepfold.run",
    "RemoteOptimizer": "sheepfold.optimizer",
    "Reader": "sheepfold.reader",
    "StepResult": "sheepfold.result",
    "SequentialFiles": "sheepfold.loading",
    "data_fingerprint": "sheepfold.fingerprint",
    "tabulated": "sheepfold.schedules",
    "Client": "sheepfold.numpy_client",
    "Job": "sheepfold_wire.job",
    "JobEnded": "sheepfold.errors",
    "ServerUnavailable": "sheepfold.errors",
    "GroupBroken": "sheepfold.errors",
    "Refused": "sheepfold.errors",
}

__all__ = sorted(_HOMES)


def _turn_fork_support_off() -> None:
    """grpc's fork handlers hang or kill the forked workers of a DataLoader; it reads the switch on import."""
    if "grpc" in sys.modules and os.environ.get(FORK_SUPPORT, "1").lower() not in ("0", "false", "no"):
        warnings.warn(
            f"grpc was imported before sheepfold, with fork support on: forked DataLoader workers may hang. "
            f"Import sheepfold first, or start Python with {FORK_SUPPORT}=0",
            RuntimeWarning,
            stacklevel=3,
        )
    os.environ.setdefault(FORK_SUPPORT, "0")


_turn_fork_support_off()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sheepfold' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
