"""sheepfold.waiting and calls.insist: what a script is told while it waits, and how often."""

from __future__ import annotations

import pytest

from sheepfold.calls import Patience, insist
from sheepfold.errors import ServerUnavailable
from sheepfold.transport import TransportError
from sheepfold.waiting import Waiting


def test_a_wait_is_said_at_once_then_every_half_minute_then_that_it_is_over() -> None:
    waiting = Waiting()
    said = [(at, told) for at in range(0, 66, 5) if (told := waiting.goes_on("waiting for b", float(at)))]
    assert said == [
        (0, "waiting for b"),
        (30, "waiting for b (for 30 s now)"),
        (60, "waiting for b (for 60 s now)"),
    ]
    assert waiting.is_over(67.0) == "goes on after 67 s"


def test_what_was_not_said_is_not_said_to_be_over_and_the_next_wait_begins_anew() -> None:
    waiting = Waiting()
    assert waiting.is_over(1.0) is None
    waiting.goes_on("waiting for b", 2.0)
    waiting.is_over(3.0)
    assert waiting.is_over(4.0) is None
    assert waiting.goes_on("waiting for b", 5.0) == "waiting for b"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_call_that_nobody_answers_says_so_every_half_minute_and_when_it_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()

    def call() -> int:
        if clock.now < 70.0:
            raise TransportError("no route")
        return 7

    assert insist(call, Patience(clock=clock, sleep=clock.sleep)) == 7
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("no route; trying for 600 s") for line in lines[:-1])
    assert len(lines) == 4
    assert lines[-1].startswith("goes on after")


def test_after_its_patience_it_gives_up_and_says_after_how_long() -> None:
    clock = Clock()

    def call() -> None:
        raise TransportError("no route")

    with pytest.raises(ServerUnavailable) as caught:
        insist(call, Patience(give_up_seconds=20.0, clock=clock, sleep=clock.sleep))
    assert 20.0 <= caught.value.after < 30.0
