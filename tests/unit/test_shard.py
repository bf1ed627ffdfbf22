"""sheepfold_server.core.shard: pushes, folds, commits, pulls; no tensor, the kernel's answers by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import ShardJob, check_target
from sheepfold_server.core.receiving import EARLY_MAX
from sheepfold_server.core.shard import Shard
from sheepfold_wire.errors import (
    ContributionConflict,
    JobUnknown,
    ManifestMismatch,
    NonFinite,
    PlanMismatch,
    PushInProgress,
    ShapeMismatch,
    SheepfoldError,
    StaleIncarnation,
    StaleTerm,
    StepClosed,
    VersionGone,
)
from sheepfold_wire.ids import AttemptId

T = TypeVar("T")
JOB = ShardJob(
    job="j",
    shard=0,
    incarnation=4,
    term=1,
    lineage="lineage",
    manifest_digest="manifest",
    plan_digest="plan",
    codec="bf16",
    part_bytes=100,
    init_bytes=200,
    presence_bytes=1,
    part_slots=4,
    open_steps=1,
    delay=0,
    holds_split=False,
)
FACTS = m.Facts(4, 4.0, 0, b"\x01")
NO_FACTS = m.Facts(0, 0.0, -1, b"")
CHECK = e.PartCheck((1.0,))
OPEN = m.OpenJob("j", "lineage", 1, 1, "", "")


def attempt(counter: int) -> AttemptId:
    return AttemptId(1, counter)


class Bench:
    """One shard; effects are kept, the kernel answers when told to."""

    def __init__(self, **fields: object) -> None:
        self.shard = Shard(replace(JOB, **fields))  # type: ignore[arg-type]
        self.effects: list[e.ShardEffect] = []
        self._tokens = 0

    def tell(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        effects = self.shard.handle(event)
        self.effects += effects
        return effects

    def command(self, command: m.ShardCommand) -> list[e.ShardEffect]:
        return self.tell(e.Command(command))

    def expect(self, *counters: int, is_init: bool = False, step: int | None = 0) -> None:
        for counter in counters:
            self.command(m.Expect("j", attempt(counter), is_init, step))

    def header(self, counter: int, **fields: object) -> m.PushHeader:
        made = m.PushHeader(
            "j", attempt(counter), 0, 4, 1, "manifest", "plan", "bf16", 100, bytes([counter]), FACTS
        )
        return replace(made, **fields)  # type: ignore[arg-type]

    def open_push(self, counter: int, **fields: object) -> list[e.ShardEffect]:
        self._tokens += 1
        return self.tell(e.PushOpened(self._tokens, self.header(counter, **fields)))

    def push(self, counter: int, check: e.PartCheck = CHECK, **fields: object) -> list[e.ShardEffect]:
        """The whole part arrives; initial weights are logged at once."""
        self.open_push(counter, **fields)
        effects = self.tell(e.PushReceived(self._tokens, check))
        for effect in [effect for effect in effects if isinstance(effect, e.LogInit)]:
            self.tell(e.InitLogged(effect.staged))
        return effects

    def refusal(self, counter: int, **fields: object) -> SheepfoldError:
        effects = self.open_push(counter, **fields)
        assert isinstance(effects[-1], e.RefusePush)
        return effects[-1].error

    def start(self, *counters: int) -> Bench:
        """Version 0 is loaded; attempts 1.. of step 0 are announced."""
        self.expect(90, is_init=True, step=None)
        self.push(90, codec="fp32", payload_bytes=200)
        self.command(m.LoadInit("j", attempt(90)))
        self.tell(e.Loaded())
        for counter in counters:
            self.command(m.Expect("j", AttemptId(1, counter), False, 0))
        return self

    def admit(self, slot: int, counter: int, step: int = 0) -> list[e.ShardEffect]:
        return self.command(m.Admit("j", step, slot, attempt(counter), 1.0))

    def stage_and_admit(self, *counters: int, step: int = 0) -> None:
        for slot, counter in enumerate(counters):
            self.push(counter)
            self.admit(slot, counter, step)

    def fold(self) -> list[e.ShardEffect]:
        """The kernel finishes the newest fold."""
        fold = self.all(e.FoldSlots)[-1]
        return self.tell(e.FoldDone(fold.step, fold.fold))

    def fold_all(self) -> None:
        done = 0
        while len(self.all(e.FoldSlots)) > done:
            done = len(self.all(e.FoldSlots))
            self.fold()

    def close(self, *counters: int, step: int = 0) -> m.Close:
        entries = tuple(m.SlotEntry(slot, attempt(counter)) for slot, counter in enumerate(counters))
        close = m.Close("j", 1, step, "map", entries, float(len(entries)))
        self.command(close)
        return close

    def prepare(self, *counters: int, step: int = 0) -> None:
        """All are folded and logged: the shard is prepared."""
        self.stage_and_admit(*counters, step=step)
        self.fold_all()
        self.close(*counters, step=step)
        finish = self.all(e.FinishSum)[-1]
        self.tell(e.SumReady(step, finish.fold, True, 1.0, (1.0,)))
        self.tell(e.Appended(step, self.all(e.Append)[-1].fold))

    def commit(self, step: int = 0, is_skip: bool = False, digest: str = "map") -> list[e.ShardEffect]:
        return self.command(m.Commit("j", 1, step, digest, is_skip, 0.1, 1.0, b"\x01"))

    def apply(self, step: int = 0) -> None:
        self.commit(step)
        self.tell(e.DirectionsReady(step, ()))
        self.tell(e.WeightsReady(step, ()))

    def all(self, kind: type[T]) -> list[T]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def reports(self, kind: type[T]) -> list[T]:
        return [f.report for f in self.all(e.Report) if isinstance(f.report, kind)]


# --- pushes ----------------------------------------------------------------------------------------------


def test_staged_part_is_reported_and_answered() -> None:
    bench = Bench().start(91)
    bench.push(91)
    assert bench.reports(m.Staged)[-1] == m.Staged("j", attempt(91), bytes([91]), FACTS, (1.0,))
    assert bench.effects[-1] == e.AnswerPush(bench._tokens, is_duplicate=False)


@pytest.mark.parametrize("until", ["staged", "admitted", "folded", "committed"])
def test_second_push_of_same_attempt_is_answered_but_not_folded(until: str) -> None:
    """A retry after a lost reply must not count a gradient twice."""
    bench = Bench().start(91)
    bench.push(91)
    if until != "staged":
        bench.admit(0, 91)
    if until in ("folded", "committed"):
        bench.fold()
    if until == "committed":
        bench.close(91)
        bench.tell(e.SumReady(0, bench.all(e.FinishSum)[0].fold, True, 1.0, (1.0,)))
        bench.tell(e.Appended(0, bench.all(e.Append)[0].fold))
        bench.apply()
    folds = len(bench.all(e.FoldSlots))
    assert bench.open_push(91) == [e.AnswerPush(bench._tokens, is_duplicate=True)]
    assert len(bench.all(e.FoldSlots)) == folds


def test_same_attempt_with_other_bytes_is_a_conflict() -> None:
    bench = Bench().start(91)
    bench.push(91)
    assert isinstance(bench.refusal(91, payload_digest=b"other"), ContributionConflict)


def test_same_attempt_with_other_facts_is_a_conflict() -> None:
    bench = Bench().start(91)
    bench.push(91)
    assert isinstance(bench.refusal(91, facts=replace(FACTS, weight=5.0)), ContributionConflict)


def test_push_while_the_same_attempt_is_received_waits() -> None:
    bench = Bench().start(91)
    bench.open_push(91)
    assert isinstance(bench.refusal(91), PushInProgress)


def test_broken_push_may_be_sent_again() -> None:
    bench = Bench().start(91)
    bench.open_push(91)
    bench.tell(e.PushBroken(bench._tokens))
    bench.push(91)
    assert len(bench.reports(m.Staged)) == 2  # the init part and this one


def open_ahead(bench: Bench, counter: int, **fields: object) -> list[e.ShardEffect]:
    return bench.open_push(counter, is_ahead=True, payload_digest=b"", facts=NO_FACTS, **fields)


def test_what_is_pushed_ahead_waits_for_the_push_of_its_part() -> None:
    bench = Bench().start(91)
    assert open_ahead(bench, 91) == [e.ReceiveAhead(bench._tokens, attempt(91))]
    assert open_ahead(bench, 91) == [e.ReceiveAhead(bench._tokens, attempt(91))]
    assert len(bench.reports(m.Staged)) == 1  # the init part
    assert bench.open_push(91, ahead_bytes=40) == [e.ReceiveBody(bench._tokens, attempt(91))]
    bench.tell(e.PushReceived(bench._tokens, CHECK))
    assert len(bench.reports(m.Staged)) == 2


def test_part_that_comes_whole_wants_nothing_ahead_of_it() -> None:
    bench = Bench().start(91)
    bench.open_push(91)
    assert open_ahead(bench, 91) == [e.AnswerPush(bench._tokens, is_duplicate=True)]
    bench.tell(e.PushReceived(bench._tokens - 1, CHECK))
    assert open_ahead(bench, 91) == [e.AnswerPush(bench._tokens, is_duplicate=True)]


def test_bytes_pushed_ahead_are_freed_with_their_attempt() -> None:
    bench = Bench().start(91)
    open_ahead(bench, 91)
    assert bench.command(m.EndAttempts("j", (attempt(91),), "expired")) == [e.DropParts((attempt(91),))]
    assert isinstance(refused_ahead(bench, 91), StepClosed)


def refused_ahead(bench: Bench, counter: int, **fields: object) -> SheepfoldError:
    effects = open_ahead(bench, counter, **fields)
    assert isinstance(effects[-1], e.RefusePush)
    return effects[-1].error


def test_bytes_ahead_of_another_part_are_refused() -> None:
    bench = Bench().start(91)
    for field, error in (("codec", ShapeMismatch), ("incarnation", StaleIncarnation), ("term", StaleTerm)):
        assert isinstance(refused_ahead(bench, 91, **{field: "fp16" if field == "codec" else 77}), error)
    assert isinstance(refused_ahead(bench, 91, payload_bytes=99), ShapeMismatch)


def test_initial_weights_are_not_pushed_ahead() -> None:
    bench = Bench()
    bench.expect(90, is_init=True, step=None)
    found = refused_ahead(bench, 90, codec="fp32", payload_bytes=200)
    assert "not pushed ahead" in str(found)


def test_late_push_is_refused() -> None:
    bench = Bench().start(91)
    bench.command(m.EndAttempts("j", (attempt(91),), "expired"))
    assert isinstance(bench.refusal(91), StepClosed)


def test_part_that_ends_while_it_is_received_is_refused_and_not_reported() -> None:
    bench = Bench().start(91)
    bench.open_push(91)
    bench.command(m.EndAttempts("j", (attempt(91),), "expired"))
    effects = bench.tell(e.PushReceived(bench._tokens, CHECK))
    assert [type(effect) for effect in effects] == [e.RefusePush]


def test_push_before_its_announcement_is_held() -> None:
    """A worker may be quicker than the coordinator's word."""
    bench = Bench().start()
    assert bench.open_push(91) == []
    effects = bench.command(m.Expect("j", attempt(91), False, 0))
    assert effects == [e.ReceiveBody(bench._tokens, attempt(91))]


