"""sheepfold_server.core.parts"""

from __future__ import annotations

import pytest

import sheepfold_wire.messages as m
from sheepfold_server.core.parts import Part, Parts, PartState
from sheepfold_wire.errors import AttemptNotAnnounced, LeaseEnded, StepClosed
from sheepfold_wire.ids import AttemptId

FACTS = m.Facts(4, 4.0, 0, b"\x01")


def attempt(counter: int) -> AttemptId:
    return AttemptId(1, counter)


def header(counter: int) -> m.PushHeader:
    return m.PushHeader("j", attempt(counter), 0, 1, 1, "", "", "bf16", 8, bytes([counter]), FACTS)


def parts_with(*counters: int, part_slots: int = 3) -> Parts:
    parts = Parts(part_slots)
    for counter in counters:
        parts.expect(attempt(counter), False, 0)
    return parts


def receive(parts: Parts, counter: int) -> Part | None:
    return parts.receive(parts.find(attempt(counter), 0), 100 + counter, header(counter))


def stage(parts: Parts, counter: int) -> None:
    receive(parts, counter)
    part = parts.of_token(100 + counter)
    assert part is not None
    parts.staged(part)


def fold(parts: Parts, counter: int) -> None:
    stage(parts, counter)
    assert parts.admit(attempt(counter), 0)
    parts.folded([attempt(counter)])


def test_attempt_not_heard_of_yet_is_not_announced() -> None:
    with pytest.raises(AttemptNotAnnounced, match=r"attempt 1\.7 is not announced yet, newest is 1\.2"):
        parts_with(1, 2).find(attempt(7), 0)


def test_attempt_that_has_ended_closed_its_step() -> None:
    parts = parts_with(1, 2)
    parts.drop([attempt(1)])
    with pytest.raises(StepClosed):
        parts.find(attempt(1), 0)


def test_init_attempt_that_has_ended_is_an_ended_lease() -> None:
    parts = parts_with(1)
    parts.drop([attempt(1)])
    with pytest.raises(LeaseEnded):
        parts.find(attempt(1), -1)


def test_end_of_an_attempt_announces_it() -> None:
    """Its announcement was lost with a link; whoever pushes it must not wait for ever."""
    parts = parts_with(1)
    parts.note_announced([attempt(5)])
    with pytest.raises(StepClosed):
        parts.find(attempt(5), 0)


def test_announcing_again_forgets_nothing() -> None:
    parts = parts_with(1)
    stage(parts, 1)
    parts.expect(attempt(1), False, 0)
    assert parts.find(attempt(1), 0).state is PartState.STAGED


def test_broken_stream_leaves_the_attempt_as_it_was() -> None:
    parts = parts_with(1)
    receive(parts, 1)
    parts.broken(101)
    part = parts.find(attempt(1), 0)
    assert (part.state, part.has_bytes, part.header) == (PartState.EXPECTED, False, None)


def test_stream_of_an_ended_attempt_belongs_to_nobody() -> None:
    parts = parts_with(1)
    receive(parts, 1)
    parts.drop([attempt(1)])
    assert parts.of_token(101) is None


def test_receiving_part_counts_as_held() -> None:
    parts = parts_with(1)
    receive(parts, 1)
    assert parts.drop([attempt(1)]) == (attempt(1),)


def test_folded_bytes_make_room_for_the_next_part() -> None:
    parts = parts_with(1, 2, 3, part_slots=2)
    fold(parts, 1)
    stage(parts, 2)
    evicted = receive(parts, 3)
    assert evicted is not None
    assert (evicted.attempt, evicted.has_bytes) == (attempt(1), False)


def test_folded_bytes_make_room_for_what_is_pushed_ahead() -> None:
    parts = parts_with(1, 2, 3, part_slots=2)
    fold(parts, 1)
    stage(parts, 2)
    evicted = parts.hold(parts.find(attempt(3), 0))
    assert evicted is not None
    assert evicted.attempt == attempt(1)
    assert receive(parts, 3) is None, "it has its room already"


def test_bytes_that_are_not_folded_are_never_evicted() -> None:
    parts = parts_with(1, 2, part_slots=1)
    stage(parts, 1)
    assert receive(parts, 2) is None
    assert parts.find(attempt(1), 0).has_bytes


def test_only_a_staged_part_is_admitted() -> None:
    parts = parts_with(1)
    assert not parts.admit(attempt(1), 0)
    stage(parts, 1)
    assert parts.admit(attempt(1), 0)
    assert not parts.admit(attempt(1), 0)


def test_committed_part_keeps_its_header_only() -> None:
    parts = parts_with(1)
    fold(parts, 1)
    assert parts.commit(0, keep_since=0) == (attempt(1),)
    part = parts.find(attempt(1), 1)
    assert (part.state, part.has_bytes, part.header) == (PartState.COMMITTED, False, header(1))


def test_headers_are_forgotten_after_the_dedupe_window() -> None:
    parts = parts_with(1)
    fold(parts, 1)
    parts.commit(0, keep_since=0)
    parts.commit(1, keep_since=1)
    with pytest.raises(StepClosed):
        parts.find(attempt(1), 2)
