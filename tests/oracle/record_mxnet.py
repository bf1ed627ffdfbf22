"""Records MXNet's LAMB with phi clamped on both sides: vectors for `test_recorded_mxnet.py`.

MXNet 1.9.1 is of 2022 and needs NumPy 1.23.5, so it lives in an environment of its own:

    python3 -m venv mx && mx/bin/pip install mxnet==1.9.1 numpy==1.23.5
    mx/bin/python tests/oracle/record_mxnet.py tests/oracle/mxnet_lamb.json
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import mxnet as mx
import numpy as np

STEPS, RATE, LOW, HIGH = 6, 0.02, 1.0, 3.0
SHAPES: dict[str, tuple[int, ...]] = {"below": (6,), "between": (4, 5), "above": (2, 5, 6), "zero": (7,)}
SCALES = {"below": 0.1, "between": 0.45, "above": 2.0, "zero": 0.0}


def packed(values: Any) -> str:
    """fp32, little endian, base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def record(weight_decay: float, debias: bool) -> dict[str, Any]:
    """Weights of each tensor after every step."""
    rng = np.random.default_rng(7)
    optimizer = mx.optimizer.LAMB(
        learning_rate=RATE,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-6,
        lower_bound=LOW,
        upper_bound=HIGH,
        bias_correction=debias,
        wd=weight_decay,
    )
    tensors = {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        start = (SCALES[name] * rng.normal(size=shape)).astype(np.float32)
        gradients = rng.normal(size=(STEPS, *shape)).astype(np.float32)
        weights = mx.nd.array(start)
        state = optimizer.create_state(index, weights)
        after = []
        for gradient in gradients:
            optimizer.update(index, weights, mx.nd.array(gradient), state)
            after.append(weights.asnumpy())
        tensors[name] = {
            "shape": shape,
            "start": packed(start),
            "gradients": packed(gradients),
            "after": packed(np.stack(after)),
        }
    return {"weight_decay": weight_decay, "debias": "moments" if debias else "none", "tensors": tensors}


def main() -> None:
    cases = [record(decay, debias) for decay in (0.0, 0.01) for debias in (True, False)]
    versions = {"mxnet": mx.__version__, "numpy": np.__version__}
    settings = {"lr": RATE, "phi": [LOW, HIGH], "eps": 1e-6, "steps": STEPS}
    with open(sys.argv[1], "w") as out:
        json.dump({"versions": versions, "settings": settings, "cases": cases}, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