def test_push_of_an_attempt_that_ended_unannounced_is_refused() -> None:
    bench = Bench().start()
    bench.open_push(91)
    effects = bench.command(m.EndAttempts("j", (attempt(91),), "shard link interrupted"))
    assert isinstance(effects[-1], e.RefusePush)
    assert isinstance(effects[-1].error, StepClosed)


def test_held_pushes_are_bounded() -> None:
    bench = Bench().start()
    for _ in range(EARLY_MAX):
        assert bench.open_push(91) == []
    assert isinstance(bench.open_push(91)[0], e.RefusePush)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"job": "other"}, JobUnknown),
        ({"shard": 1}, JobUnknown),
        ({"incarnation": 3}, StaleIncarnation),
        ({"manifest_digest": "x"}, ManifestMismatch),
        ({"plan_digest": "x"}, PlanMismatch),
        ({"term": 2}, StaleTerm),
        ({"codec": "fp32"}, ShapeMismatch),
        ({"payload_bytes": 99}, ShapeMismatch),
        ({"facts": replace(FACTS, present=b"\x01\x00")}, ShapeMismatch),
    ],
)
def test_push_that_means_something_else_is_refused(
    fields: dict[str, object], error: type[SheepfoldError]
) -> None:
    assert type(Bench().start(91).refusal(91, **fields)) is error


