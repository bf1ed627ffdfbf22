"""Logistic regression with NumPy alone: no torch in the worker.

SHEEPFOLD=local: python client/examples/numpy_regression.py
"""

from __future__ import annotations

import numpy as np

import sheepfold
from sheepfold_wire.samples import stream_indices

SAMPLES, FEATURES = 4_096, 20
JOB = {
    "name": "numpy-regression",
    "batch": {"samples": 512, "slot_samples": 128},
    "data": {"samples": SAMPLES, "seed": 4},
    "optimizer": {"lr": {"peak": 0.1, "schedule": "poly", "warmup_steps": 3}, "weight_decay": 0.0},
    "stop": {"steps": 30},
}


def main() -> None:
    draw = np.random.default_rng(5)
    x = draw.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    y = (x @ draw.standard_normal(FEATURES) > 0).astype(np.float32)
    initial = {"weight": (0.1 * draw.standard_normal(FEATURES)).astype(np.float32)}
    with sheepfold.Client(parameters=initial, config=JOB) as client:
        while (lease := client.lease()) is not None:
            chosen = stream_indices(SAMPLES, 4, lease.sample_start, lease.sample_count)
            rows, due = x[chosen], y[chosen]
            guess = 1 / (1 + np.exp(-rows @ client.weights["weight"]))
            loss = -np.mean(due * np.log(guess + 1e-7) + (1 - due) * np.log(1 - guess + 1e-7))
            client.push({"weight": rows.T @ (guess - due) / len(chosen)}, loss=float(loss))
        right = ((x @ client.pull()["weight"] > 0) == (y > 0.5)).mean()
        print(f"version {client.version}: accuracy {right:.3f}")


if __name__ == "__main__":
    main()
