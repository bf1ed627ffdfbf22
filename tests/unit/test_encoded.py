"""sheepfold_server.shell.encoded: which copies of a version are made, and when."""

from __future__ import annotations

import numpy as np
import pytest
from tests.oracle.settings import optimizer_of

from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell.encoded import EncodedVersions
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import VersionGone
from sheepfold_wire.manifest import ROW_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.plan import Plan

ROWS = 64
MANIFEST = Manifest((TensorSpec("dense", (ROWS, ROW_ELEMENTS), "float32", "parameter"),))
NOBODY: frozenset[int] = frozenset()


def weights(seed: int) -> bytes:
    return np.random.default_rng(seed).normal(size=ROWS * ROW_ELEMENTS).astype(np.float32).tobytes()


def tensors_with(seed: int) -> ShardTensors:
    tensors = ShardTensors(Plan.of(MANIFEST, 1), 0, optimizer_of())
    tensors.load(weights(seed))
    return tensors


def test_a_version_is_encoded_in_what_was_asked_for_and_in_nothing_else() -> None:
    copies = EncodedVersions(tensors_with(0), open_steps=1)
    assert not copies.codecs
    half = copies.asked_for(0, Codec.FP16, newest=0)
    exact = np.frombuffer(weights(0), np.float32)
    np.testing.assert_array_equal(np.frombuffer(half, np.float16), exact.astype(np.float16))
    assert copies.codecs == (Codec.FP16,)


def test_a_version_served_beside_newer_ones_is_encoded_exactly_from_the_start() -> None:
    assert EncodedVersions(tensors_with(0), open_steps=2).codecs == (Codec.FP32,)


def test_the_newest_version_is_exact_for_whoever_asks_first() -> None:
    copies = EncodedVersions(tensors_with(0), open_steps=1)
    assert bytes(copies.asked_for(0, Codec.FP32, newest=0)) == weights(0)


def test_a_version_whose_weights_were_written_over_is_gone_and_never_another_one() -> None:
    """The pull of an older version must not be answered from the weights of a newer one."""
    copies = EncodedVersions(tensors_with(1), open_steps=1)
    with pytest.raises(VersionGone, match="version 0 was not asked for in fp16 before version 1 was made"):
        copies.asked_for(0, Codec.FP16, newest=1)


def test_a_pinned_version_is_copied_before_its_weights_are_written_over() -> None:
    tensors = tensors_with(0)
    copies = EncodedVersions(tensors, open_steps=1)
    copies.retire(0, frozenset({0}))
    copies.overwrite(0)
    tensors.load(weights(1))
    copies.retire(1, frozenset({0}))
    assert bytes(copies.asked_for(0, Codec.FP32, newest=1)) == weights(0)
    copies.retire(1, NOBODY)
    assert copies.find(0, Codec.FP32) is None


def test_weights_that_nobody_pinned_are_written_over_without_a_copy() -> None:
    copies = EncodedVersions(tensors_with(0), open_steps=1)
    copies.overwrite(0)
    assert copies.find(0, Codec.FP32) is None


def test_a_skipped_step_has_the_copies_of_the_version_before() -> None:
    copies = EncodedVersions(tensors_with(0), open_steps=1)
    copies.keep(0, {Codec.BF16: b"copy"})
    copies.carry_over(0)
    assert copies.find(1, Codec.BF16) == b"copy"