def test_init_part_travels_as_fp32() -> None:
    bench = Bench()
    bench.expect(1, is_init=True, step=None)
    assert isinstance(bench.refusal(1), ShapeMismatch)


def test_pull_of_another_process_is_refused() -> None:
    with pytest.raises(StaleIncarnation, match="incarnation 3 of shard 0, this is 4"):
        check_target(JOB, 3, "manifest", "plan")


def test_part_that_is_not_finite_is_refused_by_tensor() -> None:
    bench = Bench().start(91)
    bench.push(91, e.PartCheck((1.0,), "dense", 3))
    assert bench.reports(m.PartRefused) == [m.PartRefused("j", attempt(91), "dense", 3)]
    assert isinstance(bench.all(e.RefusePush)[-1].error, NonFinite)
    assert bench.all(e.DropParts)[-1] == e.DropParts((attempt(91),))


def test_version_before_the_present_one_is_made_again_with_those_that_gradients_are_computed_at() -> None:
    bench = Bench(delay=1, open_steps=2)
    bench.shard.version = 3
    for version in (3, 2, 0):
        bench.command(m.SaveCheckpoint("j", version))
    bench.command(m.SaveCheckpoint("j", 4))
    assert bench.effects[:3] == [e.StorePart(3, (2,)), e.StoreEarlier(2, (1,)), e.StoreEarlier(0, ())]
    assert bench.reports(m.PartSaved)[0].why == "shard 0 holds version 3"


