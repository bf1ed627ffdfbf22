"""The float64 reference and our shards against vectors that MXNet 1.9.1 computed: phi clamped on both sides.

Tolerance: MXNet computes in fp32 throughout, norms too, so each step may differ by some 2**-22 of the
movement; 1e-6 of the largest weight after six steps is over four times what is seen. The reference rounds
nothing, so all of its distance is MXNet's: 1.7e-7 is seen, 3e-7 allowed.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.oracle.family_float64 import Slice
from tests.oracle.settings import optimizer_of
from tests.oracle.shards import Job

from sheepfold_wire.manifest import Manifest, TensorSpec

TOLERANCE, REFERENCE_TOLERANCE = 1e-6, 3e-7
RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("mxnet_lamb.json").read_text())
CASES = RECORDED["cases"]


def unpacked(text: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"decay {case['weight_decay']}, debias {case['debias']}"
)


@every_case
def test_the_float64_reference_is_mxnets(case: dict[str, Any]) -> None:
    settings, steps = RECORDED["settings"], RECORDED["settings"]["steps"]
    chosen = {"eps": settings["eps"], "phi": tuple(settings["phi"])}
    chosen |= {key: case[key] for key in ("weight_decay", "debias")}
    for name, value in case["tensors"].items():
        one = Slice(unpacked(value["start"], *value["shape"]).astype(float), settings=chosen)
        after = unpacked(value["after"], steps, *value["shape"])
        for t, gradient in enumerate(unpacked(value["gradients"], steps, *value["shape"])):
            one.step(gradient, settings["lr"])
            error = np.abs(one.weights - after[t]).max()
            assert error <= REFERENCE_TOLERANCE * np.abs(after[t]).max(), f"step {t}, {name}: off by {error}"


@every_case
def test_a_clamped_phi_is_mxnets(case: dict[str, Any]) -> None:
    settings, steps = RECORDED["settings"], RECORDED["settings"]["steps"]
    tensors = case["tensors"]
    specs = [TensorSpec(n, tuple(t["shape"]), "float32", "parameter") for n, t in tensors.items()]
    start = {n: unpacked(t["start"], *t["shape"]) for n, t in tensors.items()}
    given = {"phi": settings["phi"], "weight_decay": case["weight_decay"], "debias": case["debias"]}
    job = Job.start(Manifest(tuple(specs)), start, 2, optimizer_of(**given))
    clamps = set()
    for t in range(steps):
        step = {n: unpacked(v["gradients"], steps, *v["shape"])[t] for n, v in tensors.items()}
        clamps |= {(name, report.clamp) for name, report in job.step(t, [step], settings["lr"]).items()}
        for name, value in tensors.items():
            expected = unpacked(value["after"], steps, *value["shape"])[t]
            error = np.abs(job.values()[name] - expected).max()
            assert error <= TOLERANCE * np.abs(expected).max(), f"step {t}, {name}: off by {error}"
    assert {("below", "phi"), ("above", "phi"), ("between", "")} <= clamps
