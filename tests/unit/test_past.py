"""What somebody who is not the coordinator reads in its log."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.desk import Desk
from tests.unit.test_remembering import begun, records_of, train

import sheepfold_wire.messages as m
from sheepfold_server.core.past import Past, past_of
from sheepfold_server.core.records import StateSaved
from sheepfold_wire.ids import NO_ATTEMPT
from sheepfold_wire.messages import Commit


def told(desk: Desk) -> Past:
    past = past_of(records_of(desk))
    assert past is not None
    return past


def commits(past: Past) -> list[Commit]:
    return [each for each in past.decided if isinstance(each, m.Commit)]


def test_job_without_a_model_has_no_past() -> None:
    assert past_of([]) is None
    assert past_of(records_of(begun())) is None


def test_job_is_what_its_shards_were_told() -> None:
    desk = train(begun().start("a"), 2)
    opened = desk.sent(m.OpenJob)[-1]
    assert replace(told(desk).command, term=opened.term) == opened


def test_initial_weights_are_a_decision() -> None:
    assert told(begun().open()).version == -1
    past = told(begun().start("a"))
    assert past.version == 0
    assert [type(each) for each in past.decided] == [m.LoadInit]


def test_decisions_are_in_their_order_and_the_newest_makes_the_version() -> None:
    past = told(train(begun().start("a"), 3))
    assert [commit.step for commit in commits(past)] == [0, 1, 2]
    assert past.version == 3


def test_note_of_another_decision_is_found_and_one_that_the_log_was_cut_of_is_not() -> None:
    past = told(train(begun().start("a"), 2))
    first, second = commits(past)
    saved = StateSaved(1, (), NO_ATTEMPT)
    earlier = replace(first, step=-1, map_digest="of before")
    assert past.contradicted_by([earlier, first, saved, second]) is None
    other = replace(second, map_digest="another")
    assert past.contradicted_by([first, saved, other]) == other


def test_log_that_begins_with_no_job_is_refused() -> None:
    with pytest.raises(LookupError, match="begins with"):
        past_of(records_of(train(begun().start("a"), 1))[1:])
