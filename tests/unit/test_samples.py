"""sheepfold_wire.samples: the same samples on every machine, for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheepfold_wire.samples import epoch_order, slot_seed, stream_indices

GOLDEN_ORDER = [9, 2, 6, 0, 3, 8, 4, 1, 7, 5]
GOLDEN_STREAM = [1, 4, 3, 9, 5]
GOLDEN_SEED = 579394964354965502
GOLDEN_LARGE = "f1e687578efb7ae77004c0ba9bc54fa47691a213f851aa15bbe87498ea86d742"


def test_the_values_of_today_are_the_values_of_always() -> None:
    """A change here means that a running or recorded job would read other samples."""
    assert epoch_order(10, 0, 0).tolist() == GOLDEN_ORDER
    assert stream_indices(10, 7, 8, 5).tolist() == GOLDEN_STREAM
    assert slot_seed(0, 0, 0) == GOLDEN_SEED
    large = hashlib.sha256(epoch_order(100_000, 3, 2).astype("<i8").tobytes()).hexdigest()
    assert large == GOLDEN_LARGE


@given(st.integers(1, 2000), st.integers(0, 2**53), st.integers(0, 2**31))
def test_an_epoch_is_a_permutation(samples: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(samples, seed, epoch).tolist()) == list(range(samples))


def test_epochs_and_seeds_give_other_orders() -> None:
    orders = [epoch_order(1000, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_an_order_is_far_from_the_files() -> None:
    """No run of neighbours: a data set sorted by class must not give batches of one class."""
    order = epoch_order(10_000, 0, 0)
    assert abs(float(np.corrcoef(order, np.arange(10_000))[0, 1])) < 0.05
    assert int((np.diff(order) == 1).sum()) < 10


@given(st.integers(1, 60), st.integers(0, 500), st.integers(0, 300), st.integers(0, 300))
def test_a_stream_is_the_epochs_one_after_the_other_however_it_is_cut(
    samples: int, start: int, first: int, second: int
) -> None:
    whole = stream_indices(samples, 3, start, first + second)
    parts = stream_indices(samples, 3, start, first), stream_indices(samples, 3, start + first, second)
    assert np.array_equal(whole, np.concatenate(parts))
    for position, index in enumerate(whole.tolist(), start):
        epoch, offset = divmod(position, samples)
        assert index == epoch_order(samples, 3, epoch)[offset]


def test_indices_are_int64_and_an_epochs_order_cannot_be_written_to() -> None:
    assert stream_indices(10, 0, 0, 3).dtype == np.int64
    assert stream_indices(10, 0, 0, 0).dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(10, 0, 0)[0] = 1


def test_changing_indices_changes_no_later_answer() -> None:
    first = stream_indices(10, 0, 0, 10)
    first[:] = 0
    assert sorted(stream_indices(10, 0, 0, 10).tolist()) == list(range(10))


@pytest.mark.parametrize("samples", [0, -1])
def test_a_stream_of_no_samples_is_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 sample, got {samples}"):
        stream_indices(samples, 0, 0, 1)


def test_seeds_of_neighbouring_slots_differ_and_fit_a_signed_number() -> None:
    seeds = {slot_seed(seed, step, slot) for seed in range(3) for step in range(20) for slot in range(20)}
    assert len(seeds) == 3 * 20 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
