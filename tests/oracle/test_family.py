"""Every optimizer through the real shards against the float64 reference, and what must hold of each.

Tolerance: weights and state are fp32. A step rounds each of some 20 operations once (2**-24 relative), and
the direction is divided by a root that may be off by another bit; so after T steps an element is off by
about T * 2**-24 of the largest weight for the subtractions, plus 30 * 2**-24 of what it has moved in all, and
more in steps in which u is what is left of larger terms. `allowed` says that per slice, from the reference's
own path; a wrong formula is off by 1e-3 and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.oracle.family_float64 import Slice
from tests.oracle.settings import optimizer_of
from tests.oracle.shards import Job, pack
from tests.unit.desk import job_of

import sheepfold_wire.messages as m
from sheepfold_server.core.decide import decide
from sheepfold_wire.codecs import Codec
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.optimizer import tensor_settings

LAMBS: dict[str, dict[str, Any]] = {
    "lamb paper-v5": {},
    "lamb albert": {"preset": "albert", "clip_norm": "off"},
    "lamb nvlamb": {"preset": "nvlamb", "clip_norm": "off"},
    "lamb apex-default": {"preset": "apex-default", "clip_norm": "off"},
    "lamb deepspeed": {"preset": "deepspeed", "weight_decay": 0.02},
    "lamb tfa": {"preset": "tfa"},
    "lamb beta3 1": {"beta3": "1"},
    "lamb eps inside": {"eps_place": "inside", "eps": 1e-5},
    "lamb decoupled": {"decay_form": "decoupled", "weight_decay": 0.1},
    "lamb l2": {"decay_form": "l2", "weight_decay": 0.1},
    "lamb L1": {"norm_ord": "1"},
    "lamb Linf": {"norm_ord": "inf"},
    "lamb phi": {"phi": [0.5, 3.0]},
    "lamb bounds": {"ratio_bounds": [0.3, 2.0]},
    "n-lamb constant": {"nesterov": "constant", "beta1": 0.975, "eps": 1e-8},
    "n-lamb dozat": {"nesterov": "constant", "nadam_beta2": True},
    "n-lamb scheduled": {"nesterov": "scheduled", "beta1": 0.975},
    "nn-lamb": {"nesterov": "constant", "nesterov_second": True, "beta1": 0.975},
    "nn-lamb scheduled": {"nesterov": "scheduled", "nesterov_second": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "lars outside": {"rule": "lars", "trust_coefficient": 0.1, "weight_decay": 0.01},
    "lars inside": {
        "rule": "lars",
        "form": "lr_inside",
        "denominator": "gradient_plus_decay",
        "trust_coefficient": 0.1,
        "weight_decay": 0.01,
    },
    "lars paper": {"rule": "lars", "form": "paper", "weight_decay": 0.01},
    "adam": {"rule": "adam", "weight_decay": 0.02},
    "adam eps inside": {"rule": "adam", "eps_place": "inside", "eps": 1e-6},
    "adamw": {"rule": "adamw"},
    "adagrad": {"rule": "adagrad", "lr_decay": 0.1, "weight_decay": 0.02, "initial_accumulator": 0.1},
    "sgd": {"rule": "sgd", "dampening": 0.3, "weight_decay": 0.02},
    "sgd nesterov": {"rule": "sgd", "nesterov": True},
}
RULES = LAMBS | OTHERS
LAYERWISE = {name for name, given_ in RULES.items() if given_.get("rule", "lamb") in ("lamb", "lars")}

SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "one": (1,),
    "vector.bias": (1025,),
    "cube": (3, 17, 29),
    "large": (70_000,),
    "zeros": (300,),
}
MANIFEST = Manifest(tuple(TensorSpec(name, shape, "float32", "parameter") for name, shape in SHAPES.items()))
SPLIT_ABOVE = 100_000
ROUNDING = 2.0**-24


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {n: np.array(rng.normal(scale=0.3, size=s)).astype(np.float32) for n, s in SHAPES.items()}
    found["zeros"][:] = 0
    return found


def gradients(seed: int, t: int) -> dict[str, np.ndarray]:
    """Each tensor at a scale of its own; zeros, subnormals and flips of sign among them."""
    rng = np.random.default_rng([seed, t])
    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        g = np.array((-1) ** t * 10.0 ** (i - 3) * (0.2 + rng.normal(size=shape))).astype(np.float32)
        g[rng.random(shape) < 0.05] = 0.0
        g[rng.random(shape) < 0.02] = 1e-42
        found[name] = g
    return found


@dataclass
class Reference:
    """One float64 slice per tensor, with the settings that the job file gives it."""

    slices: dict[str, Slice]
    moved: dict[str, float]
    steps: int = 0

    @classmethod
    def of(cls, start: dict[str, np.ndarray], **given_: Any) -> Reference:
        names = list(start)
        optimizer = optimizer_of(**given_)
        slices = {}
        for name, found in zip(names, tensor_settings(optimizer, names), strict=True):
            own = found.settings.model_dump(exclude={"rule", "preset", "no_decay", "no_adapt", "adapt"}) | {
                "weight_decay": found.weight_decay
            }
            rule = found.settings.rule
            slices[name] = Slice(start[name].astype(np.float64), rule, own, found.adapts)
        return cls(slices, dict.fromkeys(names, 0.0))

    def step(self, gradient: dict[str, np.ndarray], lr: float) -> None:
        self.steps += 1
        for name, one in self.slices.items():
            before = one.weights
            one.step(gradient[name], lr)
            self.moved[name] += self.condition(name) * float(np.abs(one.weights - before).max())

    def condition(self, name: str) -> float:
        """How much larger the terms of u are than u itself: where they cancel, their roundings do not."""
        one = self.slices[name]
        return max(1.0, np.sqrt(one.weights.size) / one.update_norm) if one.update_norm else 1.0

    def allowed(self, name: str) -> float:
        largest = float(np.abs(self.slices[name].weights).max())
        return ROUNDING * (self.steps * largest + 30 * self.moved[name]) + 1e-30


def check_against_reference(job: Job, reference: Reference, label: str) -> None:
    mine = job.values()
    for name, one in reference.slices.items():
        error = float(np.abs(mine[name] - one.weights).max())
        assert error <= reference.allowed(name), f"{label}, {name}: off by {error:.3g}"


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_hundred_steps_agree_with_the_reference(rule: str) -> None:
    start = weights(3)
    job = Job.start(MANIFEST, start, 3, optimizer_of(**RULES[rule]), SPLIT_ABOVE)
    reference = Reference.of(start, **RULES[rule])
    for t in range(100):
        g = gradients(3, t)
        reports = job.step(t, [g], 0.01)
        reference.step(g, 0.01)
        for name, report in reports.items():
            expected, off = reference.slices[name].ratio, 60 * ROUNDING * reference.condition(name)
            assert report.trust_ratio == pytest.approx(expected, rel=off), f"{rule}, step {t}, {name}"
    check_against_reference(job, reference, rule)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tensor_of_three_million_elements_agrees_with_the_reference() -> None:
    manifest = Manifest((TensorSpec("w", (3_000, 1_000), "float32", "parameter"),))
    rng = np.random.default_rng(4)
    start = {
        "w": (np.linspace(0.1, 2.0, 3_000)[:, None] * rng.normal(size=(3_000, 1_000))).astype(np.float32)
    }
    job, reference = Job.start(manifest, start, 3), Reference.of(start)
    for t in range(100):
        g = {"w": rng.normal(size=(3_000, 1_000)).astype(np.float32)}
        report = job.step(t, [g], 0.01)["w"]
        reference.step(g, 0.01)
        assert report.trust_ratio == pytest.approx(reference.slices["w"].ratio, rel=1e-6)
    check_against_reference(job, reference, "3,000,000 elements")


@pytest.mark.parametrize("size", [1e15, 1e-15, 1e-42])
def test_gradients_of_extreme_size_agree_with_the_reference(size: float) -> None:
    start = weights(5)
    job, reference = Job.start(MANIFEST, start, 2, None, SPLIT_ABOVE), Reference.of(start)
    rng = np.random.default_rng(5)
    for t in range(5):
        g = {n: np.array(size * rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}
        job.step(t, [g], 0.01)
        reference.step(g, 0.01)
    if size > 1e-30:
        check_against_reference(job, reference, f"gradients of {size:g}")
    assert all(np.isfinite(value).all() for value in job.values().values())


def test_a_gradient_of_1e30_skips_the_step_and_leaves_every_bit() -> None:
    job = Job.start(MANIFEST, weights(5), 1)
    job.step(0, [gradients(5, 0)], 0.01)
    before, shard = job.digest(), job.shards[0]
    large = {name: np.full(shape, 1e30, np.float32) for name, shape in SHAPES.items()}
    shard.begin(1)
    shard.fold(1, [(pack(job.plan, 0, large), Codec.FP32, 1.0)])
    report = shard.finish(1, 1.0)
    squares = tuple(report.sum_of_squares.tolist())
    decision = decide(1, job_of(), [m.Prepared("j", 1, "", report.finite, report.max_abs, squares)], squares)
    assert decision.is_skip
    assert "1e+30" in decision.reason
    shard.discard(1)
    assert job.digest() == before


# --- one table: what must hold of every rule ----------------------------------------------------------------


def trained(rule: str, shards: int = 1, split: int = SPLIT_ABOVE, **more: Any) -> Job:
    job = Job.start(MANIFEST, weights(6), shards, optimizer_of(**RULES[rule], **more), split)
    for t in range(3):
        job.step(t, [gradients(6, t), gradients(7, t)], 0.01, [1.0, 2.0])
    return job


def holds_bits_for_any_cut(rule: str) -> None:
    digests = {
        trained(rule, shards, split).digest() for shards, split in ((1, SPLIT_ABOVE), (3, 100_000), (5, 0))
    }
    assert len(digests) == 1


def holds_bits_for_any_tile_and_thread_count(rule: str) -> None:
    before = torch.get_num_threads()
    digests = set()
    try:
        for threads, tile_rows in ((1, 64), (2, 128), (4, 256)):
            torch.set_num_threads(threads)
            job = Job.start(MANIFEST, weights(6), 2, optimizer_of(**RULES[rule]), SPLIT_ABOVE, tile_rows)
            for t in range(2):
                job.step(t, [gradients(6, t)], 0.01)
            digests.add(job.digest())
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def holds_still_where_absent(rule: str) -> None:
    job = trained(rule)
    before, old = dict(job.shards[0].block_digests()), job.values()
    job.step(3, [gradients(6, 3)], 0.01, absent=frozenset(SHAPES))
    assert dict(job.shards[0].block_digests()) == before
    assert all(np.array_equal(old[name], value) for name, value in job.values().items())


def holds_still_where_skipped(rule: str) -> None:
    job, undisturbed = trained(rule), trained(rule)
    shard = job.shards[0]
    before = job.digest()
    shard.begin(3)
    shard.discard(3)
    assert job.digest() == before
    for one in (job, undisturbed):
        one.step(4, [gradients(6, 4)], 0.01)
    assert job.digest() == undisturbed.digest()


def holds_after_restore(rule: str) -> None:
    job, copy = trained(rule, 2), trained("lamb paper-v5", 2)
    copy = Job.start(MANIFEST, weights(0), 2, optimizer_of(**RULES[rule]), SPLIT_ABOVE)
    for source, target in zip(job.shards, copy.shards, strict=True):
        target.restore(source.held().copy())
    for one in (job, copy):
        one.step(3, [gradients(6, 3)], 0.01)
    assert job.digest() == copy.digest()


def holds_for_equal_slots(rule: str) -> None:
    many, one = (Job.start(MANIFEST, weights(6), 1, optimizer_of(**RULES[rule])) for _ in range(2))
    many.step(0, [gradients(6, 0)] * 4, 0.01)
    one.step(0, [gradients(6, 0)], 0.01)
    assert many.digest() == one.digest()


def moves_zero_tensors(rule: str) -> None:
    assert np.abs(trained(rule).values()["zeros"]).max() > 0


def stays_finite_on_zero_gradients(rule: str) -> None:
    job = Job.start(MANIFEST, weights(6), 1, optimizer_of(**RULES[rule]))
    nothing = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    for t in range(3):
        job.step(t, [nothing], 0.01)
    assert all(np.isfinite(value).all() for value in job.values().values())
    assert not job.values()["zeros"].any()


def counts_skips_where_told(rule: str) -> None:
    held, counted = trained(rule), trained(rule)
    for shard in counted.shards:
        shard.count_skip()
    assert held.digest() != counted.digest()
    np.testing.assert_array_equal(held.values()["large"], counted.values()["large"])


PROPERTIES = [
    holds_bits_for_any_cut,
    holds_bits_for_any_tile_and_thread_count,
    holds_still_where_absent,
    holds_still_where_skipped,
    holds_after_restore,
    holds_for_equal_slots,
    moves_zero_tensors,
    stays_finite_on_zero_gradients,
    counts_skips_where_told,
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
def test_every_optimizer_has_every_property(rule: str, holds: Any) -> None:
    holds(rule)


# --- what the formulas imply, whatever the numbers ---------------------------------------------------------

MATRIX = Manifest((TensorSpec("w", (40, 50), "float32", "parameter"),))
scales = st.floats(1e-3, 1e3)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


def matrix(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {"w": (scale * np.random.default_rng(seed).normal(size=(40, 50))).astype(np.float32)}


def one_step(start: dict[str, np.ndarray], g: dict[str, np.ndarray], lr: float, **given_: Any) -> np.ndarray:
    job = Job.start(MATRIX, start, 1, optimizer_of(**given_))
    job.step(0, [g], lr)
    return np.asarray(job.values()["w"], np.float64)


def norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(values.astype(np.float64).reshape(-1)))


@quick
@given(seeds, scales, scales, st.floats(1e-4, 0.5))
def test_without_decay_lamb_moves_by_the_rate_times_the_norm_of_the_weights(
    seed: int, weight: float, gradient: float, lr: float
) -> None:
    start = matrix(seed, weight)
    moved = one_step(start, matrix(seed + 1, gradient), lr, weight_decay=0.0) - start["w"]
    assert norm(moved) == pytest.approx(lr * norm(start["w"]), rel=1e-5 + 1e-7 / lr)


@quick
@given(seeds, st.floats(0.1, 1.0), st.floats(1.0, 10.0))
def test_phi_keeps_the_step_between_its_bounds(seed: int, low: float, high: float) -> None:
    start = matrix(seed)
    moved = one_step(start, matrix(seed + 1), 0.1, weight_decay=0.0, phi=[low, high]) - start["w"]
    assert 0.1 * low * (1 - 1e-4) <= norm(moved) <= 0.1 * high * (1 + 1e-4)


@quick
@given(seeds, st.floats(0.01, 100.0))
def test_scaling_every_gradient_changes_no_lamb_step_without_decay(seed: int, factor: float) -> None:
    start, g = matrix(seed), matrix(seed + 1)
    scaled = {"w": (g["w"] * np.float32(factor)).astype(np.float32)}
    steps = [one_step(start, each, 0.1, weight_decay=0.0, eps=1e-30) for each in (g, scaled)]
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5, atol=1e-6)


@quick
@given(seeds, scales)
def test_with_clipping_any_larger_gradient_makes_the_same_step(seed: int, factor: float) -> None:
    start = matrix(seed)
    large = matrix(seed + 1, 10.0)
    larger = {"w": (large["w"] * np.float32(1 + factor)).astype(np.float32)}
    steps = [one_step(start, each, 0.1, clip_norm=1.0) for each in (large, larger)]
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5, atol=1e-6)


@quick
@given(seeds)
def test_debias_of_moments_none_and_beta3_agree_without_decay_and_step_size_does_not(seed: int) -> None:
    start, g = matrix(seed), matrix(seed + 1)
    forms: list[dict[str, Any]] = [{}, {"debias": "none"}, {"beta3": "1"}, {"debias": "step_size"}]
    steps = [one_step(start, g, 0.1, weight_decay=0.0, eps=1e-30, **form) - start["w"] for form in forms]
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(steps[2], steps[0], rtol=1e-4, atol=1e-6)
    assert norm(steps[3]) == pytest.approx(norm(steps[0]) * np.sqrt(1 - 0.999) / (1 - 0.9), rel=1e-4)


@quick
@given(seeds, st.floats(0.001, 1.0))
def test_a_zero_gradient_shrinks_the_slice_by_the_rate_whatever_the_decay(seed: int, decay: float) -> None:
    start = matrix(seed)
    after = one_step(start, {"w": np.zeros((40, 50), np.float32)}, 0.25, weight_decay=decay)
    np.testing.assert_allclose(after, 0.75 * start["w"], rtol=1e-5)


@quick
@given(seeds)
def test_without_adaptation_and_decay_lamb_is_adam(seed: int) -> None:
    start, g = matrix(seed), matrix(seed + 1)
    mine = one_step(start, g, 0.1, adapt="none", weight_decay=0.0, eps=1e-8)
    np.testing.assert_array_equal(mine, one_step(start, g, 0.1, rule="adam"))


@quick
@given(seeds)
def test_permuting_the_elements_of_a_slice_permutes_the_step(seed: int) -> None:
    start, g = matrix(seed), matrix(seed + 1)
    order = np.random.default_rng(seed).permutation(2_000)
    shuffled = [{"w": v["w"].reshape(-1)[order].reshape(40, 50)} for v in (start, g)]
    plain = one_step(start, g, 0.1).reshape(-1)[order].reshape(40, 50)
    np.testing.assert_allclose(one_step(shuffled[0], shuffled[1], 0.1), plain, rtol=3e-7)


@pytest.mark.parametrize("rule", sorted(LAYERWISE))
def test_declared_slices_are_two_tensors_bit_for_bit(rule: str) -> None:
    rng = np.random.default_rng(9)
    values = [rng.normal(size=(3, 30_000)).astype(np.float32) for _ in range(3)]
    fused = Manifest((TensorSpec("ab", (3, 30_000), "float32", "parameter", (1, 2)),))
    apart = Manifest(
        (
            TensorSpec("a", (1, 30_000), "float32", "parameter"),
            TensorSpec("b", (2, 30_000), "float32", "parameter"),
        )
    )
    given_ = optimizer_of(**RULES[rule])
    one = Job.start(fused, {"ab": values[0]}, 2, given_, 0)
    two = Job.start(apart, {"a": values[0][:1], "b": values[0][1:]}, 2, given_, 0)
    for t, g in enumerate(values[1:]):
        one.step(t, [{"ab": g}], 0.01)
        two.step(t, [{"a": g[:1], "b": g[1:]}], 0.01)
    found = two.values()
    assert one.values()["ab"].tobytes() == np.concatenate([found["a"], found["b"]]).tobytes()


@pytest.mark.parametrize("size", [1e-42, 1e30])
def test_the_ratio_is_finite_for_weights_of_extreme_size(size: float) -> None:
    start = {"w": np.full((40, 50), size, np.float32)}
    job = Job.start(MATRIX, start)
    assert np.isfinite(job.step(0, [matrix(1)], 0.01)["w"].trust_ratio)
    assert np.isfinite(job.values()["w"]).all()


def test_groups_update_their_tensors_by_their_own_rules() -> None:
    """Biases by AdamW at twice the rate, the rest by LAMB: each tensor as if alone with its rule."""
    group = {"match": ["*.bias", "one"], "rule": "adamw", "weight_decay": 0.2, "lr_scale": 2.0, "beta2": 0.99}
    start = weights(8)
    job = Job.start(MANIFEST, start, 2, optimizer_of(groups=[group]), SPLIT_ABOVE)
    lamb, adamw = Reference.of(start), Reference.of(start, rule="adamw", weight_decay=0.2, beta2=0.99)
    for t in range(10):
        g = gradients(8, t)
        job.step(t, [g], 0.01)
        lamb.step(g, 0.01)
        adamw.step(g, 0.02)
    lamb.slices |= {name: adamw.slices[name] for name in ("vector.bias", "one")}
    check_against_reference(job, lamb, "groups")
