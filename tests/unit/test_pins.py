"""sheepfold_server.core.pins, and what a shard makes of them."""

from __future__ import annotations

import pytest
from tests.unit.desk import Desk

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.pins import Pins
from sheepfold_server.core.pulls import Pulls
from sheepfold_wire.errors import BadConfig, NotReady, Overloaded


def pin(pins: Pins, newest: int, name: str = "eval", seconds: float = 10.0, at: float = 0.0) -> m.PinReply:
    return pins.ask(m.PinRequest("j", name, seconds), newest, at, versions_max=2)


def test_the_newest_version_is_pinned_and_said() -> None:
    pins = Pins()
    assert pin(pins, 7) == m.PinReply(7)
    assert pins.versions == (7,)


def test_a_pin_ends_with_its_time_or_when_told() -> None:
    pins = Pins()
    pin(pins, 7)
    pins.expire(9.9)
    assert pins.versions == (7,)
    pins.expire(10.0)
    assert not pins.versions
    pin(pins, 8)
    assert pin(pins, 9, seconds=0.0) == m.PinReply(-1)
    assert not pins.versions


def test_the_same_name_moves_its_pin() -> None:
    pins = Pins()
    pin(pins, 7)
    pin(pins, 8)
    assert pins.versions == (8,)


def test_pins_of_one_version_cost_one_place() -> None:
    pins = Pins()
    for name in "abcdef":
        pin(pins, 7, name)
    pin(pins, 8, "g")
    assert pins.versions == (7, 8)


def test_beyond_the_budget_a_pin_is_refused_with_the_numbers_and_changes_nothing() -> None:
    pins = Pins()
    pin(pins, 7, "a")
    pin(pins, 8, "b")
    with pytest.raises(Overloaded, match=r"versions 7, 8 are pinned.*pinned_versions = 2"):
        pin(pins, 9, "c")
    assert pins.versions == (7, 8)
    assert pin(pins, 9, "a").version == 9


def test_bad_seconds_and_a_job_without_a_version_are_refused() -> None:
    pins = Pins()
    for seconds in (-1.0, 86_401.0, float("nan")):
        with pytest.raises(BadConfig, match=r"0 .ends it. to 86400"):
            pin(pins, 7, seconds=seconds)
    with pytest.raises(NotReady):
        pin(pins, -1)


def test_shards_are_told_of_a_pin_and_of_its_end() -> None:
    desk = Desk().start()
    desk.ask(m.PinRequest("j", "eval", 5.0))
    for shard in desk.shards:
        assert desk.sent(m.KeepVersions, shard)[-1] == m.KeepVersions("j", (0,))
    desk.wait(5.0)
    for shard in desk.shards:
        assert desk.sent(m.KeepVersions, shard)[-1] == m.KeepVersions("j", ())


def test_a_shard_that_comes_back_is_told_of_the_pins() -> None:
    desk = Desk().start()
    desk.ask(m.PinRequest("j", "eval", 50.0))
    desk.tell(e.ShardDown(1))
    desk.connect(1, is_resumed=True)
    before = len(desk.sent(m.KeepVersions, 1))
    desk.opened(1, version=0)
    assert desk.sent(m.KeepVersions, 1)[before:] == [m.KeepVersions("j", (0,))]


def test_a_pinned_version_is_served_after_its_age_and_not_after_its_pin() -> None:
    pulls = Pulls()
    pulls.oldest = 4
    pulls.keep([4])
    pulls.oldest = 9
    assert pulls.ask(1, 4, newest=9) == [e.ServePull(1, 4)]
    gone = pulls.ask(2, 5, newest=9)[0]
    assert isinstance(gone, e.RefusePull)
    assert "4, 9 to 9 are" in str(gone.error)
    pulls.keep([])
    assert isinstance(pulls.ask(3, 4, newest=9)[0], e.RefusePull)


def test_a_version_that_is_gone_cannot_be_kept() -> None:
    pulls = Pulls()
    pulls.oldest = 9
    pulls.keep([4, 9])
    assert pulls.kept == {9}
