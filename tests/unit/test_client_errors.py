"""sheepfold.errors: what a script sees."""

from __future__ import annotations

import pytest

from sheepfold.calls import Patience, insist
from sheepfold.errors import JobEnded, Refused, ServerUnavailable
from sheepfold.transport import TransportError
from sheepfold_wire.errors import ConfigMismatch, JobUnknown, NotReady


def test_each_says_what_happened_with_numbers_and_a_remedy() -> None:
    assert str(JobEnded("stopped by ada")) == "the job has ended: stopped by ada; leave the training loop"
    text = str(ServerUnavailable(600.4, "connection refused"))
    assert "no answer for 600 s" in text
    assert "connection refused" in text
    assert "$SHEEPFOLD" in text


def test_a_refusal_carries_the_servers_answer_and_its_reason() -> None:
    answer = ConfigMismatch("seed is 1 here and 2 there")
    refused = Refused.by(answer)
    assert refused.error is answer
    assert str(refused) == "seed is 1 here and 2 there [CONFIG_MISMATCH]"


def test_an_unknown_job_comes_with_the_way_to_create_it() -> None:
    assert "config=Job(...)" in str(Refused.by(JobUnknown("no job bert here")))


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def patience(clock: Clock) -> Patience:
    return Patience(give_up_seconds=20.0, clock=clock, sleep=clock.sleep)


def test_insisting_repeats_a_call_that_nobody_answered() -> None:
    clock, answers = Clock(), [TransportError("reset"), NotReady("starting"), None]

    def call() -> str:
        error = answers.pop(0)
        if error is not None:
            raise error
        return "done"

    assert insist(call, patience(clock)) == "done"
    assert clock.naps == [0.1, 0.2]


def test_insisting_gives_up_after_the_stated_time_and_says_the_last_failure() -> None:
    def call() -> None:
        raise TransportError("connection refused")

    with pytest.raises(ServerUnavailable, match=r"no answer for 2\d s, last failure: connection refused"):
        insist(call, patience(Clock()))


def test_insisting_does_not_repeat_what_was_refused() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise ConfigMismatch("another seed")

    with pytest.raises(Refused, match="another seed"):
        insist(call, patience(Clock()))
    assert calls == [1]
