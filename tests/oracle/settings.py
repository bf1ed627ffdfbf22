"""[optimizer] tables for tests that need no job around them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from sheepfold_wire.optimizer import Optimizer, OptimizerKeys

_OPTIMIZER: TypeAdapter[OptimizerKeys] = TypeAdapter(Optimizer)


def optimizer_of(**settings: Any) -> OptimizerKeys:
    """What a job file with these keys under [optimizer] means; the learning rate is left to the test."""
    return _OPTIMIZER.validate_python({"lr": {"peak": 1.0}, **settings})
