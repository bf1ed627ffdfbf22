"""What a shard's log means: which of its means are applied, in which order, and where it ends."""

from __future__ import annotations

import pytest

import sheepfold_wire.messages as m
from sheepfold_server.core.events import ApplyUpdate, ComputeDirections, SkipStep
from sheepfold_server.core.records import InitPart, PreparedSum, ShardNote, ShardRecord, StateSaved
from sheepfold_server.core.replay import (
    LoadLogged,
    Replay,
    ReplayEffect,
    RestoreState,
    RestoreSum,
    VersionDone,
    may_save,
    replayed,
)
from sheepfold_wire.ids import NO_ATTEMPT, AttemptId

FACTS = m.Facts(4, 4.0, 0, b"\x01")
FIRST = AttemptId(1, 1)
TOTALS = (m.SliceTotals(0, 1.0, 2.0, 3.0),)


def init(counter: int = 1) -> InitPart:
    return InitPart(m.Staged("j", AttemptId(1, counter), b"", FACTS, ()))


def prepared(step: int, digest: str = "map", counter: int = 5) -> PreparedSum:
    report = m.Prepared("j", step, digest, True, 1.0, (1.0,))
    return PreparedSum(report, (m.SlotEntry(0, AttemptId(1, counter)),))


def commit(step: int, digest: str = "map", is_skip: bool = False) -> m.Commit:
    return m.Commit("j", 1, step, digest, is_skip, 0.1, 1.0, b"\x01")


def play(*log: ShardRecord, splits: bool = False) -> tuple[list[ReplayEffect], Replay]:
    replay = Replay(splits, counts_skips=False)
    effects = [effect for place, record in enumerate(log) for effect in replay.take(record, place)]
    return effects + replay.finish(), replay


BEGUN = (init(), m.LoadInit("j", FIRST))


def applied(step: int, place: int) -> list[ReplayEffect]:
    decision = commit(step)
    return [
        RestoreSum(step, place),
        ComputeDirections(decision),
        ApplyUpdate(decision, ()),
        VersionDone(step + 1),
    ]


def test_empty_log_is_a_shard_that_has_nothing() -> None:
    effects, replay = play()
    assert effects == []
    assert replay.recovered((), 0).version == -1


def test_initial_weights_count_once_they_are_named() -> None:
    effects, replay = play(init(1), init(2))
    assert effects == []
    found = replay.recovered((), 0)
    assert (found.init, found.init_place, found.newest_attempt) == (AttemptId(1, 2), 1, AttemptId(1, 2))
    effects, replay = play(init(1), init(2), m.LoadInit("j", FIRST))
    assert effects == [LoadLogged(0), VersionDone(0)]
    assert replay.recovered((), 0).init is None


def test_decided_means_are_applied_in_order() -> None:
    effects, replay = play(*BEGUN, prepared(0), commit(0), prepared(1), commit(1))
    assert effects[2:] == [*applied(0, 2), *applied(1, 4)]
    assert replay.version == 2


def test_mean_that_is_not_decided_is_made_ready_and_said() -> None:
    effects, replay = play(*BEGUN, prepared(0), commit(0), prepared(1, counter=9))
    assert effects[-1] == RestoreSum(1, 4)
    found = replay.recovered((), 0)
    assert (found.version, found.prepared, found.newest_attempt) == (
        1,
        prepared(1, counter=9),
        AttemptId(1, 9),
    )


def test_mean_of_a_map_that_was_given_up_is_not_the_one_that_is_applied() -> None:
    effects, _ = play(*BEGUN, prepared(0, "given up"), prepared(0), commit(0))
    assert effects[2] == RestoreSum(0, 3)


def test_decision_without_its_mean_is_a_contradiction() -> None:
    with pytest.raises(LookupError, match="step 0 is decided with map map"):
        play(*BEGUN, prepared(0, "another"), commit(0))


def test_skipped_step_needs_no_mean() -> None:
    effects, replay = play(*BEGUN, commit(0, "", is_skip=True), prepared(1), commit(1))
    assert effects[2:4] == [SkipStep(0, False), VersionDone(1)]
    assert replay.version == 2


