"""sheepfold_server.optim.state: whole steps, and what must not change a bit of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.oracle.settings import optimizer_of
from tests.oracle.shards import Job, Values, pack

from sheepfold_server.optim.kernel import EagerKernel
from sheepfold_server.optim.products import slot_products
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.optim.steps import StepOrderError
from sheepfold_wire.codecs import Codec, decode, encode
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.optimizer import OptimizerKeys
from sheepfold_wire.plan import Plan

SPLIT_ABOVE = 600_000
MANIFEST = Manifest(
    (
        TensorSpec("scalar", (), "float32", "parameter"),
        TensorSpec("big", (330_000,), "float32", "parameter"),
        TensorSpec("mean", (9,), "float32", "statistic"),
        TensorSpec("layers", (4, 45_000), "bfloat16", "parameter", (1, 3)),
        TensorSpec("empty", (0,), "float32", "parameter"),
        TensorSpec("bias", (3000,), "float32", "parameter"),
        TensorSpec("seen", (), "int64", "statistic"),
    )
)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def values(seed: int) -> dict[str, np.ndarray]:
    """Elements grow along each tensor, so that the norm of a part is not the norm of the whole."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for tensor in MANIFEST.tensors:
        slope = np.linspace(0.1, 3.0, tensor.elements).reshape(tensor.shape)
        found[tensor.name] = (slope * rng.normal(size=tensor.shape)).astype(np.float32)
    found["seen"] = np.array(seed)
    return found


def start(shards: int = 1, tile_rows: int = 256, config: OptimizerKeys | None = None) -> Job:
    return Job.start(MANIFEST, values(0), shards, config, SPLIT_ABOVE, tile_rows)


def trained(shards: int = 1, tile_rows: int = 256, codec: Codec = Codec.FP32) -> str:
    """The digest after three steps with two unequal contributions each, a tensor absent in the second."""
    job = start(shards, tile_rows, optimizer_of(clip_norm=100.0))
    for t in range(3):
        given = [values(10 * t + 1), values(10 * t + 2)]
        absent = frozenset({"bias", "mean"} if t == 1 else ())
        job.step(t, given, 0.02, [3.0, 0.7], codec, absent)
    return job.digest()


@pytest.fixture(scope="module")
def one_shard() -> str:
    return trained()


@pytest.mark.slow
@pytest.mark.parametrize("shards", [2, 3, 5])
def test_bits_do_not_depend_on_the_number_of_shards(shards: int, one_shard: str) -> None:
    assert trained(shards) == one_shard


def test_the_test_above_splits_one_slice_over_three_shards() -> None:
    plan = Plan.of(MANIFEST, 3, SPLIT_ABOVE)
    assert plan.split_slices == {1, 3}
    assert [sum(f.slice == 1 for f in plan.shard_fragments(s)) for s in range(3)] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("tile_rows", [64, 128])
def test_bits_do_not_depend_on_tile_rows(tile_rows: int, one_shard: str) -> None:
    assert trained(1, tile_rows) == one_shard


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_bits_do_not_depend_on_threads(threads: int, one_shard: str) -> None:
    torch.set_num_threads(threads)
    assert trained() == one_shard


@pytest.mark.slow
@pytest.mark.parametrize("codec", [Codec.BF16, Codec.INT8])
def test_a_shorter_contribution_gives_the_same_bits_for_any_number_of_shards(
    codec: Codec, one_shard: str
) -> None:
    digest = trained(1, codec=codec)
    assert trained(3, codec=codec) == trained(2, tile_rows=64, codec=codec) == digest
    assert digest != one_shard


def test_the_ratio_of_a_split_slice_is_that_of_the_whole() -> None:
    """MXNet's server runs LAMB on the fragment it holds: ratios .020 and .094 instead of .068."""
    reports = [start(shards).step(0, [values(1)]) for shards in (1, 2, 3, 5)]
    assert all(report == reports[0] for report in reports)


