"""sheepfold.slot_clock and signals: whether a slot is finished within the notice that SIGTERM gives."""

from __future__ import annotations

import pytest

from sheepfold.signals import finishing
from sheepfold.slot_clock import SlotClock


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(*seconds: float, held: float | None = None, notice: float = 10.0) -> SlotClock:
    """A clock that has seen slots of so many seconds, and one begun `held` seconds ago."""
    clock = Clock()
    slots = SlotClock(clock, notice)
    for each in seconds:
        slots.begin()
        clock.now += each
        slots.end(is_counted=True)
    if held is not None:
        slots.begin()
        clock.now += held
    return slots


def test_a_slot_takes_as_long_as_half_of_the_earlier_ones() -> None:
    assert timed(2.0, 4.0, 100.0, held=1.0).seconds_to_finish() == 3.0


def test_nothing_is_known_without_a_slot_or_without_earlier_ones() -> None:
    assert timed(2.0).seconds_to_finish() is None
    assert timed(held=1.0).seconds_to_finish() is None


def test_a_slot_that_does_not_count_teaches_nothing() -> None:
    slots = timed()
    slots.begin()
    slots.end(is_counted=False)
    slots.begin()
    assert slots.seconds_to_finish() is None


@pytest.mark.parametrize(("held", "left"), [(2.0, 0.0), (3.9, 0.0), (4.0, None), (50.0, None)])
def test_a_slot_of_more_than_twice_the_usual_time_is_not_waited_for(held: float, left: float | None) -> None:
    assert timed(2.0, held=held).seconds_to_finish() == left


def test_a_slot_is_finished_if_the_notice_is_long_enough() -> None:
    assert finishing([timed(5.0, held=1.0)]) == (4.0, 10.0)
    assert finishing([timed(50.0, held=1.0)])[0] is None
    assert finishing([timed(5.0, held=1.0, notice=3.0)])[0] is None
    assert finishing([])[0] is None


def test_the_longest_slot_and_the_shortest_notice_of_a_process_count() -> None:
    both = [timed(5.0, held=1.0), timed(9.0, held=1.0, notice=9.0), timed(1.0)]
    assert finishing(list(both)) == (8.0, 9.0)
