"""sheepfold_server.shell.batches: nothing lost, nothing reordered, large messages alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import sheepfold_wire.messages as m
from sheepfold_server.shell.batches import BATCH_MAX, LARGE, batches

SMALL = st.builds(m.Folded, st.just("j"), st.integers(0, 9), st.integers(0, 9), st.booleans())
BIG = st.builds(m.Norms, st.just("j"), st.integers(0, 9), st.just(()))


@given(st.lists(st.one_of(SMALL, BIG), max_size=60))
def test_all_is_said_once_in_order_and_within_the_bound(waiting: list[m.ShardReport]) -> None:
    made = list(batches(waiting))
    assert [said for batch in made for said in batch] == waiting
    assert all(1 <= len(batch) <= BATCH_MAX for batch in made)
    assert all(len(batch) == 1 for batch in made for said in batch if isinstance(said, LARGE))


def test_small_ones_share_a_message() -> None:
    admit = m.Admit("j", 0, 0, m.AttemptId(1, 1), 1.0)
    assert len(list(batches([admit] * BATCH_MAX))) == 1
