"""sheepfold_server.core.chores: one live worker does a chore for every so many versions."""

from __future__ import annotations

import pytest

import sheepfold_wire.messages as m
from sheepfold_server.core.chores import CHORES_MAX, Chores
from sheepfold_wire.errors import BadConfig, Overloaded


def ask(chores: Chores, worker: str, version: int, every: int = 5, name: str = "eval") -> m.ChoreReply:
    return chores.ask(m.ChoreRequest("j", worker, name, every), version)


def test_a_chore_is_not_due_before_its_first_version() -> None:
    chores = Chores()
    for version in (-1, 0, 4):
        reply = ask(chores, "a", version)
        assert not reply.is_yours
        assert reply.is_over
        assert reply.next_version == 5


def test_one_worker_of_several_does_a_turn() -> None:
    chores = Chores()
    assert [ask(chores, worker, 5).is_yours for worker in "abc"] == [True, False, False]


def test_asking_again_gets_the_same_answer() -> None:
    chores = Chores()
    assert [ask(chores, "a", 5).is_yours for _ in range(3)] == [True, True, True]


def test_a_turn_is_over_once_its_worker_asks_for_work() -> None:
    chores = Chores()
    ask(chores, "a", 5)
    chores.went_on("a")
    for worker in "ab":
        assert not ask(chores, worker, 9).is_yours
        assert ask(chores, worker, 9).is_over


def test_a_worker_that_leaves_hands_its_chore_on() -> None:
    chores = Chores()
    ask(chores, "a", 5)
    assert not ask(chores, "b", 6).is_yours
    chores.left("a")
    assert ask(chores, "b", 6).is_yours


def test_another_workers_going_on_ends_no_turn() -> None:
    chores = Chores()
    ask(chores, "a", 5)
    chores.went_on("b")
    assert ask(chores, "a", 5).is_yours


def test_the_next_turn_is_given_while_an_earlier_one_is_under_way() -> None:
    chores = Chores()
    ask(chores, "a", 5)
    assert ask(chores, "b", 10).is_yours
    assert not ask(chores, "a", 10).is_yours


def test_turns_that_nobody_took_are_passed_over() -> None:
    chores = Chores()
    assert ask(chores, "a", 23).is_yours
    chores.went_on("a")
    assert ask(chores, "a", 23).is_over
    assert ask(chores, "a", 23).next_version == 25


def test_chores_of_two_names_do_not_touch() -> None:
    chores = Chores()
    assert ask(chores, "a", 5, name="eval").is_yours
    assert ask(chores, "b", 5, name="sample").is_yours


def test_a_period_below_one_and_too_many_names_are_refused() -> None:
    chores = Chores()
    with pytest.raises(BadConfig, match="every 0"):
        ask(chores, "a", 5, every=0)
    for number in range(CHORES_MAX):
        ask(chores, "a", 5, name=str(number))
    with pytest.raises(Overloaded, match="64 chores"):
        ask(chores, "a", 5, name="one more")