def test_every_slice_with_elements_is_reported_once_with_its_norms() -> None:
    reports = start(3).step(0, [values(1)])
    assert list(reports) == ["scalar", "big", "layers[0:1]", "layers[1:4]", "bias"]
    weights, gradient = values(0)["big"].astype(np.float64), values(1)["big"].astype(np.float64)
    assert reports["big"].weight_norm == pytest.approx(np.sqrt((weights**2).sum()), rel=1e-12)
    assert reports["big"].gradient_norm == pytest.approx(np.sqrt((gradient**2).sum()), rel=1e-12)
    assert reports["big"].trust_ratio == reports["big"].weight_norm / reports["big"].update_norm


def test_without_decay_a_slice_moves_by_learning_rate_times_its_norm() -> None:
    job = start(3, config=optimizer_of(weight_decay=0.0))
    job.step(0, [values(1)], 0.05)
    before, after = values(0), job.values()
    for name in ("scalar", "big", "bias"):
        moved = np.linalg.norm((after[name].astype(np.float64) - before[name]).reshape(-1))
        # Each w - c * u is rounded to fp32 once: 2**-24 of |w| per element, against a movement of 5 %.
        assert moved == pytest.approx(
            0.05 * np.linalg.norm(before[name].astype(np.float64).reshape(-1)), rel=1e-5
        )


def test_a_zero_tensor_moves_with_ratio_one() -> None:
    first = values(0)
    first["bias"][:] = 0
    job = Job.start(MANIFEST, first, 2)
    reports = job.step(0, [values(1)], 0.5)
    assert reports["bias"].trust_ratio == 1.0
    # After one step m^ / sqrt(v^) is the gradient's sign.
    moved = job.values()["bias"]
    clear = np.abs(values(1)["bias"]) > 0.01
    np.testing.assert_allclose(moved[clear], -0.5 * np.sign(values(1)["bias"][clear]), rtol=1e-3)


def test_a_zero_gradient_shrinks_a_slice_by_the_learning_rate_whatever_the_decay() -> None:
    nothing = {name: np.zeros_like(v) for name, v in values(0).items()}
    for decay in (0.01, 0.5):
        job = start(2, config=optimizer_of(weight_decay=decay))
        job.step(0, [nothing], 0.25)
        np.testing.assert_allclose(job.values()["big"], 0.75 * values(0)["big"], rtol=1e-6)


def test_an_absent_tensor_keeps_weights_moments_and_counter_bit_for_bit() -> None:
    job = start(3)
    job.step(0, [values(1)])
    before = [dict(shard.block_digests()) for shard in job.shards]
    old = job.values()
    given = values(2)
    job.step(1, [given], absent=frozenset({"big", "bias", "mean"}))
    kept = changed = 0
    for shard, digests in zip(job.shards, before, strict=True):
        after = dict(shard.block_digests())
        for key in digests:
            if key in (1 << 60 | 1, 1 << 60 | 5, 1 << 61 | 2):
                assert after[key] == digests[key]
        for fragment in shard.layout.fragments:
            is_absent = MANIFEST.tensors[MANIFEST.slices[fragment.slice].tensor].name in ("big", "bias")
            for block in range(fragment.first_block, fragment.first_block + fragment.blocks):
                assert (after[block] == digests[block]) == is_absent
                kept, changed = kept + is_absent, changed + (not is_absent)
    assert kept == 7
    assert changed == 5
    np.testing.assert_array_equal(job.values()["mean"], old["mean"])


def test_a_skipped_step_leaves_every_bit_and_the_next_one_is_as_without_it() -> None:
    job, undisturbed = start(2), start(2)
    bad = values(1)
    bad["big"][3] = np.inf
    before = job.digest()
    for s, shard in enumerate(job.shards):
        shard.begin(0)
        shard.fold(0, [(pack(job.plan, s, bad), Codec.FP32, 1.0)])
        shard.finish(0, 1.0)
        shard.discard(0)
    assert job.digest() == before
    job.step(1, [values(2)])
    undisturbed.step(0, [values(2)])
    assert job.digest() == undisturbed.digest()