# --- init ------------------------------------------------------------------------------------------------


def test_loaded_init_is_version_0() -> None:
    bench = Bench().start()
    assert bench.shard.version == 0
    assert bench.reports(m.Applied) == [m.Applied("j", -1, ())]


def test_init_is_loaded_once() -> None:
    bench = Bench().start()
    bench.command(m.LoadInit("j", attempt(90)))
    assert len(bench.all(e.LoadState)) == 1
    assert len(bench.reports(m.Applied)) == 2


def test_staged_init_outlives_a_broken_link() -> None:
    """The word to load it may be what was lost."""
    bench = Bench()
    bench.expect(1, is_init=True, step=None)
    bench.push(1, codec="fp32", payload_bytes=200)
    assert bench.command(OPEN) == [e.Report(m.JobOpened("j", 4, -1, 1))]


def test_next_init_lease_ends_the_one_before() -> None:
    bench = Bench()
    bench.expect(1, is_init=True, step=None)
    bench.push(1, codec="fp32", payload_bytes=200)
    bench.expect(2, is_init=True, step=None)
    assert bench.all(e.DropParts) == [e.DropParts((attempt(1),))]


# --- admission and folding -------------------------------------------------------------------------------


def test_slots_are_folded_in_order_whatever_the_order_of_admission() -> None:
    bench = Bench().start(91, 92, 93)
    for counter in (91, 92, 93):
        bench.push(counter)
    bench.admit(2, 93)
    bench.admit(1, 92)
    assert not bench.all(e.FoldSlots)
    bench.admit(0, 91)
    assert bench.all(e.FoldSlots)[0].parts == tuple((i, attempt(91 + i), 1.0) for i in range(3))