def test_split_slices_wait_for_their_totals() -> None:
    effects, replay = play(*BEGUN, prepared(0), commit(0), splits=True)
    assert effects[2:] == [RestoreSum(0, 2)]
    assert replay.version == 0
    effects, replay = play(*BEGUN, prepared(0), commit(0), m.Totals("j", 0, TOTALS), splits=True)
    assert ApplyUpdate(commit(0), TOTALS) in effects
    assert replay.version == 1


def test_notes_that_were_written_twice_count_once() -> None:
    """A decision is told again after a broken link, and the shard may have noted it before."""
    effects, _ = play(*BEGUN, prepared(0), commit(0), commit(0), prepared(1), commit(1))
    assert effects[2:] == [*applied(0, 2), *applied(1, 5)]


def test_log_that_was_cut_at_its_beginning_starts_with_the_saved_state() -> None:
    saved = StateSaved(7, (), AttemptId(3, 2))
    effects, replay = play(prepared(5), commit(5), commit(6), saved, prepared(7), commit(7))
    assert effects == [RestoreState(saved, 3), VersionDone(7), *applied(7, 4)]
    assert replay.recovered((), 0).newest_attempt == AttemptId(3, 2)


def test_saved_state_in_the_middle_is_passed_over() -> None:
    effects, _ = play(*BEGUN, prepared(0), commit(0), StateSaved(1, (), NO_ATTEMPT), prepared(1), commit(1))
    assert not any(isinstance(effect, RestoreState) for effect in effects)
    assert effects[-1] == VersionDone(2)


# --- states that are saved, and what they let go of -----------------------------------------------------


@pytest.mark.parametrize("open_steps", [1, 2, 3, 9])
def test_log_that_was_cut_still_leads_to_every_version_that_may_be_pulled(open_steps: int) -> None:
    """A state is saved as soon as it may be, which is as often as a short log of plain SGD asks for it."""
    log: list[ShardRecord] = list(BEGUN)
    saved: list[int] = []
    for version in range(1, 40):
        log.append(commit(version - 1, is_skip=True))
        if may_save(version, saved[-1] if saved else None, open_steps):
            saved.append(version)
            log.append(StateSaved(version, (), NO_ATTEMPT))
            places = [at for at, record in enumerate(log) if isinstance(record, StateSaved)]
            del log[: places[-2] if len(places) > 1 else 0]
        _, replay = play(*log)
        assert replay.version == version
        assert replay.oldest_version(open_steps) == max(0, version - open_steps)
    assert len(saved) > 3, "nothing was cut"


# --- with what was decided after the log's end -----------------------------------------------------------


def rebuilt(log: list[ShardRecord], *decided: ShardNote, splits: bool = False) -> list[ReplayEffect]:
    return list(replayed(Replay(splits, counts_skips=False), zip(log, range(99), strict=False), decided))


def test_decision_that_is_not_in_the_log_is_applied_to_the_mean_that_is() -> None:
    log = [*BEGUN, prepared(0), commit(0), prepared(1)]
    assert rebuilt(log, commit(0), commit(1))[2:] == [*applied(0, 2), *applied(1, 4)]


def test_mean_that_nobody_decided_on_is_left_out() -> None:
    log = [*BEGUN, prepared(0), commit(0), prepared(1)]
    assert rebuilt(log, commit(0))[2:] == applied(0, 2)
    assert rebuilt([init()]) == []


def test_replay_ends_where_the_mean_of_a_decision_is_lost() -> None:
    log = [*BEGUN, prepared(0), commit(0), prepared(1, "another")]
    assert rebuilt(log, commit(1), commit(2))[2:] == applied(0, 2)


def test_split_slices_take_the_totals_that_were_noted_elsewhere() -> None:
    log = [*BEGUN, prepared(0), commit(0)]
    assert VersionDone(1) not in rebuilt(log, commit(0), splits=True)
    assert VersionDone(1) in rebuilt(log, commit(0), m.Totals("j", 0, TOTALS), splits=True)