def test_a_non_finite_sum_is_reported() -> None:
    shard = start().shards[0]
    bad = values(1)
    bad["big"][3] = np.inf
    shard.begin(0)
    shard.fold(0, [(pack(shard.layout.plan, 0, bad), Codec.FP32, 1.0)])
    report = shard.finish(0, 2.0)
    assert not report.finite
    assert report.max_abs == np.inf
    assert np.isfinite(report.sum_of_squares).sum() == shard.layout.blocks.size - 1


def test_a_finite_sum_is_reported_with_its_largest_magnitude() -> None:
    shard = start().shards[0]
    given = values(1)
    given["bias"][7] = -64.0
    shard.begin(0)
    shard.fold(0, [(pack(shard.layout.plan, 0, given), Codec.FP32, 1.0)])
    report = shard.finish(0, 2.0)
    assert report.finite
    assert report.max_abs == 32.0


def test_four_slots_of_one_gradient_are_one_slot_of_it() -> None:
    many, one = start(2), start(2)
    many.step(0, [values(1)] * 4)
    one.step(0, [values(1)])
    assert many.digest() == one.digest()


def test_statistics_become_their_weighted_mean_and_largest_integer() -> None:
    job = start(2)
    job.step(0, [values(4), values(3)], factors=[1.0, 3.0])
    expected = (values(4)["mean"] + np.float32(3.0) * values(3)["mean"]) / np.float32(4.0)
    np.testing.assert_array_equal(job.values()["mean"], expected)
    assert job.values()["seen"] == 4


def test_version_zero_is_returned_as_it_was_loaded() -> None:
    got, loaded = start(3).values(), values(0)
    for name, tensor in loaded.items():
        np.testing.assert_array_equal(got[name], tensor)


@pytest.mark.parametrize("codec", [Codec.BF16, Codec.FP16])
def test_weights_are_encoded_as_the_workers_codec_encodes_them(codec: Codec) -> None:
    raw = bytearray(2 * 330_000)
    encode(codec, values(0)["big"], raw)
    np.testing.assert_array_equal(start(3).values(codec)["big"], decode(codec, raw))


@pytest.mark.parametrize("codecs", [(Codec.FP32,), (Codec.FP32, Codec.BF16), (Codec.BF16, Codec.FP16)])
def test_a_copy_made_with_the_step_is_that_of_the_new_weights_and_stays_while_it_is_held(
    codecs: tuple[Codec, ...],
) -> None:
    shard, held = start().shards[0], list[tuple[memoryview, bytes]]()
    for t in range(5):
        shard.begin(t)
        shard.fold(t, [(pack(shard.layout.plan, 0, values(t + 1)), Codec.FP32, 1.0)])
        shard.finish(t, 1.0)
        shard.directions(t, 0.02)
        _, made = shard.apply(t, 0.02, codecs=codecs)
        assert {codec: bytes(copy) for codec, copy in made.items()} == {
            codec: shard.encoded(codec) for codec in codecs
        }
        held += [(memoryview(copy), bytes(copy)) for copy in made.values()] if t < 2 else []
    assert all(bytes(copy) == as_made for copy, as_made in held)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("codec", "tolerance"), [(Codec.FP32, 1e-6), (Codec.INT8, 1e-3)])
def test_products_of_slots_with_their_mean_are_those_of_the_whole_model(
    shards: int, codec: Codec, tolerance: float
) -> None:
    job, seeds = start(shards), (1, 2, 5)
    products = np.zeros(len(seeds))
    for index, shard in enumerate(job.shards):
        parts = [(pack(job.plan, index, values(seed), codec, seed), codec) for seed in seeds]
        shard.begin(0)
        shard.fold(0, [(payload, codec, 1.0) for payload, codec in parts])
        shard.finish(0, 3.0)
        products += slot_products(shard.layout, shard.mean(0), parts)
    parameters = [tensor.name for tensor in MANIFEST.tensors if tensor.kind == "parameter"]
    slots = [np.concatenate([values(s)[n].ravel().astype(np.float64) for n in parameters]) for s in seeds]
    mean = np.mean(slots, axis=0)
    np.testing.assert_allclose(products, [slot @ mean for slot in slots], rtol=tolerance)