def test_slots_ready_meanwhile_are_folded_in_the_next_pass() -> None:
    bench = Bench().start(91, 92, 93)
    bench.stage_and_admit(91, 92, 93)
    bench.fold()
    first, second = bench.all(e.FoldSlots)
    assert (first.is_first, len(first.parts)) == (True, 1)
    assert (second.is_first, len(second.parts)) == (False, 2)


def test_admission_said_twice_counts_once() -> None:
    bench = Bench().start(91)
    bench.stage_and_admit(91)
    assert bench.admit(0, 91) == []


def test_admission_of_a_part_not_held_halts_the_shard() -> None:
    bench = Bench().start(91)
    effects = bench.admit(0, 91)
    assert isinstance(effects[-1], e.Halt)
    assert bench.reports(m.ShardFailed)


def test_second_attempt_for_an_admitted_slot_halts_the_shard() -> None:
    bench = Bench().start(91, 92)
    bench.stage_and_admit(91)
    bench.push(92)
    assert isinstance(bench.admit(0, 92)[-1], e.Halt)


def test_end_of_an_admitted_attempt_is_ignored() -> None:
    bench = Bench().start(91)
    bench.stage_and_admit(91)
    assert bench.command(m.EndAttempts("j", (attempt(91),), "expired")) == []


def test_evicted_bytes_forbid_a_refold() -> None:
    bench = Bench(part_slots=1).start(91, 92)
    bench.stage_and_admit(91)
    bench.fold()
    bench.open_push(92)
    assert bench.reports(m.Folded)[-1] == m.Folded("j", 0, 1, False)


# --- lost parts ------------------------------------------------------------------------------------------


def lost(*counters: int, slot: int) -> Bench:
    bench = Bench().start(*counters)
    bench.stage_and_admit(*counters)
    bench.fold()
    fold = bench.all(e.FoldSlots)[-1]
    bench.tell(e.FoldFailed(0, fold.fold, slot))
    return bench


def test_lost_part_is_reported_and_nothing_is_folded_until_told() -> None:
    bench = lost(91, 92, 93, slot=1)
    assert bench.reports(m.PartLost) == [m.PartLost("j", 0, 1)]
    folds = len(bench.all(e.FoldSlots))
    bench.expect(94)
    bench.push(94)
    bench.admit(3, 94)
    assert len(bench.all(e.FoldSlots)) == folds


def test_lost_part_leaves_the_raw_bytes_of_the_others_for_a_refold() -> None:
    assert lost(91, 92, 93, slot=1).reports(m.Folded)[-1].can_refold


def test_refold_begins_again_from_raw_bytes_and_waits_for_the_new_attempt() -> None:
    bench = lost(91, 92, 93, slot=1)
    bench.command(m.Refold("j", 0, (1,)))
    assert bench.all(e.FoldSlots)[-1].parts == ((0, attempt(91), 1.0),)
    assert bench.all(e.FoldSlots)[-1].is_first
    bench.fold()
    bench.expect(94)
    bench.push(94)
    bench.admit(1, 94)
    assert [slot for slot, _, _ in bench.all(e.FoldSlots)[-1].parts] == [1, 2]


def test_refold_of_a_slot_not_reached_keeps_the_sum() -> None:
    bench = Bench().start(91, 92)
    bench.push(91)
    bench.push(92)
    bench.admit(0, 91)
    bench.fold()
    bench.admit(1, 92)
    bench.tell(e.FoldDone(0, bench.all(e.FoldSlots)[-1].fold))
    bench.expect(93)
    bench.push(93)
    bench.command(m.Refold("j", 0, (5,)))
    assert not bench.all(e.DiscardSum)


def test_refold_takes_back_a_prepared_sum() -> None:
    bench = Bench().start(91, 92)
    bench.prepare(91, 92)
    bench.command(m.Refold("j", 0, (1,)))
    assert bench.commit()[-1:] == [e.Halt("commit of step 0 with map map, which is not prepared here")]


