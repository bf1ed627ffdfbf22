"""sheepfold_wire.digest"""

from __future__ import annotations

import pytest

from sheepfold_wire.digest import BIAS_COUNTERS, STATISTICS, DigestConflict, combine_digests, describe_key

A, B = b"a" * 16, b"b" * 16


def test_order_and_repetition_of_entries_do_not_matter() -> None:
    assert combine_digests([(1, A), (0, B)]) == combine_digests([(0, B), (1, A), (0, B)])


def test_moving_a_digest_to_another_block_changes_the_total() -> None:
    assert combine_digests([(0, A), (1, B)]) != combine_digests([(0, B), (1, A)])


def test_two_answers_for_one_piece_of_state_are_a_conflict() -> None:
    with pytest.raises(DigestConflict, match="bias counter of tensor 3"):
        combine_digests([(BIAS_COUNTERS + 3, A), (BIAS_COUNTERS + 3, B)])


def test_keys_are_described_for_people() -> None:
    assert [describe_key(k) for k in (5, STATISTICS + 2)] == ["block 5", "statistic of tensor 2"]