def test_a_logged_mean_replays_to_the_same_bits() -> None:
    job, replica = start(), start()
    shard, other = job.shards[0], replica.shards[0]
    shard.begin(0)
    payloads = [(pack(job.plan, 0, values(seed)), Codec.FP32, 0.3 * seed) for seed in (1, 2)]
    shard.fold(0, payloads)
    mean: list[bytes] = []
    shard.finish(0, 0.9, lambda piece: mean.append(bytes(piece)))
    other.begin(0)
    other.fold(0, [(b"".join(mean), Codec.FP32, 1.0)])
    other.finish(0, 1.0)
    for one in (shard, other):
        one.directions(0, 0.01, 0.5)
        one.apply(0, 0.01)
    assert job.digest() == replica.digest()


def test_a_snapshot_restored_between_steps_changes_nothing() -> None:
    job, copy = start(2), start(2)
    job.step(0, [values(1)])
    for source, target in zip(job.shards, copy.shards, strict=True):
        target.restore(source.held().copy())
    assert copy.digest() == job.digest()
    job.step(1, [values(2)])
    copy.step(1, [values(2)])
    assert copy.digest() == job.digest()


def test_several_steps_may_be_open_at_once() -> None:
    plan = Plan.of(MANIFEST, 1)
    overlapped = ShardTensors(plan, 0, optimizer_of(), open_steps=2)
    overlapped.load(pack(plan, 0, values(0)))
    for t in (0, 1):
        overlapped.begin(t)
    for t in (1, 0):
        overlapped.fold(t, [(pack(plan, 0, values(t + 1)), Codec.FP32, 1.0)])
    for t in (0, 1):
        overlapped.finish(t, 1.0)
        overlapped.directions(t, 0.01)
        overlapped.apply(t, 0.01)
    sequential = start()
    for t in (0, 1):
        sequential.step(t, [values(t + 1)])
    assert Job(plan, [overlapped], optimizer_of()).digest() == sequential.digest()


def test_an_unopened_step_an_extra_step_and_a_phase_out_of_turn_are_refused() -> None:
    shard = start().shards[0]
    with pytest.raises(StepOrderError, match="step 4 is not open"):
        shard.finish(4, 1.0)
    shard.begin(4)
    with pytest.raises(StepOrderError, match="finds all 1 sums in use by steps"):
        shard.begin(5)
    with pytest.raises(StepOrderError, match="has no contribution yet"):
        shard.finish(4, 1.0)
    with pytest.raises(StepOrderError, match="open already"):
        shard.begin(4)


def test_missing_totals_of_a_split_slice_are_refused_by_name() -> None:
    job = start(2)
    shard = job.shards[1]
    shard.begin(0)
    shard.fold(0, [(pack(job.plan, 1, values(1)), Codec.FP32, 1.0)])
    shard.finish(0, 1.0)
    shard.directions(0, 0.1)
    with pytest.raises(ValueError, match=r"slice 1 \(big\) is split"):
        shard.apply(0, 0.1, {})


@pytest.mark.parametrize("tile_rows", [100, 0, -64])
def test_a_tile_that_is_no_multiple_of_64_rows_is_refused(tile_rows: int) -> None:
    with pytest.raises(ValueError, match=f"tile_rows={tile_rows}"):
        EagerKernel("cpu", tile_rows)


def test_no_open_step_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="open_steps=0"):
        ShardTensors(Plan.of(MANIFEST, 1), 0, optimizer_of(), open_steps=0)


def test_a_shard_that_owns_nothing_steps_like_the_others() -> None:
    only: Values = {"w": np.ones(5, np.float32)}
    manifest = Manifest((TensorSpec("w", (5,), "float32", "parameter"),))
    few, many = Job.start(manifest, only, 1), Job.start(manifest, only, 3)
    for job in (few, many):
        job.step(0, [only])
    assert few.digest() == many.digest()