def test_restart_zeroes_the_sum_and_drops_every_part_of_the_step() -> None:
    bench = Bench().start(91, 92, 93)
    bench.stage_and_admit(91, 92)
    bench.push(93)
    effects = bench.command(m.Restart("j", 0))
    assert e.DropParts((attempt(91), attempt(92), attempt(93))) in effects
    assert e.DiscardSum(0) in effects
    assert e.Report(m.Folded("j", 0, 0, True)) in effects


def test_answer_of_the_kernel_about_a_dropped_sum_is_ignored() -> None:
    bench = Bench().start(91)
    bench.stage_and_admit(91)
    old = bench.all(e.FoldSlots)[0]
    bench.command(m.Restart("j", 0))
    bench.expect(92)
    bench.stage_and_admit(92)
    assert bench.tell(e.FoldDone(0, old.fold)) == []


# --- close, commit, apply --------------------------------------------------------------------------------


def test_close_with_another_map_halts_the_shard() -> None:
    bench = Bench().start(91, 92)
    bench.stage_and_admit(91)
    bench.close(92)
    assert isinstance(bench.effects[-1], e.Halt)


def test_prepared_is_said_once_the_sum_is_logged() -> None:
    bench = Bench().start(91)
    bench.stage_and_admit(91)
    bench.close(91)
    bench.fold()
    finish = bench.all(e.FinishSum)[0]
    assert finish.divisor == 1.0
    bench.tell(e.SumReady(0, finish.fold, True, 2.0, (3.0,)))
    assert not bench.reports(m.Prepared)
    bench.tell(e.Appended(0, bench.all(e.Append)[0].fold))
    assert bench.reports(m.Prepared) == [m.Prepared("j", 0, "map", True, 2.0, (3.0,))]


def test_same_close_again_is_answered_from_the_record() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.close(91)
    assert len(bench.reports(m.Prepared)) == 2
    assert len(bench.all(e.FinishSum)) == 1


def test_late_close_of_an_applied_step_leaves_nothing_behind() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.apply()
    bench.close(91)
    assert not bench.shard._sums


def test_commit_of_another_map_halts_the_shard() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    assert isinstance(bench.commit(digest="other")[-1], e.Halt)


def test_commit_of_a_step_too_far_halts_the_shard() -> None:
    bench = Bench().start()
    assert isinstance(bench.commit(step=1)[-1], e.Halt)


def test_commit_said_twice_is_applied_once() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.commit()
    bench.commit()
    assert len(bench.all(e.ComputeDirections)) == 1


def test_commit_of_an_applied_step_is_answered_with_applied() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.apply()
    assert bench.commit() == [e.Report(m.Applied("j", 0, ()))]


def test_restart_of_a_decided_step_halts_the_shard() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.commit()
    assert isinstance(bench.command(m.Restart("j", 0))[-1], e.Halt)


def test_applied_step_frees_the_bytes_of_its_parts() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.apply()
    assert e.DropParts((attempt(91),)) in bench.effects
    assert bench.shard.version == 1


def test_skip_needs_no_sum_and_keeps_the_version() -> None:
    bench = Bench().start(91, 92)
    bench.stage_and_admit(91)
    effects = bench.commit(is_skip=True, digest="")
    note = bench.all(e.AppendNote)[-1]
    assert effects == [note, e.SkipStep(0, counts=False)]
    assert bench.shard.version == 0, "not before the decision is logged"
    assert e.KeepVersion(0) in bench.tell(e.Skipped(0))
    assert bench.shard.version == 1


