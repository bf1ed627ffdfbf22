"""Whole steps against the float64 oracle.

Tolerance: weights are fp32 and each step rounds w, m, v and u a dozen times, each by at most 2**-24
relative. An element moves by learning rate * ratio * u, so after T steps the error stays below about
T * 2**-24 * |w| for the subtraction plus T * 16 * 2**-24 of the movement. Relative to the slice's largest
weight 4e-6 leaves a factor of about 8 over what is seen; a wrong formula is off by 1e-3 and more.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.oracle.lamb_float64 import Lamb, clipped, weighted_mean
from tests.oracle.settings import optimizer_of
from tests.oracle.shards import Job, Values

from sheepfold_wire.codecs import Codec, decode, encode
from sheepfold_wire.int8 import decode_rows, encode_rows, row_keys
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.samples import slot_seed

TOLERANCE = 4e-6
SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "one": (1,),
    "vector": (1025,),
    "cube": (3, 17, 29),
    "large": (200_000,),
    "empty": (0, 4),
    "zeros": (300,),
}
MANIFEST = Manifest(tuple(TensorSpec(name, shape, "float32", "parameter") for name, shape in SHAPES.items()))


def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    values = {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    values["zeros"][:] = 0
    return values


def gradients(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each tensor at a scale of its own, so that a norm over the wrong unit shows."""
    return {
        name: (10.0 ** (i - 3) * rng.normal(size=shape)).astype(np.float32)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def assert_close(mine: Values, oracle: Lamb) -> None:
    for name, x in oracle.x.items():
        error = np.abs(mine[name] - x).max(initial=0.0)
        assert error <= TOLERANCE * np.abs(x).max(initial=0.0), f"{name}: off by {error}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize(
    ("settings", "factors", "shards"),
    [
        ({}, [1.0, 1.0, 1.0], 1),
        ({}, [3.0, 0.5, 7.25], 3),
        ({"weight_decay": 0.0}, [1.0], 2),
        ({"beta1": 0.75, "beta2": 0.9, "clip_norm": 0.5}, [1.0, 2.0], 2),
    ],
)
def test_six_steps_agree_with_the_oracle(
    seed: int, settings: dict[str, float], factors: list[float], shards: int
) -> None:
    rng = np.random.default_rng(seed)
    start = weights(rng)
    job = Job.start(MANIFEST, start, shards, optimizer_of(**settings), split_above_bytes=300_000)
    clip = settings.get("clip_norm")
    oracle = Lamb(start, **{key: value for key, value in settings.items() if key != "clip_norm"})
    for t in range(6):
        given = [gradients(rng) for _ in factors]
        mean = weighted_mean(given, factors)
        oracle.step(clipped(mean, clip) if clip else mean, 0.02)
        reports = job.step(t, given, 0.02, factors)
        for name, report in reports.items():
            assert report.trust_ratio == pytest.approx(oracle.ratio[name], rel=1e-5), f"seed {seed}, {name}"
    assert_close(job.values(), oracle)


def test_declared_slices_have_ratios_of_their_own() -> None:
    rng = np.random.default_rng(13)
    manifest = Manifest((TensorSpec("fused", (3, 50_000), "float32", "parameter", (1, 2)),))
    scale = np.array([[0.01], [1.0], [2.0]])
    start = (scale * rng.normal(size=(3, 50_000))).astype(np.float32)
    job = Job.start(manifest, {"fused": start}, 2, split_above_bytes=100_000)
    oracle = Lamb({"a": start[:1], "b": start[1:]})
    for t in range(3):
        g = rng.normal(size=(3, 50_000)).astype(np.float32)
        job.step(t, [{"fused": g}])
        oracle.step({"a": g[:1].astype(np.float64), "b": g[1:].astype(np.float64)}, 0.01)
    expected = np.concatenate([oracle.x["a"], oracle.x["b"]])
    assert np.abs(job.values()["fused"] - expected).max() < TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("codec", [Codec.BF16, Codec.FP16])
def test_a_half_precision_contribution_is_the_step_of_its_rounded_values(codec: Codec) -> None:
    rng = np.random.default_rng(14)
    manifest = Manifest((TensorSpec("w", (70_000,), "bfloat16", "parameter"),))
    start = {"w": rng.normal(size=70_000).astype(np.float32)}
    job, oracle = Job.start(manifest, start, 2, split_above_bytes=0), Lamb(start)
    for t in range(3):
        g = rng.normal(size=70_000).astype(np.float32)
        raw = bytearray(2 * g.size)
        encode(codec, g, raw)
        job.step(t, [{"w": g}], codec=codec)
        oracle.step({"w": decode(codec, raw).astype(np.float64)}, 0.01)
    assert_close(job.values(), oracle)


def test_an_int8_contribution_is_the_step_of_its_decoded_values() -> None:
    rng = np.random.default_rng(14)
    manifest = Manifest((TensorSpec("w", (70_000,), "float32", "parameter"),))
    start = {"w": rng.normal(size=70_000).astype(np.float32)}
    job, oracle = Job.start(manifest, start, 2, split_above_bytes=0), Lamb(start)
    quanta, scales = np.empty(69 * 1024, np.int8), np.empty(69, np.float32)
    for t in range(3):
        g = rng.normal(size=70_000).astype(np.float32)
        encode_rows(g, row_keys(slot_seed(0, t, 0), 0, 69), quanta, scales)
        job.step(t, [{"w": g}], codec=Codec.INT8)
        oracle.step({"w": decode_rows(quanta, scales)[:70_000].astype(np.float64)}, 0.01)
    assert_close(job.values(), oracle)


def test_a_tensor_that_is_absent_now_and_then_counts_its_own_steps() -> None:
    rng = np.random.default_rng(15)
    manifest = Manifest(tuple(TensorSpec(n, (2000,), "float32", "parameter") for n in "ab"))
    start = {n: rng.normal(size=2000).astype(np.float32) for n in "ab"}
    job, oracle = Job.start(manifest, start), Lamb(start)
    for t in range(5):
        g = {n: rng.normal(size=2000).astype(np.float32) for n in "ab"}
        absent = frozenset({"b"} if t % 2 else ())
        if absent:
            g["b"][:] = 0
        job.step(t, [g], absent=absent)
        oracle.step({n: v.astype(np.float64) for n, v in g.items() if n not in absent}, 0.01)
    assert oracle.n == {"a": 5, "b": 3}
    assert_close(job.values(), oracle)