def test_split_slices_wait_for_totals() -> None:
    bench = Bench(holds_split=True).start(91)
    bench.prepare(91)
    bench.commit()
    blocks = (m.BlockNorms(0, 1.0, 2.0),)
    assert bench.tell(e.DirectionsReady(0, blocks)) == [e.Report(m.Norms("j", 0, blocks))]
    totals = (m.SliceTotals(0, 5.0, 6.0, 7.0),)
    effects = bench.command(m.Totals("j", 0, totals))
    update = e.ApplyUpdate(bench.all(e.ComputeDirections)[0].decision, totals)
    assert effects == [e.AppendNote(m.Totals("j", 0, totals)), update]
    assert bench.command(m.Totals("j", 0, totals)) == []


def test_norms_are_said_again_after_a_broken_link() -> None:
    bench = Bench(holds_split=True).start(91)
    bench.prepare(91)
    bench.commit()
    bench.tell(e.DirectionsReady(0, ()))
    assert e.Report(m.Norms("j", 0, ())) in bench.command(OPEN)


def test_reopened_link_hears_the_version_and_the_newest_applied() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.apply()
    assert bench.command(OPEN) == [
        e.Report(m.JobOpened("j", 4, 1, 1)),
        e.Report(m.Applied("j", 0, ())),
    ]


def test_reopened_link_drops_what_is_not_admitted() -> None:
    bench = Bench().start(91, 92)
    bench.push(91)
    bench.push(92)
    bench.admit(0, 91)
    assert bench.command(OPEN)[0] == e.DropParts((attempt(92),))


# --- pulls and digests -----------------------------------------------------------------------------------


def test_pull_of_the_newest_is_served_at_once() -> None:
    assert Bench().start().tell(e.PullAsked(7, None)) == [e.ServePull(7, 0)]


def test_pull_of_a_later_version_waits_for_it() -> None:
    bench = Bench().start(91)
    assert bench.tell(e.PullAsked(7, 1)) == []
    bench.prepare(91)
    bench.apply()
    assert e.ServePull(7, 1) in bench.effects


def test_pull_before_the_first_weights_waits_for_version_0() -> None:
    bench = Bench()
    assert bench.tell(e.PullAsked(7, None)) == []
    bench.start()
    assert bench.all(e.ServePull) == [e.ServePull(7, 0)]


def test_caller_that_has_gone_is_not_served() -> None:
    bench = Bench().start(91)
    bench.tell(e.PullAsked(7, 1))
    bench.tell(e.PullGone(7))
    bench.prepare(91)
    bench.apply()
    assert not bench.all(e.ServePull)


def test_version_no_longer_encoded_is_refused() -> None:
    bench = Bench().start(91, 92)
    for step, counter in enumerate((91, 92)):
        bench.expect(counter, step=step)
        bench.prepare(counter, step=step)
        bench.apply(step)
    assert bench.all(e.RetireVersions)[-1] == e.RetireVersions(1)
    assert bench.tell(e.PullAsked(7, 1)) == [e.ServePull(7, 1)]
    refused = bench.tell(e.PullAsked(8, 0))[0]
    assert isinstance(refused, e.RefusePull)
    assert isinstance(refused.error, VersionGone)


def test_newest_is_served_while_the_next_is_being_applied() -> None:
    bench = Bench().start(91)
    bench.prepare(91)
    bench.commit()
    assert bench.tell(e.PullAsked(7, None)) == [e.ServePull(7, 0)]


def test_digest_waits_for_the_end_of_the_step() -> None:
    """Within a step the moments are ahead of the weights."""
    bench = Bench().start(91)
    bench.prepare(91)
    bench.commit()
    assert bench.tell(e.DigestAsked(7)) == []
    bench.tell(e.DirectionsReady(0, ()))
    bench.tell(e.WeightsReady(0, ()))
    assert bench.all(e.ComputeDigest) == [e.ComputeDigest(7, 1)]


def test_digest_between_steps_is_taken_at_once() -> None:
    assert Bench().start().tell(e.DigestAsked(7)) == [e.ComputeDigest(7, 0)]


def test_a_skip_counts_where_the_job_says_so() -> None:
    bench = Bench(counts_skips=True).start(91)
    assert e.SkipStep(0, counts=True) in bench.commit(is_skip=True, digest="")
